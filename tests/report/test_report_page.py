"""The report's page in a real browser, on a phone and on a desk, light and dark."""

import pytest

from bcgan import cli
from tests.browser import DESK, PHONE, check


@pytest.fixture(scope="module")
def page_file(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        with pytest.raises(SystemExit) as stop:
            cli.main(["report", "tiny.yaml", "--out", str(out)])
    assert stop.value.code == 0
    return out / "report.html"


@pytest.mark.parametrize(("width", "colours"), [(PHONE, "light"), (PHONE, "dark"), (DESK, "light"), (DESK, "dark")])
def test_the_page_opens_whole_and_readable(opened, page_file, width, colours):
    page = opened(page_file.as_uri(), width, colours)
    assert "bcgan report" in page.title()
    assert page.locator("figure img").count() > 20
    for closed in page.locator("details").all():
        closed.evaluate("one => one.open = true")
    check(page, width)


def test_it_prints_without_cutting_a_figure(opened, page_file):
    page = opened(page_file.as_uri())
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.locator("figure").first.evaluate("one => getComputedStyle(one).breakInside") == "avoid"
