"""Write chat.json: what transformers renders for tests/text/conversations.py. Needs transformers.

Each entry is the text, or null where the template refuses the conversation.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import jinja2
import transformers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from text.conversations import CONVERSATIONS, TEMPLATES, Conversation  # noqa: E402
from text.tokenizer_folders import byte_level, write_folder  # noqa: E402


def rendered(
    tokenizer: transformers.PreTrainedTokenizerFast, conversation: Conversation
) -> str | None:
    """The text, or None if the template raises."""
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in conversation.messages],
            tools=conversation.tools,
            add_generation_prompt=conversation.add_generation_prompt,
            tokenize=False,
            **conversation.variables,
        )
    except (jinja2.TemplateError, TypeError):
        return None
    assert isinstance(text, str)
    return text


def main() -> None:
    goldens: dict[str, dict[str, str | None]] = {}
    for template in TEMPLATES:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), byte_level(), template=template)
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        goldens[template] = {
            name: rendered(tokenizer, conversation) for name, conversation in CONVERSATIONS.items()
        }
    path = HERE / "chat.json"
    path.write_text(json.dumps(goldens, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
