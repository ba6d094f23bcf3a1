"""Debian's Chromium, driven by playwright, with no way out of the machine; its pictures stay in tests/browser/out/."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is shown in a browser is no part of the quick suite."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(scope="module")  # playwright keeps an event loop running for as long as it is open
def browser() -> Iterator[Any]:
    """A headless Chromium; without one, or without playwright, the test is skipped and says what to install."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install 'steerlens[dev]'")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where screenshots are kept, for people to look at; git ignores it."""
    folder = Path(__file__).parent / "browser" / "out"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """visit(file or address, width=, dark=): the loaded page. At the end: nothing was asked of anyone else, nothing went wrong.

    Of a page that a server gives, its warnings are not ours, and its own addresses are no one else's.
    """
    contexts: list[Any] = []
    asked: list[str] = []
    wrong: list[str] = []

    def load(where: Path | str, *, width: int = 1200, dark: bool = False, scripts: bool = True) -> Any:
        address = where if isinstance(where, str) else where.as_uri()
        server = "://".join(urlsplit(address)[:2])
        allowed = ("data:", "blob:", "file:" if isinstance(where, Path) else f"{server}/")
        kinds = ("error",) if isinstance(where, str) else ("error", "warning")

        def route(handler: Any) -> None:
            if handler.request.url.startswith(allowed):
                handler.continue_()
            else:
                asked.append(handler.request.url)
                handler.abort()

        def listen(socket: Any) -> None:  # routes don't see these
            if not socket.url.startswith(f"{server.replace('http', 'ws', 1)}/"):
                asked.append(socket.url)

        scheme = "dark" if dark else "light"
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        context.route("**/*", route)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in kinds else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("websocket", listen)
        page.goto(address)
        return page

    yield load
    for context in contexts:
        context.close()
    assert asked == []
    assert wrong == []
