// The page: joins the conversation, the live view, the options and the key.

import { Conversation } from "./conversation.js";
import { LiveView } from "./live.js";

const find = (id) => document.getElementById(id);
const NEAR_END = 80;

/** The API key, asked for when the server refuses requests without it. */
class Key {
  #entered = null;
  #waiting = null;

  constructor() {
    this.value = sessionStorage.getItem("moeflux key") ?? "";
    find("key-form").addEventListener("submit", (event) => this.#enter(event));
    find("key-dialog").addEventListener("cancel", (event) => event.preventDefault());
  }

  /** Ask for another key, once for all who want it; true when there is one. */
  async askAgain(reason) {
    if (this.#waiting === null) {
      find("key-reason").textContent = this.value
        ? `The server says: ${reason}.`
        : "This server wants a key. It is kept until this tab is closed.";
      find("key-dialog").showModal();
      this.#waiting = new Promise((resolve) => (this.#entered = resolve));
    }
    return this.#waiting;
  }

  #enter(event) {
    event.preventDefault();
    this.value = find("key").value.trim();
    sessionStorage.setItem("moeflux key", this.value);
    find("key").value = "";
    find("key-dialog").close();
    this.#waiting = null;
    this.#entered(true);
  }
}

/** What the options say, as fields of a request. */
function options() {
  const fields = {};
  const [temperature, maxTokens] = [find("temperature"), find("max-tokens")];
  if (temperature.value && temperature.checkValidity()) fields.temperature = Number(temperature.value);
  if (maxTokens.value && maxTokens.checkValidity()) fields.max_tokens = Number(maxTokens.value);
  return fields;
}

function keepOptions() {
  for (const id of ["system", "temperature", "max-tokens"]) {
    const field = find(id);
    field.value = sessionStorage.getItem(`moeflux ${id}`) ?? "";
    field.addEventListener("input", () => sessionStorage.setItem(`moeflux ${id}`, field.value));
  }
}

function grow(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function isNearEnd() {
  const scroll = find("scroll");
  return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_END;
}

function goToEnd() {
  find("scroll").scrollTop = find("scroll").scrollHeight;
}

function connectToggle(button, panel, onOpen = () => undefined) {
  button.addEventListener("click", () => {
    const isOpen = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(isOpen));
    panel.classList.toggle("open", isOpen);
    if (panel.id === "options") panel.hidden = !isOpen;
    onOpen(isOpen);
  });
}

function start() {
  const key = new Key();
  let model = "";
  let follows = true;
  const refuseKey = (reason) => key.askAgain(reason);

  const live = new LiveView({
    key: () => key.value,
    refuseKey,
    onModel: (found) => {
      if (found.model === model) return;
      model = found.model;
      find("model").textContent = model;
      find("empty-model").textContent = model;
      document.title = `${model} · moeflux`;
      find("prompt").placeholder = "Message";
      find("send").disabled = false;
    },
  });

  const conversation = new Conversation(find("messages"), {
    request: () => ({ model, ...options() }),
    systemPrompt: () => find("system").value.trim(),
    key: () => key.value,
    refuseKey,
    onChange: () => {
      const isAnswering = conversation.isAnswering;
      find("send").hidden = isAnswering;
      find("stop").hidden = !isAnswering;
      find("empty").hidden = !conversation.isEmpty;
      find("messages").setAttribute("aria-busy", String(isAnswering));
      live.busy = isAnswering;
      if (follows) goToEnd();
    },
  });

  const prompt = find("prompt");
  const send = () => {
    const text = prompt.value.trim();
    if (!text || conversation.isAnswering || !model) return;
    prompt.value = "";
    grow(prompt);
    follows = true;
    conversation.send(text);
  };
  find("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  prompt.addEventListener("input", () => grow(prompt));
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && conversation.isAnswering) conversation.stop();
  });
  find("stop").addEventListener("click", () => {
    conversation.stop();
    prompt.focus();
  });
  find("new-chat").addEventListener("click", () => {
    conversation.clear();
    prompt.focus();
  });

  find("scroll").addEventListener("scroll", () => {
    follows = isNearEnd();
    find("to-end").hidden = follows;
  });
  // Options, a keyboard or a turned phone take room away.
  new ResizeObserver(() => follows && goToEnd()).observe(find("scroll"));
  find("messages").addEventListener("grown", () => follows && goToEnd());
  find("to-end").addEventListener("click", goToEnd);
  connectToggle(find("options-toggle"), find("options"));
  connectToggle(find("live-toggle"), find("live"), () => live.map.draw());
  keepOptions();
  live.look();
  if (matchMedia("(pointer: fine)").matches) prompt.focus();
}

start();
