"""The pages kept in reports/, rendered without images of patients, in a real browser: they pass as fresh ones do."""

from pathlib import Path

import pytest

from tests.browser import DESK, PHONE, check

PAGES = sorted((Path(__file__).parents[1] / "reports").glob("*/report.html"))


def test_there_are_pages():
    assert PAGES


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parent.name)
def test_a_kept_page_opens_whole_and_readable(opened, path, width):
    page = opened(path.as_uri(), width)
    for closed in page.locator("details").all():
        closed.evaluate("one => one.open = true")
    check(page, width)
