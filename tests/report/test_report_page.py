"""The report's page in a browser: on a phone and a desktop, light and dark, by mouse and keyboard, without scripts."""

import json
import re

import pandas as pd
import pytest

from bcgan.report import compare
from tests.browser import DESK, PHONE, check

A4 = 794  # pixels
MAX_PRINTED_PAGES = 12
MAX_PAGE_BYTES = 2_500_000


@pytest.fixture
def page_file(report_in_full):
    return report_in_full / "report.html"


@pytest.fixture
def results(page_file):
    return json.loads(page_file.with_name("results.json").read_text())


@pytest.fixture
def page(opened, page_file):
    return opened(page_file.as_uri(), DESK)


def number(page, name):
    return page.locator(f"#explorer-{name}").text_content()


@pytest.mark.parametrize(("width", "colours"), [(PHONE, "light"), (DESK, "dark")])
def test_the_page_is_complete_and_readable(opened, page_file, width, colours):
    page = opened(page_file.as_uri(), width, colours)
    assert "bcgan report" in page.title()
    assert page.locator("figure svg").count() > 20
    for closed in page.locator("details").all():
        closed.evaluate("element => element.open = true")
    check(page, width)


def test_the_first_screen_has_the_finding_the_forest_and_the_cautions(opened, page_file, results):
    for width, height in ((DESK, 900), (PHONE, 844)):
        page = opened(page_file.as_uri(), width)
        page.set_viewport_size({"width": width, "height": height})
        assert results["finding"]["sentence"] in page.locator("p.finding").text_content()
        for part in ("p.finding", "#forest svg"):
            box = page.locator(part).bounding_box()
            assert box["y"] + box["height"] <= height, (width, part)
        assert page.locator(".cautions li").all_text_contents() == results["cautions"]
        assert page.locator(".cautions").bounding_box()["y"] < height


def test_on_a_phone_a_wide_figure_scrolls_and_is_not_shrunk(opened, page_file):
    page = opened(page_file.as_uri(), PHONE)
    page.locator("#networks").evaluate("element => element.open = true")
    assert page.locator("#fig04_gan svg").bounding_box()["width"] > 600  # ten inches
    assert page.locator("#roc svg").bounding_box()["width"] < PHONE


def test_it_prints_on_few_pages_without_cutting_a_figure(opened, page_file, tmp_path):
    page = opened(page_file.as_uri(), A4)
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden() and page.locator("#explorer").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= A4
    assert page.locator("figure").first.evaluate("element => getComputedStyle(element).breakInside") == "avoid"
    printed = page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) <= MAX_PRINTED_PAGES


def test_it_is_small_enough_to_mail(page_file):
    assert page_file.stat().st_size < MAX_PAGE_BYTES


def test_without_scripts_every_figure_and_table_is_there(browser, page_file):
    context = browser.new_context(java_script_enabled=False, viewport={"width": DESK, "height": 900})
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator(".group").count() == page.locator(".group:visible").count() > 1
    assert page.locator("#explorer").is_hidden() and page.locator("#confusion_matrix svg").is_visible()
    assert page.locator("#slide_maps svg").is_visible() and page.locator("button:visible").count() == 0
    context.close()


def test_at_each_mark_the_numbers_are_those_of_the_results(page, results):
    marks = json.loads(page.locator("#page-data").text_content())["thresholds"]
    for name in results["classifiers"]:
        page.locator("#explorer-model").select_option(name)
        points = results["classifiers"][name]["operating_points"]
        for rule, point in points.items():
            page.locator(f"#explorer-marks button[value={rule}]").click()
            for metric in ("sensitivity", "specificity", "accuracy"):
                assert number(page, metric) == f"{point[metric]:.3f}", (name, rule, metric)
            assert number(page, "value") == f"{point['threshold']:.3f}"
            (mark,) = (one for one in marks[name]["marks"] if one["rule"] == rule)
            benefit = mark["benefit"]
            assert number(page, "benefit") == ("not defined" if benefit is None else f"{benefit:.3f}")
            assert "chosen on validation patients" in number(page, "rule")
            assert page.locator("#explorer-marks button[aria-pressed=true]").get_attribute("value") == rule


def test_the_slider_moves_by_keyboard_and_every_number_follows(page, results):
    counts = results["protocol"]["roles"]["test"]
    page.locator("#explorer-threshold").focus()
    for key in ("Home", "End", "ArrowLeft"):
        page.keyboard.press(key)
        threshold = float(number(page, "value"))
        assert threshold == {"Home": 0, "End": 1, "ArrowLeft": 0.998}[key]
        cells = {name: float(number(page, name).replace(",", "")) for name in ("tp", "fn", "fp", "tn")}
        assert cells["tp"] + cells["fn"] == pytest.approx(counts["positives"], abs=0.2)
        assert sum(cells.values()) == pytest.approx(counts["patches"], abs=0.3)
        assert "Exploration" in number(page, "rule")
        assert page.locator("#explorer-marks button[aria-pressed=true]").count() == 0
    page.keyboard.press("Home")
    assert (number(page, "sensitivity"), number(page, "specificity")) == ("1.000", "0.000")
    share = counts["positives"] / counts["patches"]
    page.locator("#explorer-prevalence").fill("10")
    assert number(page, "ppv") == "0.100"
    assert float(number(page, "accuracy")) == pytest.approx(share, abs=1e-3)
    page.locator("#explorer-prevalence").fill("250")
    assert "0 to 100" in number(page, "ppv")


def test_the_circle_moves_along_the_roc_curve(page):
    page.locator("#explorer-threshold").focus()
    page.keyboard.press("Home")
    circle = page.locator("#roc circle.mark")
    before = float(circle.get_attribute("cx")), float(circle.get_attribute("cy"))
    page.keyboard.press("End")
    after = float(circle.get_attribute("cx")), float(circle.get_attribute("cy"))
    assert after[0] < before[0] and after[1] > before[1]  # from the upper right to the lower left


def test_a_table_sorts_and_a_group_is_picked(page, results):
    head = page.locator(".group[data-group=test] th").nth(1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    cells = page.locator(".group[data-group=test] tbody tr td:nth-child(2)")
    values = [float(cell.get_attribute("data-value")) for cell in cells.all()]
    assert values == sorted(values, reverse=True) and len(values) == len(results["classifiers"])
    head.locator("button").focus()
    page.keyboard.press("Enter")
    values = [float(cell.get_attribute("data-value")) for cell in cells.all()]
    assert values == sorted(values) and head.get_attribute("aria-sort") == "ascending"
    page.locator("#group-picker").select_option("validation")
    assert page.locator(".group:visible").get_attribute("data-group") == "validation"


def test_the_readout_of_the_map_has_the_values_of_the_table(page, page_file):
    table = pd.read_csv(page_file.with_name("tables") / "slide_maps.csv", dtype={"patient": str})
    first = table[table["patient"] == table["patient"].iloc[0]]
    kind = "probability in context" if "probability in context" in table else "probability"
    canvas, readout = page.locator("#maps-canvas"), page.locator("#maps-told")
    canvas.scroll_into_view_if_needed()
    box, size = canvas.bounding_box(), canvas.evaluate("element => [element.width, element.height]")
    steps = (first[["x", "y"]] - first[["x", "y"]].min()) / 50
    side = (size[0]) / (steps["x"].max() + 1)
    for (_, row), (column, line) in zip(first.head(3).iterrows(), steps.head(3).to_numpy(), strict=True):
        scale = box["width"] / size[0] * side
        page.mouse.move(box["x"] + (column + 0.5) * scale, box["y"] + (line + 0.5) * scale)
        text = readout.text_content()
        assert f"x {row['x']}, y {row['y']}: annotated {('benign', 'malignant')[row['label']]}" in text
        assert f"{row[kind]:.3f}" in text
        assert f"called {('benign', 'malignant')[row['called']]}" in text
    page.locator("#maps-model").select_option("annotated")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    assert "annotated" in readout.text_content() and "probability" not in readout.text_content()


def test_a_patient_is_picked_in_the_heat_map(page):
    cell = page.locator("#per_patient [id^=per_patient-QuadMesh] path").last  # the patient with the most errors
    cell.evaluate("element => element.dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    patient = page.locator("#patient-picker").input_value()
    assert patient and f"Patient {patient}: " in page.locator("#patient-told").text_content()
    rows = page.locator("#largest-errors-table tbody tr:visible")
    assert [row.locator("td").nth(1).text_content() for row in rows.all()] == [patient] * rows.count()
    every = page.locator("#largest-errors-table tbody tr").count()
    assert 0 < rows.count() < every
    assert page.locator("#patient_shares .is-chosen").count() == 1
    page.locator("#patient-picker").select_option("")
    assert rows.count() > 0 and page.locator(".is-chosen").count() == 0


def test_the_gallery_shows_the_ticked_kinds(page):
    synthetic = page.locator("#gan_samples [id*='-sample-synthetic-']")
    real = page.locator("#gan_samples [id*='-sample-real-']")
    assert synthetic.count() == real.count() > 8
    page.locator("#gallery input[value='synthetic']").uncheck()
    assert synthetic.first.is_hidden() and real.first.is_visible()
    page.locator("#gallery input[value='0']").uncheck()
    assert page.locator("#gan_samples [id*='-sample-real-0-']").first.is_hidden()
    assert page.locator("#gan_samples [id*='-sample-real-1-']").first.is_visible()
    page.locator("#gallery input[value='synthetic']").check()
    assert page.locator("#gan_samples [id*='-sample-synthetic-1-']").first.is_visible()


def test_a_table_is_downloaded_from_the_page_itself(page, page_file):
    with page.expect_download() as started:
        page.locator("#roc button[data-file]").click()
    assert started.value.suggested_filename.endswith("roc.csv")
    downloaded = started.value.path().read_text()
    assert downloaded == (page_file.with_name("tables") / "roc.csv").read_text()
    with page.expect_download() as started:
        page.locator("#file-download").click()
    assert started.value.path().read_text().startswith("id,patient,label,")


def test_pasted_probabilities_are_drawn_in_the_page(page, page_file, results):
    with page.expect_download() as started:
        page.locator("#file-download").click()
    patches = pd.read_csv(started.value.path())
    lines = [f"{row.id},{row.gan_resnet}" for row in patches.itertuples()]
    page.locator("#own-text").fill("\n".join(["id,probability", *lines]))
    page.locator("#own-draw").click()
    page.locator("#own-curve").wait_for(state="attached")
    from sklearn.metrics import roc_auc_score

    message = page.locator("#own-told").text_content()
    assert (
        f"{roc_auc_score(patches['label'], patches['gan_resnet']):.3f} on {len(patches)} of {len(patches)}" in message
    )
    assert "left out" not in message  # the header is not counted as a line
    page.locator("#own-text").fill(
        "\n".join(line.replace(",", ";").replace(".", ",") for line in [*lines, "other;2,5"])
    )
    page.locator("#own-draw").click()
    page.locator("#own-told", has_text="1 lines were left out").wait_for()
    assert f"{roc_auc_score(patches['label'], patches['gan_resnet']):.3f}" in page.locator("#own-told").text_content()
    page.locator("#own-text").fill("nothing,0.5")
    page.locator("#own-draw").click()
    page.locator("#own-told", has_text="Nothing was drawn").wait_for()
    assert page.locator("#own-curve").count() == 0


def test_a_link_opens_what_it_points_to(page):
    page.evaluate("location.hash = 'fig04_gan'")
    page.locator("#fig04_gan svg").wait_for(state="visible")
    assert page.locator("#networks").evaluate("element => element.open")
    assert page.locator("#fig04_gan svg").is_visible()
    page.evaluate("location.hash = 'patients-validation'")
    page.locator("#group-picker").wait_for()
    assert page.locator(".group:visible").get_attribute("data-group") == "validation"


def test_reports_side_by_side_open_readable(opened, page_file, results, tmp_path):
    page = opened(compare.render([str(page_file.with_name("results.json"))] * 2, tmp_path).as_uri(), PHONE)
    check(page, PHONE)
    assert page.locator("strong", has_text=results["finding"]["sentence"]).count() == 2
    assert page.locator("#forest svg").is_visible()
