"""The live view in Chromium: numbers, the heatmap of small and large models, sizes and colours."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from page import Page
from scripted_server import ScriptedServer

pytestmark = pytest.mark.browser

Browse = Callable[..., Page]


def busy_cells(n_experts: int, seed: int) -> bytes:
    """A third in memory, a few being read, some of both hot."""
    choice = random.Random(seed)
    presence = choice.choices((0, 1, 2), (66, 33, 1), k=n_experts)
    heats = [min(63, int(choice.expovariate(0.12))) for _ in range(n_experts)]
    return bytes(where << 6 | heat for where, heat in zip(presence, heats, strict=True))


def test_numbers_are_shown_as_people_read_them(server: ScriptedServer, browse: Browse) -> None:
    server.view.n_active = 2
    page = browse(server.url).ready()
    assert page.text("#model") == "Qwen3.5-397B-A17B-4bit"
    assert page.text("#state") == "2 active"
    tiles = ("#speed", "#read", "#read-unit", "#hits", "#memory")
    assert [page.text(tile) for tile in tiles] == ["8.25", "6.24", "GB/s", "83.4", "47.9"]
    assert page.text("#read-note") == "1.23 TB so far"
    assert page.text("#memory-note") == "of 48.0 GB allowed"
    assert page.text("#foot") == "metal · context 32,768 · 7 answers so far"


def test_the_heatmap_draws_every_expert_of_a_large_model(
    server: ScriptedServer, browse: Browse
) -> None:
    server.view.show(busy_cells(94 * 512, 1))
    page = browse(server.url).ready()
    page.until(lambda: page.map_colours() > 40)
    assert page.text("#axis-last") == "93"
    assert "room for 6,400" in page.text("#experts-note")
    size = page.run("const m = document.getElementById('map'); return [m.width, m.height]")
    assert size[0] >= 94


def test_the_heatmap_changes_while_it_is_looked_at(server: ScriptedServer, browse: Browse) -> None:
    page = browse(server.url).ready()
    before = page.map_pixels()
    assert page.map_colours() == 1
    server.view.show(busy_cells(94 * 512, 2))
    page.until(lambda: page.map_pixels() != before)
    label = page.find("#map").get_attribute("aria-label")
    assert label is not None
    assert "being read" in label


def test_what_has_just_come_is_marked_until_the_next_look(
    server: ScriptedServer, browse: Browse
) -> None:
    server.view.layer_sizes, server.view.cells = (4, 4), bytes(8)
    page = browse(server.url).ready()
    page.until(lambda: page.map_colours() == 2)  # cells, and the gaps between them
    server.view.show(bytes([1 << 6] + [0] * 7))
    page.until(lambda: page.map_colours() == 3)
    marked = page.map_pixels()
    page.until(lambda: page.map_pixels() != marked)
    settled = page.map_pixels()
    server.view.show(bytes([2 << 6] + [0] * 7))
    page.until(lambda: page.map_pixels() not in (marked, settled))


def test_pointing_at_an_expert_tells_of_it(server: ScriptedServer, browse: Browse) -> None:
    server.view.layer_sizes = (2, 2)
    server.view.show(bytes([0, 0, 0, 1 << 6 | 63]))
    page = browse(server.url).ready()
    page.run("""
        const map = document.getElementById('map');
        const { right, bottom } = map.getBoundingClientRect();
        const at = { clientX: right - 9, clientY: bottom - 9, bubbles: true };
        map.dispatchEvent(new PointerEvent('pointermove', at));
    """)
    assert page.text("#tip") == "layer 1, expert 1: in memory, in 100 % of recent tokens"


def test_a_server_that_is_gone_is_told_and_found_again(
    server: ScriptedServer, browse: Browse
) -> None:
    page = browse(server.url).ready()
    page.expected_errors = ("503",)
    server.is_down = True
    page.until(lambda: page.text("#state") == "not reachable")
    server.is_down = False
    page.until(lambda: page.text("#state") == "idle")


CONTRAST = """
    const luminance = (colour) => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
        const linear = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = parts.map(linear);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (!/, 0\\)$/.test(colour)) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const low = [];
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.checkVisibility() || element.closest('#tip')) continue;
        const [a, b] = [luminance(getComputedStyle(element).color), luminance(ground(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) low.push([element.textContent.trim().slice(0, 30), ratio.toFixed(2)]);
    }
    return low;
"""
WIDER = """
    return [...document.querySelectorAll('body *')].filter((element) => element.checkVisibility()
        && element.getBoundingClientRect().right > innerWidth + 1
        && !element.closest('pre, .table')).map((element) => element.outerHTML.slice(0, 80));
"""
ANSWER = """**Streaming** reads *only* what a token needs:

1. The router picks `top_k` experts.
2. Those not in memory are read first.

```python
for layer in model.layers:
    fetch = experts.begin_fetch(layer, routed)  # a long line for the screen of a phone
```

| memory | tok/s |
|---|---|
| 48 GB | 8.25 |

> Exact, whatever the size of the pool.
"""


@pytest.mark.parametrize("phone", [False, True], ids=["wide", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_fits_and_can_be_read(
    server: ScriptedServer, browse: Browse, dark: bool, phone: bool
) -> None:
    name = f"{'phone' if phone else 'wide'}-{'dark' if dark else 'light'}"
    server.view.show(busy_cells(94 * 512, 3))
    page = browse(server.url, dark=dark, phone=phone).ready()
    page.keep_screenshot(f"{name}-empty")
    server.view.n_active = 1
    page.send("How can a model that is larger than memory run at all?")
    page.until(lambda: server.requests)
    server.read_prompt(512, 2048)
    page.until_text(".progress", "512")
    page.keep_screenshot(f"{name}-prompt")
    server.think("The user asks about streaming. Experts are read from the drive.")
    page.until_text(".reasoning", "streaming")
    server.say(ANSWER[:120])
    page.until_text(".message.assistant > .text", "only")
    page.keep_screenshot(f"{name}-streaming")
    server.say(ANSWER[120:])
    server.finish()
    page.until_answered()
    page.find("#options-toggle").click()
    page.find(".reasoning summary").click()
    assert page.run(CONTRAST) == []
    assert page.run(WIDER) == []
    assert page.run("return document.documentElement.scrollWidth <= innerWidth") is True
    page.keep_screenshot(f"{name}-answered")
    if phone:
        page.find("#live-toggle").click()
        page.until(lambda: page.map_colours() > 40)
        assert page.run(CONTRAST) == []
        assert page.run(WIDER) == []
        page.keep_screenshot(f"{name}-live")


def test_every_control_has_a_name_and_can_be_reached_by_key(
    server: ScriptedServer, browse: Browse
) -> None:
    page = browse(server.url).ready()
    names = page.run("""
        const controls = [...document.querySelectorAll('button, input, textarea, summary, canvas')];
        return controls.filter((control) => !(control.ariaLabel || control.textContent.trim()
            || control.labels?.length)).map((control) => control.id || control.className);
    """)
    assert names == []
    unreachable = page.run("""
        return [...document.querySelectorAll('button, input, textarea')]
            .filter((control) => control.tabIndex < 0).map((control) => control.id);
    """)
    assert unreachable == []
