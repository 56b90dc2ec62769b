// Markdown of answers as DOM nodes. Text only ever becomes text nodes: no markup in it is one.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +(.*))?$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const MAX_DEPTH = 8;

/** Keeps an element showing a text that grows; blocks that did not change keep their nodes. */
export class MarkdownView {
  constructor(element) {
    this.element = element;
    this.blocks = [];
  }

  update(text) {
    const blocks = blocksOf(text.split("\n"), 0);
    blocks.forEach((block, index) => this.#place(block, index));
    while (this.element.childNodes.length > blocks.length) this.element.lastChild.remove();
    this.blocks = blocks;
  }

  #place(block, index) {
    const old = this.blocks[index];
    const node = this.element.childNodes[index];
    if (node && old && old.kind === block.kind && old.source === block.source) return;
    if (node && old && old.kind === "code" && block.kind === "code" && old.language === block.language) {
      node.querySelector("code").textContent = block.code;
    } else if (node) {
      node.replaceWith(blockNode(block));
    } else {
      this.element.append(blockNode(block));
    }
  }
}

/** The blocks of lines, each with its kind and source. */
export function blocksOf(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const block = blockAt(lines, at, depth);
    block.source = lines.slice(at, block.end).join("\n");
    blocks.push(block);
    at = block.end;
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  let match;
  if ((match = FENCE.exec(line))) return codeAt(lines, at, match);
  if ((match = HEADING.exec(line))) {
    return { kind: "heading", level: match[1].length, text: match[2], end: at + 1 };
  }
  if (RULE.test(line)) return { kind: "rule", end: at + 1 };
  if (depth < MAX_DEPTH && QUOTE.test(line)) return quoteAt(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return listAt(lines, at, depth);
  if (isTable(lines, at)) return tableAt(lines, at);
  return paragraphAt(lines, at);
}

function codeAt(lines, at, [, fence, language]) {
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const code = lines.slice(at + 1, end).join("\n");
  return { kind: "code", language: language.trim(), code, end: Math.min(end + 1, lines.length) };
}

function quoteAt(lines, at, depth) {
  const inner = [];
  let match;
  let end = at;
  while (end < lines.length && (match = QUOTE.exec(lines[end]))) {
    inner.push(match[1]);
    end += 1;
  }
  return { kind: "quote", blocks: blocksOf(inner, depth + 1), end };
}

function listAt(lines, at, depth) {
  const [, margin, bullet] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(bullet);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (match && match[1].length <= margin.length + 1) {
      if (/\d/.test(match[2]) !== ordered || RULE.test(lines[end])) break;
      items.push([match[3] ?? ""]);
    } else if (!lines[end].trim()) {
      // A blank line goes on with the list only where an item or an indented line follows.
      const next = lines[end + 1] ?? "";
      const follows = ITEM.exec(next);
      if (!(/^ {2,}\S/.test(next) || (follows && /\d/.test(follows[2]) === ordered))) break;
      items.at(-1).push("");
    } else if (/^ {2,}/.test(lines[end]) || match) {
      items.at(-1).push(lines[end].slice(margin.length).replace(/^ {1,4}/, ""));
    } else if (startsBlock(lines, end) || !lines[end - 1].trim()) {
      break;
    } else {
      items.at(-1).push(lines[end]);
    }
    end += 1;
  }
  return {
    kind: "list",
    ordered,
    start: ordered ? parseInt(bullet, 10) : 1,
    items: items.map((item) => blocksOf(item, depth + 1)),
    end,
  };
}

function isTable(lines, at) {
  return lines[at].includes("|") && DIVIDER.test(lines[at + 1] ?? "") && lines[at + 1].includes("-");
}

function tableAt(lines, at) {
  const rows = [cellsOf(lines[at])];
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) {
    rows.push(cellsOf(lines[end]));
    end += 1;
  }
  return { kind: "table", rows, end };
}

function cellsOf(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function startsBlock(lines, at) {
  const line = lines[at];
  return [FENCE, HEADING, RULE, QUOTE].some((pattern) => pattern.test(line)) || isTable(lines, at);
}

function paragraphAt(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !startsBlock(lines, end) && !ITEM.test(lines[end])) end += 1;
  return { kind: "paragraph", text: lines.slice(at, end).join("\n"), end };
}

function blockNode(block) {
  switch (block.kind) {
    case "code":
      return codeNode(block);
    case "heading":
      // The page's own headings come first in the outline.
      return withInline(document.createElement(`h${Math.min(6, block.level + 2)}`), block.text);
    case "rule":
      return document.createElement("hr");
    case "quote":
      return withBlocks(document.createElement("blockquote"), block.blocks);
    case "list":
      return listNode(block);
    case "table":
      return tableNode(block);
    default:
      return withInline(document.createElement("p"), block.text);
  }
}

function codeNode({ language, code }) {
  const figure = document.createElement("figure");
  figure.className = "code";
  const caption = document.createElement("figcaption");
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "quiet copy";
  copy.textContent = "Copy";
  caption.append(language || "text", copy);
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  const element = document.createElement("code");
  element.textContent = code;
  pre.append(element);
  copy.addEventListener("click", () => copyText(element.textContent, copy));
  figure.append(caption, pre);
  return figure;
}

/** Put a text in the clipboard, and say so on the button. */
export async function copyText(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => (button.textContent = label), 1500);
}

function listNode({ ordered, start, items }) {
  const list = document.createElement(ordered ? "ol" : "ul");
  if (ordered && start !== 1) list.start = start;
  for (const blocks of items) {
    const item = document.createElement("li");
    // An item of one paragraph is written without the paragraph's margins.
    const [first, ...rest] = blocks;
    if (first?.kind === "paragraph") {
      withInline(item, first.text);
      withBlocks(item, rest);
    } else {
      withBlocks(item, blocks);
    }
    list.append(item);
  }
  return list;
}

function tableNode({ rows }) {
  const table = document.createElement("table");
  rows.forEach((cells, index) => {
    const row = table.insertRow();
    for (const cell of cells) row.append(withInline(document.createElement(index ? "td" : "th"), cell));
  });
  const wrap = document.createElement("div");
  wrap.className = "table";
  wrap.append(table);
  return wrap;
}

function withBlocks(element, blocks) {
  for (const block of blocks) element.append(blockNode(block));
  return element;
}

const INLINE = [
  ["code", /^(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/],
  ["strong", /^(\*\*|__)(?=\S)([\s\S]*?\S)\1/],
  ["em", /^([*_])(?=[^\s*_])([\s\S]*?[^\s*_])\1(?![\w*])/],
  ["del", /^(~~)(?=\S)([\s\S]*?\S)\1/],
];
const ESCAPED = /^\\([\\`*_{}[\]()#+\-.!>~|])/;
const MAX_INLINE = 5_000;

/** Append a text with its bold, italic and code spans to an element. */
export function withInline(element, text, depth = 0) {
  // A longer paragraph is no prose, and is shown as it is.
  if (text.length > MAX_INLINE || depth > MAX_DEPTH) {
    element.append(text);
    return element;
  }
  let plain = "";
  let at = 0;
  while (at < text.length) {
    const span = spanAt(text, at);
    if (span === null) {
      plain += text[at];
      at += 1;
      continue;
    }
    if (span.name === "escaped") {
      plain += span.text;
    } else {
      element.append(plain, spanNode(span, depth));
      plain = "";
    }
    at += span.length;
  }
  element.append(plain);
  return element;
}

function spanAt(text, at) {
  if (!"`*_~\\".includes(text[at])) return null;
  const rest = text.slice(at);
  const escaped = ESCAPED.exec(rest);
  if (escaped) return { name: "escaped", text: escaped[1], length: 2 };
  // snake_case is a name, not emphasis.
  if (text[at] === "_" && /\w/.test(text[at - 1] ?? "")) return null;
  for (const [name, pattern] of INLINE) {
    const match = pattern.exec(rest);
    if (match) return { name, text: match[2], length: match[0].length };
  }
  return null;
}

function spanNode({ name, text }, depth) {
  const element = document.createElement(name);
  if (name === "code") element.textContent = text.replace(/^ (.*\S.*) $/, "$1");
  else withInline(element, text, depth + 1);
  return element;
}
