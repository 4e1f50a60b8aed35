"""Pages in a real browser: they load, they fit the screen, and axe and the console report nothing."""

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
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """A function (address, width, colours) that opens a page. At the end it checks that the console has no error and
    that no other server was contacted."""
    complaints, requested, contexts = [], set(), []

    def open_page(address: str, width: int = DESK, colours: str = "light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requested.add(request.url))
        page.goto(address, wait_until="load")
        return page

    yield open_page
    allowed = {context.pages[0].url.partition("#")[0] for context in contexts}
    for context in contexts:
        context.close()
    assert not [text for text in complaints if "status of 422" not in text]  # a refused upload is no error
    assert not [url for url in requested if not url.startswith(("data:", *allowed))]


def check(page, width: int) -> None:
    """Check that every picture is loaded, that nothing is wider than the page and that axe finds no violation."""
    from axe_playwright_python.sync_playwright import Axe

    # not wait_for_function: it uses eval, which the page's policy forbids
    page.evaluate("Promise.all([...document.images].filter(image => !image.hidden).map(image => image.decode()))")
    assert page.evaluate("[...document.images].every(image => image.hidden || image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.alt || image.hidden)")
    violations = Axe().run(page).response["violations"]
    nodes = {violation["id"]: [node["html"][:120] for node in violation["nodes"][:3]] for violation in violations}
    assert not violations, nodes
