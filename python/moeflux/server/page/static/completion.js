// Asks the server and reads what it streams. Knows no elements.

/** A request that was refused or that failed; `status` is that of the response, 0 without one. */
export class RequestError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** GET or POST with the key, if there is one. Raises RequestError unless the response is good. */
export async function ask(path, { key, body, signal } = {}) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const options = { headers, signal, cache: "no-store" };
  if (body !== undefined) {
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    headers["content-type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The server does not answer.", 0);
  }
  if (!response.ok) throw new RequestError(await reasonOf(response), response.status);
  return response;
}

async function reasonOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return text.slice(0, 300) || `The server answered ${response.status}.`;
  }
}

/** The chunks of a chat completion, as they come. */
export async function* streamChat(request, { key, signal }) {
  const response = await ask("/v1/chat/completions", { key, signal, body: { ...request, stream: true } });
  let ended = false;
  for await (const data of eventsOf(response.body)) {
    if (data === "[DONE]") {
      ended = true;
      break;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new RequestError(chunk.error.message, 200);
    yield chunk;
  }
  if (!ended) throw new RequestError("The answer broke off: the server closed the connection.", 0);
}

/** The data of server-sent events. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value).split(/\r?\n\r?\n/);
      rest = events.pop();
      for (const event of events) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The answer broke off: the connection was lost.", 0);
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
