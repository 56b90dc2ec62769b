// One answer on the page: progress, reasoning, text, what it cost, what went wrong.

import { count, percent, plural, seconds, sizeText, digits } from "./format.js";
import { MarkdownView, copyText } from "./markdown.js";

export class AnswerView {
  /** `onAgain` is called when another answer is wanted in place of this one. */
  constructor(onAgain) {
    this.element = document.createElement("article");
    this.element.className = "message assistant";
    this.element.setAttribute("aria-label", "Answer");
    this.content = "";
    this.reasoning = "";
    this.parts = {};
    this.onAgain = onAgain;
    this.frame = 0;
    this.element.append(this.#progress(), this.#reasoning(), this.#content(), this.#footer());
  }

  /** Where the prompt stands; before anything is known without arguments. */
  showProgress(prefill) {
    const { label, bar } = this.parts;
    if (!prefill) {
      label.textContent = "Waiting for the model";
      bar.removeAttribute("value");
      return;
    }
    const stored = prefill.n_cached ? `, ${count(prefill.n_cached)} of them remembered` : "";
    label.textContent = `Reading the prompt: ${count(prefill.n_done)} of ${plural(prefill.n_tokens, "token")}${stored}`;
    bar.max = prefill.n_tokens;
    bar.value = prefill.n_done;
  }

  add({ content = "", reasoning_content = "" }) {
    if (!content && !reasoning_content) return;
    this.parts.progress.hidden = true;
    this.content += content;
    this.reasoning += reasoning_content;
    this.#schedule();
  }

  /** `ending`: { receipt, reason, firstAfter } of an answer, { stopped } or { error }. */
  end(ending) {
    cancelAnimationFrame(this.frame);
    this.#render();
    this.parts.progress.hidden = true;
    this.element.classList.remove("growing");
    const { note, error, actions, copy } = this.parts;
    note.textContent = noteOf(ending, Boolean(this.content || this.reasoning));
    error.textContent = ending.error ?? "";
    error.hidden = !ending.error;
    actions.hidden = false;
    copy.hidden = !this.content;
    this.parts.again.textContent = ending.error ? "Try again" : "Regenerate";
    if (this.content && !this.reasonsOpenedByHand) this.parts.reasoning.open = false;
  }

  /** Only the last answer can be made again. */
  set canBeRemade(value) {
    this.parts.again.hidden = !value;
  }

  #schedule() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => this.#render());
  }

  #render() {
    this.frame = 0;
    const { reasoning, reasons, view, summary } = this.parts;
    if (this.reasoning) {
      if (reasoning.hidden) {
        reasoning.hidden = false;
        reasoning.open = true;
      }
      reasons.update(this.reasoning);
      const isOver = this.content.trim() !== "";
      summary.textContent = isOver ? "Reasoning" : "Reasoning …";
      if (isOver && !this.reasoningIsOver && !this.reasonsOpenedByHand) reasoning.open = false;
      this.reasoningIsOver = isOver;
    }
    view.update(this.content);
    this.element.dispatchEvent(new CustomEvent("grown", { bubbles: true }));
  }

  #progress() {
    const progress = element("div", "progress");
    const label = element("span");
    const bar = document.createElement("progress");
    bar.setAttribute("aria-label", "Prompt");
    progress.append(label, bar);
    Object.assign(this.parts, { progress, label, bar });
    this.element.classList.add("growing");
    this.showProgress();
    return progress;
  }

  #reasoning() {
    const reasoning = document.createElement("details");
    reasoning.className = "reasoning";
    reasoning.hidden = true;
    const summary = element("summary");
    const text = element("div", "text");
    reasoning.append(summary, text);
    summary.addEventListener("click", () => (this.reasonsOpenedByHand = true));
    Object.assign(this.parts, { reasoning, summary, reasons: new MarkdownView(text) });
    return reasoning;
  }

  #content() {
    const content = element("div", "text");
    this.parts.view = new MarkdownView(content);
    return content;
  }

  #footer() {
    const footer = element("footer");
    const error = element("p", "error");
    error.setAttribute("role", "alert");
    error.hidden = true;
    const note = element("span", "note");
    const actions = element("span", "actions");
    const copy = button("Copy", () => copyText(this.content, copy));
    const again = button("Regenerate", () => this.onAgain());
    again.classList.add("again");
    actions.append(copy, again);
    actions.hidden = true;
    footer.append(error, actions, note);
    Object.assign(this.parts, { error, note, actions, copy, again });
    return footer;
  }
}

/** What a user wrote. */
export function questionView(text) {
  const message = element("article", "message user");
  message.setAttribute("aria-label", "You");
  message.append(text);
  return message;
}

function noteOf({ receipt, reason, stopped, firstAfter }, isAnswered) {
  const notes = [];
  if (receipt) {
    const { decode, prefill, generated_tokens: nTokens } = receipt;
    notes.push(plural(nTokens, "token"));
    if (decode.tokens_per_second > 0) notes.push(`${digits(decode.tokens_per_second)} tok/s`);
    if (firstAfter !== undefined) notes.push(`first after ${seconds(firstAfter)}`);
    notes.push(`read ${sizeText(prefill.bytes_read + decode.bytes_read)}`);
    if (decode.n_tokens > 0) notes.push(`hit rate ${percent(decode.hit_rate)} %`);
  }
  if (reason === "length") notes.push("cut at the token limit");
  if (stopped) notes.push("stopped");
  if (receipt && !isAnswered) notes.unshift("empty answer");
  return notes.join(" · ");
}

function element(name, className = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  return made;
}

function button(label, onClick) {
  const made = element("button", "quiet");
  made.type = "button";
  made.textContent = label;
  made.addEventListener("click", onClick);
  return made;
}
