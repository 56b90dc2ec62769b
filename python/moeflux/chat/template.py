"""The chat template of a checkpoint. Knows its tokenizer, and of no model family in particular."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import jinja2

from moeflux.chat.environment import MARK_VARIABLE, environment
from moeflux.chat.marks import ControlTokens, Marks
from moeflux.chat.messages import checked_messages
from moeflux.errors import ChatTemplateError
from moeflux.tokenizer import Tokenizer


class ChatTemplate:
    """Renders messages as the authors of the checkpoint do.

    A message is a mapping with role (system, developer, user, assistant or tool) and content: a
    text, a list of parts {"type": "text", "text": ...}, or None for an assistant that only calls
    tools.
    Other keys (tool_calls, reasoning_content, name, ...) are the template's business; those that
    are None count as missing.

    Only what the template itself writes becomes a control token. The spelling of one in a message,
    tool or variable stays plain text, for the template's own tests on the content too; see `marks`
    for how. The one exception: control tokens that the tokenizer does not mark as special (<think>,
    <tool_call>) count in the content of assistant messages, where the model wrote them.
    """

    def __init__(self, tokenizer: Tokenizer, now: Callable[[], datetime] = datetime.now) -> None:
        """Compile the checkpoint's templates; `now` is the clock of strftime_now.

        Raises ChatTemplateError if there is none, or one that is not a jinja2 template.
        """
        if not tokenizer.chat_templates:
            raise ChatTemplateError("the checkpoint has no chat template")
        self._tokenizer = tokenizer
        self._control = ControlTokens.of(tokenizer)
        jinja = environment(now)
        self._templates: dict[str, jinja2.Template] = {}
        for name, source in tokenizer.chat_templates.items():
            try:
                self._templates[name] = jinja.from_string(source)
            except jinja2.TemplateSyntaxError as error:
                raise ChatTemplateError(
                    f"chat template {name!r}, line {error.lineno}: {error.message}"
                ) from error

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        template: str | None = None,
        **variables: object,
    ) -> str:
        """The text of a conversation.

        tools: JSON schemas of functions. add_generation_prompt: end where the assistant's answer
        begins. template: which of several; else "tool_use" for tools where there is one, else
        "default". variables: the template's own (enable_thinking, ...), made of JSON values.
        Raises ChatTemplateError for messages that are malformed or that the template refuses.
        """
        variables |= {"add_generation_prompt": add_generation_prompt}
        text, marks = self._render(self._choose(template, tools), messages, tools, variables)
        return marks.remove(text)

    def encode(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        template: str | None = None,
        **variables: object,
    ) -> list[int]:
        """Token ids of the text that `render` gives for the same arguments. Raises as it does."""
        variables |= {"add_generation_prompt": add_generation_prompt}
        text, marks = self._render(self._choose(template, tools), messages, tools, variables)
        token_ids: list[int] = []
        for piece, allow_special in marks.runs(text):
            token_ids += self._tokenizer.encode(piece, allow_special=allow_special)
        return token_ids

    def _choose(self, name: str | None, tools: object) -> jinja2.Template:
        if name is None:
            name = "tool_use" if tools is not None and "tool_use" in self._templates else "default"
        if name not in self._templates:
            known = ", ".join(map(repr, self._templates))
            raise ChatTemplateError(f"no chat template {name!r}, the checkpoint has {known}")
        return self._templates[name]

    def _render(
        self,
        template: jinja2.Template,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] | None,
        variables: Mapping[str, object],
    ) -> tuple[str, Marks]:
        """What the template writes, marks included."""
        checked = checked_messages(messages)
        tokenizer = self._tokenizer
        given = [checked, tools, variables, tokenizer.chat_templates, tokenizer.named_tokens]
        marks = Marks.absent_from(given, self._control)
        context = {
            **tokenizer.named_tokens,
            "documents": None,
            **{name: marks.apply(value) for name, value in variables.items()},
            "messages": [marks.apply_to_message(message) for message in checked],
            "tools": marks.apply(tools),
            MARK_VARIABLE: marks.mark,
        }
        try:
            return template.render(context), marks
        except Exception as error:  # a template is a program of others: anything can happen
            raise ChatTemplateError(f"chat template: {error}") from error
