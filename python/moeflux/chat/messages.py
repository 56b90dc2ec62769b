"""Checks chat messages before a template sees them. Knows roles and content, no template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moeflux.errors import ChatTemplateError

# Templates write the role between the delimiters of a control token, so only these may pass.
ROLES = ("system", "developer", "user", "assistant", "tool")


# The name that templates read, and those that programs and other templates have for it.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def checked_messages(messages: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The messages as templates expect them.

    Content is one text, and missing where an assistant has none; so is every other key that is
    None. Reasoning is found under reasoning_content and thinking, whatever its name was.

    Raises ChatTemplateError, naming the message, for no message, an unknown role, content that is
    missing or not text.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise ChatTemplateError(f"wanted a list of messages, got {type(messages).__name__}")
    if not messages:
        raise ChatTemplateError("wanted at least one message, got none")
    return [_checked(message, f"message {index}") for index, message in enumerate(messages)]


def _checked(message: object, name: str) -> dict[str, object]:
    if not isinstance(message, Mapping):
        raise ChatTemplateError(f"{name}: wanted role and content, got {type(message).__name__}")
    role = message.get("role")
    if role not in ROLES:
        raise ChatTemplateError(f"{name}: role must be one of {', '.join(ROLES)}, got {role!r}")
    checked = {key: value for key, value in message.items() if value is not None}
    reasoning = next((checked[key] for key in _REASONING if key in checked), None)
    if reasoning is not None:
        checked = {"thinking": reasoning, **checked, "reasoning_content": reasoning}
    content = checked.get("content")
    if content is None:
        if role != "assistant":
            raise ChatTemplateError(f"{name}: a {role} message must have content")
    elif not isinstance(content, Sequence):
        raise ChatTemplateError(
            f"{name}: content must be a text or a list of parts, got {type(content).__name__}"
        )
    elif not isinstance(content, str):
        checked["content"] = "".join(_text_of(part, name) for part in content)
    return checked


def _text_of(part: object, name: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        text = part.get("text")
        if isinstance(text, str):
            return text
    kind = part.get("type") if isinstance(part, Mapping) else part
    raise ChatTemplateError(f"{name}: content parts must be of type text with a text, got {kind!r}")
