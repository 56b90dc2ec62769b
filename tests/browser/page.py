"""The page as a test drives it: what it says, what it draws, what is wrong with it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any, TypeVar

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

SECONDS = 60
"""That anything may take on a busy machine."""
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--window-size=1440,900",
)

Found = TypeVar("Found")


class Browsers:
    """The system's Chromium, headless; one for each way to look at a page."""

    def __init__(self) -> None:
        self._drivers: dict[tuple[bool, bool], webdriver.Chrome] = {}

    def open(
        self, url: str, folder: Path | None, *, dark: bool = False, phone: bool = False
    ) -> Page:
        """A page in a tab of its own. `folder`: where screenshots are kept, if they are."""
        if (dark, phone) not in self._drivers:
            self._drivers[dark, phone] = _start()
        driver = self._drivers[dark, phone]
        driver.switch_to.new_window("tab")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        if phone:
            size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(url)
        return Page(driver, folder)

    def close(self) -> None:
        """Quit all."""
        for driver in self._drivers.values():
            driver.quit()


def _start() -> webdriver.Chrome:
    chromium, driver_path = which("chromium") or which("google-chrome"), which("chromedriver")
    assert chromium, "the tests of the page need chromium"
    assert driver_path, "the tests of the page need chromedriver"
    options = Options()
    options.binary_location = chromium
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver_path))


class Page:
    """One open page."""

    def __init__(self, driver: webdriver.Chrome, folder: Path | None) -> None:
        self.driver, self.folder = driver, folder
        self.expected_errors: tuple[str, ...] = ()
        """Parts of the lines that the console may have."""

    def find(self, selector: str) -> WebElement:
        """The last one."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)[-1]

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        """Of all of the last one, shown or not."""
        return str(self.find(selector).get_property("textContent"))

    def is_shown(self, selector: str) -> bool:
        return self.count(selector) > 0 and self.find(selector).is_displayed()

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that an async function with this body returns in the page."""
        return self.driver.execute_script(
            f"return (async (...given) => {{ {script} }})(...arguments)", *arguments
        )

    def until(self, condition: Callable[[], Found], what: str = "") -> Found:
        """Wait until it is true of the page."""
        wait: WebDriverWait[webdriver.Chrome] = WebDriverWait(self.driver, SECONDS, 0.05)
        return wait.until(lambda _: condition(), what)

    def until_text(self, selector: str, text: str) -> None:
        self.until(
            lambda: self.count(selector) and text in self.text(selector), f"{text!r} in {selector}"
        )

    def ready(self) -> Page:
        """Once it knows the model."""
        self.until(lambda: self.text("#model") != "", "the name of the model")
        return self

    def send(self, text: str) -> None:
        field = self.find("#prompt")
        field.send_keys(text)
        field.send_keys(Keys.ENTER)

    def until_answered(self) -> None:
        self.until(lambda: self.is_shown("#send"), "the end of the answer")

    def map_pixels(self) -> str:
        """What the heatmap shows, to compare."""
        return str(self.run("return document.getElementById('map').toDataURL()"))

    def map_colours(self) -> int:
        """Number of colours in the heatmap."""
        script = """
            const map = document.getElementById('map');
            const data = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;
            return new Set(new Uint32Array(data.buffer)).size;
        """
        return int(self.run(script))

    def keep_screenshot(self, name: str) -> None:
        """A picture for people, where they asked for it."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        (self.folder / f"{name}.png").write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        """Close the tab; no error but those expected may be in its console."""
        entries = self.driver.get_log("browser")
        self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])
        lines = [entry["message"] for entry in entries if entry["level"] == "SEVERE"]
        for line in lines:
            if not any(part in line for part in self.expected_errors):
                raise AssertionError(line)
