"""The page in Chromium in front of `moeflux serve demo`, as a user has it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from page import SECONDS, Page
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser

ANSWER = ".message.assistant:last-child > .text"
NOTE = ".message.assistant:last-child .note"
QUESTION = "Write a function that reads the lines of a file."
WATCH = """
    window.lengths = [];
    window.mostLengths = 0;
    window.pictures = new Set();
    const messages = document.getElementById('messages');
    const map = document.getElementById('map');
    new MutationObserver(() => {
        const answer = messages.querySelector('.message.assistant:last-child > .text');
        const length = answer?.textContent.length ?? 0;
        if (length < window.lengths.at(-1)) window.lengths = [];
        if (length !== window.lengths.at(-1)) window.lengths.push(length);
        window.mostLengths = Math.max(window.mostLengths, window.lengths.length);
        if (!document.getElementById('stop').hidden) window.pictures.add(map.toDataURL());
    }).observe(document.body, { subtree: true, childList: true, characterData: true,
        attributeFilter: ['data-version'] });
"""


@contextmanager
def demo_server(*arguments: str) -> Iterator[str]:
    """The program on a free port; its address, once the model is loaded."""
    command = [sys.executable, "-m", "moeflux.cli", "serve", "demo", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines: list[str] = []
        ready = threading.Event()

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line)
                if "API key" in line:
                    ready.set()
            ready.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert ready.wait(SECONDS)
            found = re.search(r"http://\S+:\d+", "".join(lines))
            assert found is not None, lines
            yield found[0]
        finally:
            process.terminate()
            process.wait(SECONDS)
            reader.join()


def memory_for_some_experts() -> tuple[str, ...]:
    """Options with a cap that leaves room for about 100 of the demo model's 256 experts."""
    command = [sys.executable, "-m", "moeflux.cli", "serve", "demo", "--prefix-memory", "0"]
    refused = subprocess.run(
        [*command, "--memory", "50MB"], capture_output=True, text=True, check=False, timeout=SECONDS
    )
    found = re.search(r"is below the (\d+) MB", refused.stderr)
    assert found is not None, refused.stderr
    return "--prefix-memory", "0", "--memory", f"{int(found[1]) + 5}MB"


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts the program with arguments; its address. It ends after the page is closed."""
    with ExitStack() as servers:
        yield lambda *arguments: servers.enter_context(demo_server(*arguments))


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "streamed"])
def test_a_message_is_answered_and_the_live_view_follows(
    serve: Callable[..., str], browse: Callable[..., Page], is_whole: bool
) -> None:
    arguments = () if is_whole else memory_for_some_experts()
    page = browse(serve(*arguments)).ready()
    assert page.text("#model") == "demo"
    page.until_text("#experts-note", "0 of 256 in memory")
    empty = page.map_pixels()
    page.find("#options-toggle").click()
    page.find("#temperature").send_keys("0")
    page.run(WATCH)
    page.send(QUESTION)
    page.until_answered()
    assert not page.is_shown(".error")
    assert re.match(r"\d+ tokens · [\d.]+ tok/s · first after .* · read .* · hit", page.text(NOTE))
    page.until(lambda: page.text("#state") == "idle")
    page.until_text("#foot", "1 answer so far")
    page.until(lambda: page.map_pixels() != empty, "another map")
    page.until(lambda: page.map_colours() > 8, "experts of different heat")
    numbers = [int(number) for number in re.findall(r"\d+", page.text("#experts-note"))]
    if is_whole:
        assert 0 < numbers[0] <= 256
    else:
        n_resident, _, n_slots = numbers
        assert 0 < n_resident <= n_slots < 256
    assert page.text("#read-note") != "0 B so far"
    page.keep_screenshot(f"demo-{'whole' if is_whole else 'streamed'}")
    first = page.text(ANSWER)
    page.find(".again").click()
    page.until(lambda: page.is_shown("#stop") or page.text("#foot").find("2 answers") >= 0)
    page.until_answered()
    assert page.text(ANSWER) == first


def test_text_streams_in_and_the_heatmap_changes_while_an_answer_is_made(
    serve: Callable[..., str], browse: Callable[..., Page]
) -> None:
    page = browse(serve("--threads", "1")).ready()
    page.run(WATCH)
    seen = "return [window.pictures.size > 1, window.mostLengths > 3]"
    # A busy machine may show an answer at once, so that answers follow until one was seen to grow.
    for _ in range(20):
        page.send(QUESTION)
        page.until_answered()
        if page.run(seen) == [True, True]:
            break
    assert page.run(seen) == [True, True]


def test_the_programs_own_key_is_asked_for(
    serve: Callable[..., str], browse: Callable[..., Page]
) -> None:
    page = browse(serve("--api-key", "a-long-key"))
    page.expected_errors = ("401",)
    page.until(lambda: page.is_shown("#key-dialog"))
    page.find("#key").send_keys("a-long-key", Keys.ENTER)
    page.ready()
    page.send("def f(x):")
    page.until_answered()
    assert page.text(ANSWER) != ""
