// Layers x experts on a canvas: one column per layer, one row per expert.

import { digits } from "./format.js";

const PRESENCE = { absent: 0, resident: 1, reading: 2 };
const HEAT_LEVELS = 63;
const SMALLEST_GAP_CELL = 5;

export class Heatmap {
  constructor(canvas, tip) {
    Object.assign(this, { canvas, tip, sizes: [], layers: [], cells: null });
    this.image = document.createElement("canvas");
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#recolour());
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", () => (tip.hidden = true));
    this.#colour();
  }

  /** `layers` are their indices in the model, `sizes` their numbers of experts, `cells` a byte each. */
  update(layers, sizes, cells) {
    const isSame = this.cells?.length === cells.length && this.sizes.length === sizes.length;
    this.before = isSame ? this.cells : null;
    Object.assign(this, { layers, sizes, cells });
    this.draw();
  }

  /** Nothing has changed since the last update: what had just come is no news any more. */
  settle() {
    if (!this.before) return;
    this.before = null;
    this.draw();
  }

  draw() {
    if (!this.cells?.length) return;
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.parentElement.getBoundingClientRect();
    const width = Math.max(1, Math.round(box.width * ratio));
    const height = Math.max(1, Math.round(box.height * ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      Object.assign(this.canvas, { width, height });
    }
    this.#scale();
    this.#paint();
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, width, height);
    const [cell, row] = [width / this.image.width, height / this.image.height];
    if (Math.min(cell, row) >= SMALLEST_GAP_CELL * ratio) this.#drawCells(context, cell, row, ratio);
    else context.drawImage(this.image, 0, 0, width, height);
  }

  /** A pixel per expert. */
  #paint() {
    const [n, rows] = [this.sizes.length, Math.max(...this.sizes)];
    if (this.image.width !== n || this.image.height !== rows) Object.assign(this.image, { width: n, height: rows });
    const context = this.image.getContext("2d");
    const picture = context.createImageData(n, rows);
    const pixels = new Uint32Array(picture.data.buffer);
    let at = 0;
    for (let layer = 0; layer < n; layer += 1) {
      for (let expert = 0; expert < this.sizes[layer]; expert += 1, at += 1) {
        const cell = this.cells[at];
        const hasCome = this.before && this.before[at] >> 6 !== PRESENCE.resident && cell >> 6 === PRESENCE.resident;
        pixels[expert * n + layer] = hasCome ? this.arrived : this.palette[cell];
      }
    }
    context.putImageData(picture, 0, 0);
    this.pixels = pixels;
  }

  /** Large cells have gaps between them. */
  #drawCells(context, width, height, ratio) {
    const gap = Math.max(1, Math.round(ratio));
    const n = this.sizes.length;
    for (let layer = 0; layer < n; layer += 1) {
      const [left, right] = [Math.round(layer * width), Math.round((layer + 1) * width)];
      for (let expert = 0; expert < this.sizes[layer]; expert += 1) {
        const [top, bottom] = [Math.round(expert * height), Math.round((expert + 1) * height)];
        context.fillStyle = css(this.pixels[expert * n + layer]);
        context.fillRect(left, top, right - left - gap, bottom - top - gap);
      }
    }
  }

  #recolour() {
    this.#colour();
    this.draw();
  }

  /** The colours of the style sheet. */
  #colour() {
    this.colours = ["absent", "cold", "warm", "hot", "reading"].map(colourOf);
    this.arrived = packed(colourOf("arrived"));
  }

  /** A colour for every value of a cell; the hottest expert has the hottest colour. */
  #scale() {
    const [absent, cold, warm, hot, reading] = this.colours;
    const most = this.cells.reduce((largest, cell) => Math.max(largest, cell & HEAT_LEVELS), 1);
    this.palette = new Uint32Array(256);
    for (let heat = 0; heat <= most; heat += 1) {
      const share = (heat / most) ** 1.6;
      const ramp = share < 0.5 ? mix(cold, warm, share * 2) : mix(warm, hot, share * 2 - 1);
      this.palette[heat | (PRESENCE.absent << 6)] = packed(mix(absent, warm, share * 0.3));
      this.palette[heat | (PRESENCE.resident << 6)] = packed(ramp);
      this.palette[heat | (PRESENCE.reading << 6)] = packed(reading);
    }
  }

  #point(event) {
    if (!this.cells) return;
    const box = this.canvas.getBoundingClientRect();
    const layer = Math.floor(((event.clientX - box.left) / box.width) * this.sizes.length);
    const expert = Math.floor(((event.clientY - box.top) / box.height) * Math.max(...this.sizes));
    this.tip.hidden = !(expert >= 0 && expert < this.sizes[layer]);
    if (this.tip.hidden) return;
    const at = this.sizes.slice(0, layer).reduce((sum, size) => sum + size, 0) + expert;
    const where = ["on disk", "in memory", "being read"][this.cells[at] >> 6];
    const share = ((this.cells[at] & HEAT_LEVELS) / HEAT_LEVELS) ** 2;
    this.tip.textContent = `layer ${this.layers[layer]}, expert ${expert}: ${where}, in ${digits(share * 100)} % of recent tokens`;
    this.tip.style.left = `${Math.min(event.clientX - box.left, box.width - this.tip.offsetWidth)}px`;
    this.tip.style.top = `${event.clientY - box.top + 18}px`;
  }
}

/** [red, green, blue] of a colour #rrggbb of the style sheet. */
function colourOf(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(`--map-${name}`).trim();
  return [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
}

function mix(from, to, share) {
  return from.map((value, index) => value + (to[index] - value) * share);
}

/** As image data has it on a little-endian machine, which all are that run browsers. */
function packed([red, green, blue]) {
  return ((255 << 24) | (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red)) >>> 0;
}

function css(pixel) {
  return `rgb(${pixel & 255} ${(pixel >> 8) & 255} ${(pixel >> 16) & 255})`;
}
