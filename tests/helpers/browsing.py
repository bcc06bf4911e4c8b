"""A headless Chromium for tests of pages, and what they ask of it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here"),
]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser with a profile folder of its own."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()


def resize(browser: Any, width: int) -> None:
    """A window of Chromium cannot be as narrow as a telephone; an emulated screen can."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def wait(browser: Any, condition: str) -> None:
    """Until a JavaScript expression holds."""
    from selenium.webdriver.support.ui import WebDriverWait

    ask = f"return Boolean({condition})"
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(ask), message=condition)


def visit(browser: Any, index: str, name: str, width: int = 1280, place: str = "") -> None:
    """A page of the report whose overview is at `index`; `place` is the end of its address."""
    resize(browser, width)
    browser.get("about:blank")
    browser.get(index.replace("index.html", f"{name}.html") + place)


def unfold(browser: Any) -> None:
    """Opens all that is folded, and draws all charts."""
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    browser.execute_script(
        "for (const e of ['beforeprint', 'afterprint']) window.dispatchEvent(new Event(e))"
    )


def show(browser: Any, page: str, width: int = 1280, place: str = "") -> None:
    """The page on latents, once one is there."""
    visit(browser, page, "latents", width, place)
    wait(browser, "document.querySelector('.latent h3')")


def errors(browser: Any) -> list[str]:
    return [line["message"] for line in browser.get_log("browser")]


def texts(browser: Any, selector: str) -> list[str]:
    code = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent.trim())"
    found: list[str] = browser.execute_script(code, selector)
    return found
