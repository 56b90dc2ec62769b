"""Markdown of answers in Chromium: structure of what it knows, and nothing but text of the rest."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from page import Page
from scripted_server import ScriptedServer

pytestmark = pytest.mark.browser

OUTLINE = """
    const { MarkdownView } = await import('/static/markdown.js');
    const outline = (node) => node.nodeType === Node.TEXT_NODE ? node.data
        : [node.localName, ...[...node.childNodes].map(outline)];
"""
RENDER = (
    OUTLINE
    + """
    const element = document.createElement('div');
    const view = new MarkdownView(element);
    for (const text of given[0]) view.update(text);
    return [...element.childNodes].map(outline);
"""
)
HOSTILE = (
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<svg onload=window.hit=1><a href=javascript:window.hit=1>x</a>",
    "[link](javascript:window.hit=1) ![image](http://127.0.0.1:9/x.png)",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "{{7*7}} ${7*7} #{7*7} <%= 7*7 %> {% raw %}",
    "&lt;script&gt; &#60;b&#62; &amp;",
    "</div></article></main><h1>Out</h1>",
    "\u202egnp.exe \u0000\u001b[31m \ufeff",
)


@pytest.fixture
def page(server: ScriptedServer, browse: Callable[..., Page]) -> Page:
    return browse(server.url).ready()


def rendered(page: Page, *texts: str) -> Any:
    """The nodes after updates with texts: a name and children, or text."""
    return page.run(RENDER, texts)


def test_blocks_and_spans_are_what_they_say(page: Page) -> None:
    cases: dict[str, Any] = {
        "One\ntwo\n\nThree": [["p", "One\ntwo"], ["p", "Three"]],
        "# Big\n### Small ###": [["h3", "Big"], ["h5", "Small"]],
        "a **b** _c_ *d* `e*f*` ~~g~~": [
            [
                "p",
                "a ",
                ["strong", "b"],
                " ",
                ["em", "c"],
                " ",
                ["em", "d"],
                " ",
                ["code", "e*f*"],
                " ",
                ["del", "g"],
                "",
            ]
        ],
        "**a *b* c**": [["p", "", ["strong", "a ", ["em", "b"], " c"], ""]],
        "``a ` b``": [["p", "", ["code", "a ` b"], ""]],
        r"\*a\* 2 * 3 * 4 snake_case_name": [["p", "*a* 2 * 3 * 4 snake_case_name"]],
        "- a\n- b\n  - c\n  - d\n- e": [
            ["ul", ["li", "a"], ["li", "b", ["ul", ["li", "c"], ["li", "d"]]], ["li", "e"]]
        ],
        "3. a\n\n4. b\n\nend": [["ol", ["li", "a"], ["li", "b"]], ["p", "end"]],
        "> a\n> - b": [["blockquote", ["p", "a"], ["ul", ["li", "b"]]]],
        "a\n\n---\n\nb": [["p", "a"], ["hr"], ["p", "b"]],
        "| a | b |\n|---|:-:|\n| **1** | 2 |": [
            [
                "div",
                [
                    "table",
                    [
                        "tbody",
                        ["tr", ["th", "a"], ["th", "b"]],
                        ["tr", ["td", "", ["strong", "1"], ""], ["td", "2"]],
                    ],
                ],
            ]
        ],
        "1. a\n   ```py\n   x = 1\n   ```": [
            [
                "ol",
                [
                    "li",
                    "a",
                    [
                        "figure",
                        ["figcaption", "py", ["button", "Copy"]],
                        ["pre", ["code", "x = 1"]],
                    ],
                ],
            ]
        ],
    }
    found = {text: rendered(page, text) for text in cases}
    plain = {text: _without_empty(nodes) for text, nodes in found.items()}
    assert plain == {text: _without_empty(nodes) for text, nodes in cases.items()}


def _without_empty(node: Any) -> Any:
    return [_without_empty(child) for child in node if child] if isinstance(node, list) else node


def test_code_keeps_every_character_and_its_language(page: Page) -> None:
    code = 'def f(a):\n\n    return "<b>" + `a` + "**"  # *x*\n\t- not a list'
    (node,) = rendered(page, f"```python\n{code}\n```")
    assert node == [
        "figure",
        ["figcaption", "python", ["button", "Copy"]],
        ["pre", ["code", code]],
    ]


def test_code_whose_end_has_not_come_is_code_already(page: Page) -> None:
    nodes = rendered(page, "Look:\n```js\nconst a = [1]")
    assert nodes[0] == ["p", "Look:"]
    assert nodes[1][2] == ["pre", ["code", "const a = [1]"]]


FRAMES = ("{}", "**{}**", "- {}", "> {}", "# {}", "| {} | b |\n|---|---|", "```{}\n{}\n```", "`{}`")
OWN = {
    "blockquote",
    "button",
    "code",
    "div",
    "em",
    "figcaption",
    "figure",
    "h3",
    "li",
    "p",
    "pre",
    "strong",
    "table",
    "tbody",
    "th",
    "tr",
    "ul",
}


def test_markup_in_an_answer_is_text(page: Page) -> None:
    script = """
        const { MarkdownView } = await import('/static/markdown.js');
        const element = document.createElement('div');
        document.body.append(element);
        new MarkdownView(element).update(given[0]);
        const all = [...element.querySelectorAll('*')];
        const attributes = all.flatMap((node) => [...node.attributes].map(({ name }) => name));
        const text = element.textContent;
        element.remove();
        return [all.map((node) => node.localName), attributes, text];
    """
    for text in HOSTILE:
        for frame in FRAMES:
            names, attributes, shown = page.run(script, frame.format(text, text))
            assert set(names) <= OWN, (frame, text)
            assert set(attributes) <= {"class", "tabindex", "type"}, (frame, text)
            if frame in ("{}", "`{}`"):
                assert shown == text
    assert page.run("return window.hit ?? null") is None


def test_hostile_text_streams_through_the_page_as_text(page: Page, server: ScriptedServer) -> None:
    text = " ".join(HOSTILE[:5])
    page.send(text)
    page.until(lambda: server.requests)
    server.think(text)
    for start in range(0, len(text), 7):
        server.say(text[start : start + 7])
    server.finish()
    page.until_answered()
    assert page.text(".message.user") == text
    assert page.text(".message.assistant > .text") == text
    assert page.text(".reasoning .text") == text
    assert page.count("#messages :is(script, img, svg, iframe, a)") == 0
    assert page.run("return window.hit ?? null") is None


PIECES = [
    "# ",
    "- ",
    "1. ",
    "  ",
    "> ",
    "```",
    "\n",
    "\n\n",
    "**",
    "*",
    "_",
    "`",
    "|",
    "---",
    "~~",
    "a",
    "b c",
    "\\",
    "|-|-|\n",
    "<b>",
    "é",
    "🙂",
]


def test_a_text_that_grew_is_what_it_is_at_once(page: Page) -> None:
    choice = random.Random(7)
    texts = ["".join(choice.choices(PIECES, k=60)) for _ in range(60)]
    grown = [[text[:end] for end in range(0, len(text), 3)] + [text] for text in texts]
    script = (
        OUTLINE
        + """
        const of = (texts) => {
            const element = document.createElement('div');
            const view = new MarkdownView(element);
            for (const text of texts) view.update(text);
            return JSON.stringify([...element.childNodes].map(outline));
        };
        return given[0].filter((texts) => of(texts) !== of([texts.at(-1)]));
    """
    )
    assert page.run(script, grown) == []


def test_words_are_never_lost(page: Page) -> None:
    choice = random.Random(8)
    texts = ["".join(choice.choices([*PIECES[:-8], " w{} "], k=40)) for _ in range(200)]
    numbered = []
    for text in texts:
        parts = text.split("w{}")
        numbered.append("".join(f"{part}w{n}x" for n, part in enumerate(parts[:-1])) + parts[-1])
    script = """
        const { MarkdownView } = await import('/static/markdown.js');
        return given[0].filter((text) => {
            const element = document.createElement('div');
            new MarkdownView(element).update(text);
            const words = (text.match(/w\\d+x/g) ?? []);
            return !words.every((word) => element.textContent.includes(word));
        });
    """
    assert page.run(script, numbered) == []


def test_no_text_takes_long(page: Page) -> None:
    pieces = ["*a ", "`", "- ", "> ", "|", "__a", "[", "* a\n", "  ", "**a *b ", "```\n", "|-|\n"]
    script = """
        const { MarkdownView } = await import('/static/markdown.js');
        return given[0].map((piece) => {
            const started = performance.now();
            const text = piece.repeat(20000 / piece.length) + '- a';
            new MarkdownView(document.createElement('div')).update(text);
            return performance.now() - started;
        });
    """
    milliseconds = page.run(script, pieces)
    assert max(milliseconds) < 3000, dict(zip(pieces, milliseconds, strict=True))
