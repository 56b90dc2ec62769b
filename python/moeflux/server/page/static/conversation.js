// The turns of a conversation, and the answer that is being made. Knows no key and no options.

import { AnswerView, questionView } from "./answer.js";
import { RequestError, streamChat } from "./completion.js";

export class Conversation {
  /**
   * `request` gives a request's other fields, `systemPrompt` a text, `key` the API key; `refuseKey`
   * asks for another key and says whether there is one; `onChange` is called when an answer begins
   * or ends.
   */
  constructor(list, { request, systemPrompt, key, refuseKey, onChange }) {
    Object.assign(this, { list, request, systemPrompt, key, refuseKey, onChange });
    this.turns = [];
    this.controller = null;
  }

  get isAnswering() {
    return this.controller !== null;
  }

  get isEmpty() {
    return this.turns.length === 0;
  }

  async send(text) {
    const view = questionView(text);
    this.list.append(view);
    this.turns.push({ role: "user", view, content: text });
    await this.#answer();
  }

  /** Make the last answer again. */
  async again() {
    if (this.isAnswering || this.turns.at(-1)?.role !== "assistant") return;
    this.turns.pop().view.element.remove();
    await this.#answer();
  }

  stop() {
    this.controller?.abort();
  }

  clear() {
    this.stop();
    this.turns = [];
    this.list.replaceChildren();
    this.onChange();
  }

  async #answer() {
    const messages = this.#messages();
    const view = new AnswerView(() => this.again());
    for (const turn of this.turns) if (turn.role === "assistant") turn.view.canBeRemade = false;
    this.turns.push({ role: "assistant", view });
    this.list.append(view.element);
    const controller = (this.controller = new AbortController());
    this.onChange();
    const ending = await this.#ending(messages, view, controller.signal);
    view.end(ending);
    // After clear() another conversation may have begun.
    if (this.controller === controller) this.controller = null;
    this.onChange();
  }

  async #ending(messages, view, signal) {
    while (true) {
      try {
        return await this.#stream(messages, view, signal);
      } catch (error) {
        if (signal.aborted) return { stopped: true };
        const isRefused = error instanceof RequestError && error.status === 401;
        if (isRefused && (await this.refuseKey(error.message))) continue;
        // A mistake of the page's own: for the console, and not a reason to wait for ever.
        if (!(error instanceof RequestError)) console.error(error);
        return { error: error.message };
      }
    }
  }

  async #stream(messages, view, signal) {
    const started = performance.now();
    const ending = {};
    const request = { ...this.request(), messages: [...this.#system(), ...messages] };
    for await (const chunk of streamChat(request, { key: this.key(), signal })) {
      const { prefill, receipt } = chunk.moeflux ?? {};
      if (prefill) view.showProgress(prefill);
      if (receipt) ending.receipt = receipt;
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      const { content, reasoning_content: reasoning } = choice.delta;
      if (content || reasoning) ending.firstAfter ??= (performance.now() - started) / 1000;
      view.add(choice.delta);
      if (choice.finish_reason) ending.reason = choice.finish_reason;
    }
    return ending;
  }

  #system() {
    const text = this.systemPrompt();
    return text ? [{ role: "system", content: text }] : [];
  }

  /** What was said so far; questions without an answer are one with the next. */
  #messages() {
    const messages = [];
    for (const { role, view, content } of this.turns) {
      const text = role === "user" ? content : view.content;
      if (!text) continue;
      const last = messages.at(-1);
      if (last?.role === role) last.content += `\n\n${text}`;
      else messages.push({ role, content: text });
    }
    return messages;
  }
}
