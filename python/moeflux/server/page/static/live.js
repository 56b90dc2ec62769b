// Asks the server how it is doing and shows it: speed, reads, hits, memory, experts.

import { ask } from "./completion.js";
import { count, digits, percent, plural, size, sizeText } from "./format.js";
import { Heatmap } from "./heatmap.js";

const BUSY_INTERVAL = 250;
const IDLE_INTERVAL = 1500;
const N_SPARKS = 120;

const find = (id) => document.getElementById(id);

export class LiveView {
  /** `refuseKey` asks for another key and says whether there is one. */
  constructor({ key, refuseKey, onModel }) {
    Object.assign(this, { key, refuseKey, onModel });
    this.map = new Heatmap(find("map"), find("tip"));
    this.sparks = { speed: [], read: [] };
    this.seen = null;
    this.timer = 0;
    this.isBusy = false;
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
  }

  /** Look often, from now on, while an answer is made. */
  set busy(value) {
    this.isBusy = value;
    if (value) this.look();
  }

  /** Look once and again later; a page that nobody sees does not look. */
  async look() {
    clearTimeout(this.timer);
    if (this.isLooking) return;
    this.isLooking = true;
    let isActive = false;
    try {
      isActive = await this.#look();
    } finally {
      this.isLooking = false;
      clearTimeout(this.timer);
      const interval = isActive || this.isBusy ? BUSY_INTERVAL : IDLE_INTERVAL;
      if (!document.hidden) this.timer = setTimeout(() => this.look(), interval);
    }
  }

  async #look() {
    let live;
    try {
      const response = await ask(this.seen === null ? "/live" : `/live?seen=${this.seen}`, { key: this.key() });
      live = await response.json();
    } catch (error) {
      this.seen = null;
      if (error.status === 401) return this.refuseKey(error.message);
      this.#state("lost", "not reachable");
      return false;
    }
    this.#show(live);
    return (live.jobs?.n_active ?? 0) > 0;
  }

  #show(live) {
    if (!live.experts) {
      this.seen = null;
      this.#state(live.state, { loading: "loading", failed: "could not load the model" }[live.state] ?? live.state);
      return;
    }
    const { n_active: nActive, n_queued: nQueued } = live.jobs;
    const isActive = nActive > 0;
    const busy = nQueued ? `${nActive} active, ${nQueued} queued` : `${nActive} active`;
    this.#state(live.state, live.state === "ready" ? (isActive ? busy : "idle") : live.state, isActive);
    this.onModel(live);
    this.#speed(live, isActive);
    this.#reads(live.reads);
    this.#memory(live);
    this.#experts(live.experts);
    const notes = [live.device, `context ${count(live.context_size)}`, `${plural(live.jobs.n_finished, "answer")} so far`];
    find("foot").textContent = notes.join(" · ");
  }

  #state(state, text, isActive = false) {
    const element = find("state");
    element.dataset.state = isActive ? "active" : state;
    // The status is read out: only when it changes.
    if (element.textContent !== text) element.textContent = text;
  }

  #speed({ decode, prefill }, isActive) {
    const rate = decode.tokens_per_second;
    find("speed").textContent = rate ? digits(rate) : "–";
    find("speed").classList.toggle("past", !isActive);
    const reading = isActive && prefill.tokens_per_second ? `prompt ${digits(prefill.tokens_per_second)} tok/s` : "";
    find("speed-note").textContent = reading || `${plural(decode.n_tokens, "token")} so far`;
    this.#spark("speed", isActive ? (rate ?? 0) : 0);
    find("live-summary").textContent = isActive && rate ? `${digits(rate)} tok/s` : "live";
  }

  #reads({ bytes, bytes_per_second: rate, hit_rate: all, recent_hit_rate: recent }) {
    const [value, unit] = size(rate ?? 0);
    find("read").textContent = rate === null ? "–" : value;
    find("read-unit").textContent = `${unit}/s`;
    find("read-note").textContent = `${sizeText(bytes)} so far`;
    this.#spark("read", rate ?? 0);
    find("hits").textContent = recent === null ? (all === null ? "–" : percent(all)) : percent(recent);
    find("hits").classList.toggle("past", recent === null);
    find("hits-note").textContent = all === null ? "nothing routed yet" : `${percent(all)} % so far`;
  }

  #memory({ memory }) {
    const [value, unit] = size(memory.resident);
    find("memory").textContent = value;
    find("memory-unit").textContent = unit;
    const note = memory.cap === null ? `peak ${sizeText(memory.peak)}` : `of ${sizeText(memory.cap)} allowed`;
    find("memory-note").textContent = note;
  }

  #experts(experts) {
    const nExperts = experts.layer_sizes.reduce((sum, size) => sum + size, 0);
    const reading = experts.n_reading ? `, ${count(experts.n_reading)} being read` : "";
    const note = `${count(experts.n_resident)} of ${count(nExperts)} in memory${reading}`;
    const room = experts.n_slots < nExperts ? ` · room for ${count(experts.n_slots)}` : "";
    find("experts-note").textContent = note + room;
    find("axis-first").textContent = experts.layers[0] ?? "";
    find("axis-last").textContent = experts.layers.at(-1) ?? "";
    if (experts.cells === null) {
      this.map.settle();
      return;
    }
    this.seen = experts.version;
    find("map").setAttribute("aria-label", `Experts by layer: ${note}`);
    find("map").dataset.version = experts.version;
    const cells = Uint8Array.from(atob(experts.cells), (letter) => letter.charCodeAt(0));
    this.map.update(experts.layers, experts.layer_sizes, cells);
  }

  /** The last values as a line, as high as their largest. */
  #spark(name, value) {
    const values = this.sparks[name];
    values.push(value);
    if (values.length > N_SPARKS) values.shift();
    const top = Math.max(...values) || 1;
    const spark = find(`${name}-spark`);
    spark.setAttribute("viewBox", `0 -1 ${N_SPARKS} 22`);
    const first = N_SPARKS - values.length;
    const points = values.map((each, index) => `${first + index},${(20 * (1 - each / top)).toFixed(1)}`);
    spark.firstElementChild.setAttribute("points", points.join(" "));
  }
}
