// Numbers as people read them.

const UNITS = [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]];

/** [number, unit] of a decimal size: ["3.03", "GB"]. */
export function size(nbytes) {
  for (const [unit, factor] of UNITS) {
    if (nbytes >= factor) return [digits(nbytes / factor), unit];
  }
  return [String(Math.round(nbytes)), "B"];
}

export function sizeText(nbytes) {
  return size(nbytes).join(" ");
}

/** Three digits that count, none for whole numbers beyond them. */
export function digits(value) {
  if (value >= 100) return Math.round(value).toLocaleString("en");
  if (value >= 10) return value.toFixed(1);
  return value.toFixed(2);
}

export function count(value) {
  return value.toLocaleString("en");
}

export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** A share in percent, without rounding up to 100. */
export function percent(share) {
  const value = share * 100;
  return value > 99.9 && value < 100 ? "99.9" : digits(value);
}

export function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${digits(value)} s`;
}
