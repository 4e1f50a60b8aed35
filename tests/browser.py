"""Pages in a real browser: what loads, what fits, what axe and the console say."""

import shutil

import pytest

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE, DESK = 390, 1440  # pixels


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, where one is installed."""
    driver = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    with driver.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def opened(browser):
    """Opens (address, width, colours) and gives the page; at the end nothing may have been complained about, and
    nothing been asked of another server."""
    complaints, asked, contexts = [], set(), []

    def open_page(address: str, width: int = DESK, colours: str = "light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours))
        page = contexts[-1].new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.add(request.url))
        page.goto(address, wait_until="load")
        return page

    yield open_page
    allowed = {context.pages[0].url.partition("#")[0] for context in contexts}
    for context in contexts:
        context.close()
    assert not [text for text in complaints if "status of 422" not in text]  # that is a refusal, not a fault
    assert not [url for url in asked if not url.startswith(("data:", *allowed))]


def check(page, width: int) -> None:
    """Every picture is there, nothing runs over the edge, axe finds nothing."""
    from axe_playwright_python.sync_playwright import Axe

    # not wait_for_function: the page's policy forbids the eval that it looks again by
    page.evaluate("Promise.all([...document.images].filter(one => !one.hidden).map(one => one.decode()))")
    assert page.evaluate("[...document.images].every(one => one.hidden || one.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(one => one.alt || one.hidden)")
    found = Axe().run(page).response["violations"]
    assert not found, [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found]
