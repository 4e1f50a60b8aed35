"""The report's page in a real browser, on a phone and on a desk, light and dark."""

import pytest

from bcgan.report import compare
from tests.browser import DESK, PHONE, check

A4 = 794  # pixels


@pytest.fixture
def page_file(report_in_full):
    return report_in_full / "report.html"


@pytest.mark.parametrize(("width", "colours"), [(PHONE, "light"), (DESK, "dark")])
def test_the_page_opens_whole_and_readable(opened, page_file, width, colours):
    page = opened(page_file.as_uri(), width, colours)
    assert "bcgan report" in page.title()
    assert page.locator("figure img").count() > 20
    for closed in page.locator("details").all():
        closed.evaluate("one => one.open = true")
    check(page, width)


def test_on_a_phone_a_broad_figure_is_moved_rather_than_shrunk(opened, page_file):
    page = opened(page_file.as_uri(), PHONE)
    assert page.locator("#fig04_gan img").evaluate("one => one.clientWidth") > 600  # ten inches
    assert page.locator("#roc img").evaluate("one => one.clientWidth") < PHONE


def test_it_prints_without_cutting_a_figure(opened, page_file):
    page = opened(page_file.as_uri(), A4)
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= A4
    assert page.locator("details table").first.is_visible()
    assert page.locator("figure").first.evaluate("one => getComputedStyle(one).breakInside") == "avoid"


def test_reports_side_by_side_open_readable(opened, page_file, tmp_path):
    page = compare.render([str(page_file.with_name("results.json"))] * 2, tmp_path)
    check(opened(page.as_uri(), PHONE), PHONE)
