"""The page in Chromium in front of scripted answers: chat, options, errors, keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from page import Page
from scripted_server import SECONDS, ScriptedServer
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser

ANSWER = ".message.assistant:last-child > .text"
NOTE = ".message.assistant:last-child .note"


@pytest.fixture
def page(server: ScriptedServer, browse: Callable[..., Page]) -> Page:
    return browse(server.url).ready()


def asked(page: Page, server: ScriptedServer, text: str = "Hi") -> None:
    """A message is sent, and the server has it."""
    n_requests = len(server.requests)
    page.send(text)
    page.until(lambda: len(server.requests) > n_requests, "the request")


def answered(page: Page, server: ScriptedServer, question: str, answer: str) -> None:
    asked(page, server, question)
    server.say(answer)
    server.finish()
    page.until_answered()


def test_text_streams_in_as_it_comes(page: Page, server: ScriptedServer) -> None:
    asked(page, server)
    assert page.is_shown("#stop")
    server.say("Once upon")
    page.until_text(ANSWER, "Once upon")
    server.say(" a time")
    page.until_text(ANSWER, "Once upon a time")
    assert page.is_shown("#stop")
    server.finish()
    page.until_answered()
    assert page.text(NOTE) == "128 tokens · 42.5 tok/s · " + page.text(NOTE).split(" · ", 2)[2]
    assert page.text(NOTE).endswith("read 10.5 MB · hit rate 97.5 %")


def test_the_prompts_progress_is_shown_until_text_comes(page: Page, server: ScriptedServer) -> None:
    asked(page, server)
    assert page.is_shown(".progress")
    server.read_prompt(512, 2048, 256)
    page.until_text(".progress", "512 of 2,048 tokens, 256 of them remembered")
    bar = page.find(".progress progress")
    assert (bar.get_property("value"), bar.get_property("max")) == (512, 2048)
    server.say("Text")
    page.until_text(ANSWER, "Text")
    assert not page.is_shown(".progress")
    server.finish()
    page.until_answered()


def test_reasoning_is_open_while_it_comes_and_folds_when_the_answer_begins(
    page: Page, server: ScriptedServer
) -> None:
    asked(page, server)
    server.think("Let me see.")
    page.until_text(".reasoning", "Let me see.")
    assert page.find(".reasoning").get_property("open") is True
    server.say("It is seven.")
    page.until_text(ANSWER, "It is seven.")
    assert page.find(".reasoning").get_property("open") is False
    page.find(".reasoning summary").click()
    server.say(" Or so.")
    server.finish()
    page.until_answered()
    assert page.find(".reasoning").get_property("open") is True
    assert "Let me see." not in page.text(ANSWER)
    answered(page, server, "Again", "Eight.")
    assert server.requests[-1]["messages"][1] == {
        "role": "assistant",
        "content": "It is seven. Or so.",
    }


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop_ends_the_request_and_keeps_what_came(
    page: Page, server: ScriptedServer, how: str
) -> None:
    asked(page, server, "Count")
    server.say("1 2 3")
    page.until_text(ANSWER, "1 2 3")
    if how == "button":
        page.find("#stop").click()
    else:
        page.find("#prompt").send_keys(Keys.ESCAPE)
    page.until_answered()
    assert server.left.wait(SECONDS)
    assert page.text(NOTE) == "stopped"
    answered(page, server, "Go on", "4 5 6")
    assert [message["content"] for message in server.requests[-1]["messages"]] == [
        "Count",
        "1 2 3",
        "Go on",
    ]


def test_a_conversation_is_sent_with_the_options(page: Page, server: ScriptedServer) -> None:
    page.find("#options-toggle").click()
    page.find("#system").send_keys("Be brief.")
    page.find("#temperature").send_keys("0.5")
    page.find("#max-tokens").send_keys("64")
    answered(page, server, "One", "First")
    answered(page, server, "Two", "Second")
    assert server.requests[-1] == {
        "model": "Qwen3.5-397B-A17B-4bit",
        "temperature": 0.5,
        "max_tokens": 64,
        "stream": True,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "First"},
            {"role": "user", "content": "Two"},
        ],
    }


def test_without_options_the_model_decides(page: Page, server: ScriptedServer) -> None:
    answered(page, server, "One", "First")
    assert server.requests[0].keys() == {"model", "messages", "stream"}


def test_regenerate_replaces_the_last_answer(page: Page, server: ScriptedServer) -> None:
    answered(page, server, "One", "First")
    answered(page, server, "Two", "Wrong")
    page.find(".again").click()
    page.until(lambda: len(server.requests) == 3)
    assert server.requests[2]["messages"] == server.requests[1]["messages"]
    server.say("Right")
    server.finish()
    page.until_answered()
    assert page.text("#messages").count("Wrong") == 0
    assert page.text(ANSWER) == "Right"
    assert page.count(".message") == 4
    assert page.count(".again:not([hidden])") == 1


def test_new_chat_forgets_the_conversation(page: Page, server: ScriptedServer) -> None:
    answered(page, server, "One", "First")
    page.find("#new-chat").click()
    assert page.count(".message") == 0
    assert page.is_shown("#empty")
    answered(page, server, "Two", "Second")
    assert server.requests[-1]["messages"] == [{"role": "user", "content": "Two"}]


def test_new_chat_ends_the_answer_under_way(page: Page, server: ScriptedServer) -> None:
    asked(page, server)
    server.say("On and on")
    page.until_text(ANSWER, "On and on")
    page.find("#new-chat").click()
    page.until_answered()
    assert server.left.wait(SECONDS)
    assert page.count(".message") == 0


def test_shift_enter_begins_a_line_and_empty_messages_are_not_sent(
    page: Page, server: ScriptedServer
) -> None:
    page.send("   ")
    page.find("#prompt").clear()
    page.find("#prompt").send_keys("a", Keys.SHIFT, Keys.ENTER, Keys.NULL, "b")
    answered(page, server, "", "Two lines")
    assert [request["messages"] for request in server.requests] == [
        [{"role": "user", "content": "a\nb"}]
    ]


def test_a_refused_request_says_why_and_can_be_tried_again(
    page: Page, server: ScriptedServer
) -> None:
    page.expected_errors = ("429",)
    server.refusal = (429, "all 4 places of the queue are taken")
    asked(page, server, "One")
    page.until_text(".error", "all 4 places of the queue are taken")
    page.keep_screenshot("error")
    server.refusal = None
    assert page.text(".again") == "Try again"
    page.find(".again").click()
    page.until(lambda: len(server.requests) == 2)
    server.say("First")
    server.finish()
    page.until_answered()
    assert server.requests[1]["messages"] == [{"role": "user", "content": "One"}]
    assert not page.is_shown(".error")


def test_an_error_in_the_middle_keeps_the_text(page: Page, server: ScriptedServer) -> None:
    asked(page, server)
    server.say("So far")
    server.fail("layer 12 expert 40: read 0 of 9 bytes")
    page.until_text(".error", "layer 12 expert 40: read 0 of 9 bytes")
    assert page.text(ANSWER) == "So far"


def test_a_stream_that_breaks_off_is_an_error(page: Page, server: ScriptedServer) -> None:
    asked(page, server)
    server.say("So far")
    server.hang_up()
    page.until_text(".error", "broke off")
    assert page.text(ANSWER) == "So far"


def test_the_key_is_asked_for_once_and_kept_for_the_tab(
    server: ScriptedServer, browse: Callable[..., Page]
) -> None:
    server.key = "right-key"
    page = browse(server.url)
    page.expected_errors = ("401",)
    page.until(lambda: page.is_shown("#key-dialog"))
    page.keep_screenshot("key")
    page.find("#key").send_keys("wrong-key", Keys.ENTER)
    page.until_text("#key-reason", "wrong API key")
    page.until(lambda: page.is_shown("#key-dialog"))
    page.find("#key").send_keys("right-key", Keys.ENTER)
    page.ready()
    answered(page, server, "One", "First")
    page.driver.refresh()
    page.ready()
    assert not page.is_shown("#key-dialog")
    assert page.run("return localStorage.length") == 0
    assert page.run("return document.cookie") == ""


def test_the_end_of_an_answer_stays_in_sight_unless_the_user_scrolls_away(
    page: Page, server: ScriptedServer
) -> None:
    distance = """
        const scroll = document.getElementById('scroll');
        return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight;
    """
    asked(page, server)
    server.say("line\n\n" * 60)
    page.until_text(ANSWER, "line")
    page.until(lambda: page.run(distance) < 2)
    page.run("document.getElementById('scroll').scrollTop = 0")
    page.until(lambda: page.is_shown("#to-end"))
    server.say("more\n\n" * 20)
    page.until_text(ANSWER, "more")
    assert page.run(distance) > 1000
    page.find("#to-end").click()
    page.until(lambda: page.run(distance) < 2)
    server.say("and more\n\n" * 20)
    server.finish()
    page.until_answered()
    page.until(lambda: page.run(distance) < 2)
    page.find("#options-toggle").click()
    page.until(lambda: page.is_shown("#system") and page.run(distance) < 2)


def test_a_page_that_nobody_sees_does_not_look(page: Page) -> None:
    page.run("""
        Object.assign(window, { looks: 0, planned: 0, under_way: 0 });
        const { fetch, setTimeout } = window;
        window.fetch = async (...given) => {
            window.looks += 1;
            window.under_way += 1;
            try { return await fetch(...given); } finally { window.under_way -= 1; }
        };
        window.setTimeout = (act, delay) => {
            window.planned += 1;
            return setTimeout(() => { window.planned -= 1; act(); }, delay);
        };
    """)
    page.until(lambda: page.run("return looks > 1 && planned === 1"), "looks at intervals")
    page.run("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    page.until(lambda: page.run("return planned === 0 && under_way === 0"), "no look to come")
    looks = page.run("return looks")
    assert page.run("return [looks, planned, under_way]") == [looks, 0, 0]
    page.run("""
        delete document.hidden;
        document.dispatchEvent(new Event('visibilitychange'));
    """)
    page.until(lambda: page.run("return looks") > looks + 1, "looks at intervals again")


def test_nothing_can_be_sent_before_the_model_is_there(
    server: ScriptedServer, browse: Callable[..., Page]
) -> None:
    server.is_loading = True
    page = browse(server.url)
    page.until(lambda: page.text("#state") == "loading")
    assert page.find("#send").is_enabled() is False
    page.send("Hi")
    server.is_loading = False
    page.ready()
    page.find("#send").click()
    page.until(lambda: server.requests)
    server.finish()
    page.until_answered()
