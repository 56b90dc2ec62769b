"""Output items of the Responses API: whole ones, and the events that build them up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from moeflux.chat import Content, Part, Reasoning, ToolCall
from moeflux.server.answer_stream import Delta, TokenScore
from moeflux.server.openai.shapes import chat_logprobs, new_id
from moeflux.tokenizer import Tokenizer

Event = tuple[str, dict[str, Any]]


def item_fields(part: Part, scores: Iterable[TokenScore], tokenizer: Tokenizer) -> dict[str, Any]:
    """A finished item."""
    item = _begun(part)
    if isinstance(part, ToolCall):
        item["arguments"] = part.arguments
    elif isinstance(part, Reasoning):
        item["content"] = [{"type": "reasoning_text", "text": part.text}]
    else:
        item["content"] = [_text_part(part.text, chat_logprobs(scores, tokenizer))]
    return item | {"status": "completed"}


class ItemWriter:
    """Events for parts as they come; `output` has the items that are finished."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._item: dict[str, Any] | None = None
        """What is being built up."""
        self._text = ""
        self._logprobs: list[dict[str, Any]] = []
        self.output: list[dict[str, Any]] = []

    def write(self, delta: Delta) -> Iterator[Event]:
        """Events of what came."""
        scores = chat_logprobs(delta.scores, self._tokenizer)
        for part in delta.parts:
            if isinstance(part, ToolCall):
                yield from self._call(part)
            else:
                yield from self._add_text(part, scores)
                scores = []

    def close(self) -> Iterator[Event]:
        """Events that finish the item in hand."""
        if self._item is None:
            return
        item, kind = self._item, self._item["type"]
        self._item = None
        place = self._place(item)
        if kind == "reasoning":
            part: dict[str, Any] = {"type": "reasoning_text", "text": self._text}
            yield "response.reasoning_text.done", place | {"text": self._text}
        else:
            part = _text_part(self._text, self._logprobs)
            text = {"text": self._text, "logprobs": self._logprobs}
            yield "response.output_text.done", place | text
        yield "response.content_part.done", place | {"part": part}
        yield from self._finish(item | {"content": [part], "status": "completed"})

    def _call(self, call: ToolCall) -> Iterator[Event]:
        yield from self.close()
        item = _begun(call)
        place = self._place(item)
        del place["content_index"]
        yield self._added(item)
        yield "response.function_call_arguments.delta", place | {"delta": call.arguments}
        whole = {"arguments": call.arguments, "name": call.name}
        yield "response.function_call_arguments.done", place | whole
        yield from self._finish(item | {"arguments": call.arguments, "status": "completed"})

    def _add_text(self, part: Reasoning | Content, scores: list[dict[str, Any]]) -> Iterator[Event]:
        fresh = _begun(part)
        if self._item is None or self._item["type"] != fresh["type"]:
            yield from self.close()
            self._item, self._text, self._logprobs = fresh, "", []
            yield self._added(fresh)
            empty = _text_part("", []) if isinstance(part, Content) else _EMPTY_REASONING
            yield "response.content_part.added", self._place(fresh) | {"part": empty}
        self._text += part.text
        place = self._place(self._item) | {"delta": part.text}
        if isinstance(part, Reasoning):
            yield "response.reasoning_text.delta", place
        else:
            self._logprobs += scores
            yield "response.output_text.delta", place | {"logprobs": scores}

    def _added(self, item: dict[str, Any]) -> Event:
        return "response.output_item.added", {"output_index": len(self.output), "item": item}

    def _finish(self, item: dict[str, Any]) -> Iterator[Event]:
        index = len(self.output)
        self.output.append(item)
        yield "response.output_item.done", {"output_index": index, "item": item}

    def _place(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": len(self.output), "content_index": 0}


_EMPTY_REASONING = {"type": "reasoning_text", "text": ""}


def _begun(part: Part) -> dict[str, Any]:
    """The item of a part before it has any text."""
    progress = {"status": "in_progress"}
    if isinstance(part, ToolCall):
        call = {"call_id": new_id("call"), "name": part.name, "arguments": ""}
        return {"id": new_id("fc"), "type": "function_call"} | call | progress
    if isinstance(part, Reasoning):
        return {"id": new_id("rs"), "type": "reasoning", "summary": [], "content": []} | progress
    return {"id": new_id("msg"), "type": "message", "role": "assistant", "content": []} | progress


def _text_part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
