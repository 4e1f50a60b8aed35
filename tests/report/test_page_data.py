"""The data of the page's script: every number is that of results.json, the run's tables or the CSV files."""

import base64
import gzip
import io
import json

import numpy as np
import pandas as pd
import pytest

from bcgan.classify.calibration import Calibration, apply
from bcgan.evaluate.metrics import operating_points
from bcgan.report import gan_tables, inline_svg, page_context, page_data, slide_figures, tables
from bcgan.report.style import Frame
from tests.report.multiclass import measure


def decoded(text):
    return np.frombuffer(base64.b64decode(text), "<u2") / page_data.SCALE


def decoded_floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


@pytest.fixture(scope="module")
def trained_twice(tiny_run):
    """The run with a second training of the proposed classifier, whose thresholds and calibration are others."""
    rng, name = np.random.default_rng(0), tiny_run.classifier_names[0]
    labels = tiny_run.probabilities["label"].to_numpy()
    scores = np.clip(0.2 + 0.1 * labels + rng.normal(0, 0.1, len(labels)), 0.01, 0.99)
    probabilities = tiny_run.probabilities.assign(**{f"{name}-seed7": scores})
    return tiny_run._replace(probabilities=probabilities, metrics=measure(tiny_run.experiment, probabilities))


@pytest.fixture(scope="module")
def content(tiny_run):
    return page_data.page_data(tiny_run, {"roc": Frame(1, 2, 3, 4, (0, 1), (0, 1))})


def test_the_sliders_curves_are_the_shares_at_each_threshold(run, test_rows, content):
    for name in run.classifier_names:
        curves = content["thresholds"][name]
        for step in (0, 137, 250, 365, 500):
            called = [
                scores >= step / content["steps"] for scores in run.probabilities_by_seed(name, test_rows).values()
            ]
            for metric, label in (("sensitivity", 1), ("specificity", 0)):
                expected = np.mean([np.mean(seed_calls[test_rows["label"] == label] == label) for seed_calls in called])
                assert decoded_floats(curves[metric])[step] == pytest.approx(expected, abs=1e-6), (name, step, metric)


def net_benefit(run, name, thresholds):
    """The mean over the trainings, each at its own threshold before calibration, and that threshold calibrated."""
    test = run.test_predictions
    is_second, values = test["label"].to_numpy() == 1, []
    for seed, scores in run.probabilities_by_seed(name, test).items():
        fitted = Calibration(**run.metrics[name]["calibration"][str(seed)])
        (calibrated,) = apply(fitted, np.array([thresholds[seed]]))
        called = scores >= thresholds[seed]
        gain, cost = np.mean(called & is_second), np.mean(called & ~is_second)
        values.append((gain - cost * calibrated / (1 - calibrated), calibrated))
    return np.mean(values, axis=0)


@pytest.mark.parametrize("trainings", [1, 2])
def test_the_net_benefit_is_that_of_the_calls_at_each_mark_and_step(run, trained_twice, trainings):
    changed = {1: run, 2: trained_twice}[trainings]
    name, steps = changed.classifier_names[0], page_data.THRESHOLD_STEPS
    curves = page_data._by_threshold(changed, name)
    validation = changed.probabilities[changed.probabilities["role"] == "validation"]
    scores = changed.probabilities_by_seed(name, validation)
    assert len(scores) == trainings
    for mark in curves["marks"]:
        selected = {
            seed: operating_points(validation["label"], values)[mark["rule"]] for seed, values in scores.items()
        }
        assert mark["threshold"] == pytest.approx(np.mean(list(selected.values())))
        benefit, calibrated = net_benefit(changed, name, selected)
        assert (mark["benefit"], mark["calibrated"]) == pytest.approx((benefit, calibrated), abs=1e-12)
    for step in (0, 137, 250, 365):
        benefit, calibrated = net_benefit(changed, name, dict.fromkeys(scores, step / steps))
        assert decoded_floats(curves["benefit"])[step] == pytest.approx(benefit, rel=1e-5, abs=1e-6, nan_ok=True)
        assert decoded_floats(curves["calibrated"])[step] == pytest.approx(calibrated, abs=1e-6)


def test_a_threshold_that_is_calibrated_to_1_has_no_net_benefit(run):
    name = run.classifier_names[0]
    saturated = {seed: {"temperature": 0.01, "shift": 0.0} for seed in run.metrics[name]["calibration"]}
    metrics = run.metrics | {name: run.metrics[name] | {"calibration": saturated}}
    curves = page_data._by_threshold(run._replace(metrics=metrics), name)
    assert not np.isfinite(decoded_floats(curves["benefit"])[-1]) and np.isfinite(decoded_floats(curves["benefit"])[0])
    json.dumps(curves, allow_nan=False)


def test_shares_of_many_patches_are_whole_patches():
    counts = np.array([1, 4_999, 123_457, 199_999])
    np.testing.assert_allclose(decoded_floats(page_data._encode_floats(counts / 200_000)) * 200_000, counts, atol=0.04)


def test_the_marks_are_those_of_the_results(run, content):
    for name in run.classifier_names:
        for mark in content["thresholds"][name]["marks"]:
            assert {key: mark[key] for key in run.metrics[name]["operating_points"][mark["rule"]]} == (
                run.metrics[name]["operating_points"][mark["rule"]]
            )
        assert [mark["rule"] for mark in content["thresholds"][name]["marks"]] == list(tables.RULES)


def test_the_youden_mark_has_the_metrics_of_the_first_table(run, content):
    name = run.classifier_names[0]
    mark, test = content["thresholds"][name]["marks"][0], run.metrics[name]["sets"]["test"]
    for metric in ("sensitivity", "specificity", "accuracy"):
        assert mark[metric] == pytest.approx(test[metric]["value"])


def test_maps_have_the_probabilities_of_the_figures_table(run, content):
    drawn = slide_figures.slide_maps(run).numbers
    assert content["slides"]
    for slide in content["slides"]:
        rows = drawn[drawn["patient"] == slide["patient"]]
        assert rows[["x", "y"]].to_numpy().tolist() == np.transpose([slide["x"], slide["y"]]).tolist()
        assert rows["label"].tolist() == slide["labels"]
        alone = "ensemble" if "ensemble" in run.metrics else run.classifier_names[0]
        np.testing.assert_allclose(decoded(slide["values"][alone]), rows["probability"], atol=1e-5)
        assert slide["thresholds"][alone] == run.mean_threshold(alone)
        cells = np.reshape(slide["cells"], (-1, 2))
        assert len({tuple(cell) for cell in cells}) == len(rows) and (cells < slide["size"]).all()


def test_the_page_holds_every_table_the_patches_and_the_patients(run, test_rows, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/some.csv").write_text("a,b\n1,2\n")
    (tmp_path / "results.json").write_text("{}")
    files = json.loads(gzip.decompress(base64.b64decode(page_data.downloads(run, tmp_path))))
    assert (files["some.csv"], files["results.json"]) == ("a,b\n1,2\n", "{}")
    patches = pd.read_csv(io.StringIO(files["patches.csv"]), dtype={"id": str, "patient": str})
    assert patches["id"].tolist() == test_rows["id"].tolist()
    for name in run.classifier_names:
        np.testing.assert_allclose(patches[name], run.mean_probabilities(name, test_rows), atol=5.1e-7)
        if len(run.seeds(name)) == 1:  # the file's calls are those of the results
            called = patches[name] >= run.mean_threshold(name)
            assert called.tolist() == (run.mean_calls(name, test_rows) == 1).tolist()
    people = {person["patient"]: person for person in json.loads(files["patients.json"])}
    assert set(people) == set(test_rows["patient"])
    for patient, rows in test_rows.groupby("patient"):
        assert people[patient]["patches"] == len(rows) == sum(people[patient]["by_class"].values())
        for name, accuracy in people[patient]["accuracy"].items():
            assert accuracy == pytest.approx(run.patient_accuracies(name)[patient], abs=1e-3)


def test_a_table_that_is_too_large_has_fewer_classifiers(run, monkeypatch):
    monkeypatch.setattr(page_data, "MAX_PATCHES_BYTES", 1)
    assert list(page_data.patches_table(run))[3:] == run.classifier_names[:1]


def test_bars_lie_where_their_numbers_do(run):
    groups = page_context.compared_groups(run)
    assert groups[0]["role"] == "test"
    column = list(groups[0]["metrics"]).index("roc_auc")
    bars = [(row["bars"][column]) for group in groups for row in group["rows"]]
    values, positions = zip(*((bar.value, bar.position) for bar in bars), strict=True)
    assert np.argsort(values, kind="stable").tolist() == np.argsort(positions, kind="stable").tolist()
    assert all(0 <= position <= 100 for position in positions)
    for group in groups:
        for row, name in zip(group["rows"], run.classifier_names, strict=True):
            assert row["bars"][column].value == run.metrics[name]["sets"][group["role"]]["roc_auc"]["value"]


def test_calls_of_the_page_are_those_of_the_tables(run, content):
    """Rounded probabilities would call some patches at the threshold differently."""
    for slide in content["slides"]:
        rows = run.probabilities[run.probabilities["patient"] == slide["patient"]]
        for name in run.classifier_names:
            called = np.frombuffer(base64.b64decode(slide["called"][name]), np.uint8)
            assert called.tolist() == run.mean_calls(name, rows).tolist()


def test_large_slides_have_fewer_classifiers_and_then_fewer_slides(run, monkeypatch):
    monkeypatch.setattr(page_data, "MAX_SLIDE_VALUES", 1)
    slides = page_data._slides(run)
    assert all(list(slide["values"]) == run.classifier_names[:1] == list(slide["called"]) for slide in slides)
    assert len(slides) > 1
    monkeypatch.setattr(page_data, "MAX_SLIDE_PATCHES", 1)
    assert page_data._slides(run) == []


def test_the_circle_of_the_decision_curves_is_on_them(run, content):
    """The calls at a probability are those at its calibrated value, where the circle is drawn."""
    from bcgan.report import classifier_curves

    numbers, name = classifier_curves.decision_curve(run).numbers, run.classifier_names[0]
    curve = numbers[numbers["classifier"] == name]
    curves = content["thresholds"][name]
    calibrated = decoded_floats(curves["calibrated"])
    step = int(np.argmin(np.abs(calibrated - 0.3)))
    assert decoded_floats(curves["benefit"])[step] == pytest.approx(
        np.interp(calibrated[step], curve["threshold"], curve["net_benefit"]), abs=0.05
    )


def test_a_score_whose_real_patches_are_worse_than_the_worst_case_has_no_bar(run):
    scores = run.gan_scores | {"tstr_roc_auc": run.gan_scores["tstr_roc_auc"] | {
        "value": 0.6, "floor": 0.5, "ceiling": 0.9, "low": None, "high": None,
    }}  # fmt: skip
    title = gan_tables.GAN_NAMES["tstr_roc_auc"]
    (bar,) = (bar for bar in gan_tables.score_bars(run._replace(gan_scores=scores)) if bar.title == title)
    assert bar.position == 25
    scores["tstr_roc_auc"]["ceiling"] = 0.4
    assert title not in [bar.title for bar in gan_tables.score_bars(run._replace(gan_scores=scores))]


def test_a_chart_follows_the_pages_colors_and_a_picture_keeps_its_own():
    svg = '<?xml version="1.0"?><svg height="72pt" width="144pt" viewBox="0 0 144 72"><g id="a"><path d="M 1.23456 2" '
    svg += 'style="fill: #222222; clip-path: url(#b)"/></g></svg>'
    chart = inline_svg.inline(svg, "roc", 'what "it" shows', False)
    assert "url(#roc-b)" in chart.svg and "var(--c222222)" in chart.svg
    assert 'aria-label="what &quot;it&quot; shows"' in chart.svg and "M 1.2 2" in chart.svg
    assert 'id="' not in chart.svg  # nothing refers to the group
    assert chart.width_px == 192 and not chart.is_picture
    assert "#222222" in inline_svg.inline(svg, "roc", "", True).svg
    assert inline_svg.inline(svg.replace("<g", '<image href="x"/><g'), "roc", "", False).is_picture


def test_styles_that_occur_often_become_classes_and_rectangles_shorter():
    corners = "M 1.04 2 \\nL 5 2 \\nL 5 4 \\nL 1.04 4 \\nL 1.04 2".replace("\\n", "\n")
    cell = f'<path d="{corners}" clip-path="url(#p)" style="fill: #123456"/>'
    svg = f'<svg height="1pt" width="1pt"><defs><clipPath id="p"/></defs>{cell * 5}<g style="opacity: 0"/></svg>'
    drawn = inline_svg.inline(svg, "heat", "", True).svg
    assert drawn.count('<path d="M1 2H5V4H1z" class="heat0"/>') == 5
    assert "<style>.heat0{fill: #123456;clip-path:url(#heat-p)}</style>" in drawn and 'id="heat-p"' in drawn
    assert '<g style="opacity: 0"/>' in drawn


def test_tissue_becomes_smaller_and_maps_stay_exact():
    from PIL import Image

    def as_svg(pixels):
        target = io.BytesIO()
        Image.fromarray(pixels).save(target, format="PNG")
        data = base64.b64encode(target.getvalue()).decode()
        return f'<svg height="1pt" width="1pt"><image xlink:href="data:image/png;base64,{data}"/></svg>', len(data)

    def pixels_of(svg):
        data = svg.partition("base64,")[2].partition('"')[0]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")), len(data)

    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(0, 1, (50, 50, 3)), 0), 1)
    tissue = np.clip(128 + smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    svg, size = as_svg(tissue)
    inlined, inlined_size = pixels_of(inline_svg.inline(svg, "a", "", False).svg)
    assert inlined_size < size / 2 and np.abs(inlined.astype(int) - tissue).mean() < 8
    ends = np.array([[0, 114, 178], [228, 228, 228], [213, 94, 0]])
    colors = np.stack([np.interp(np.linspace(0, 2, 256), [0, 1, 2], ends[:, band]) for band in range(3)], 1)
    for size, count in (((30, 40), 2), ((6, 10), 256), ((60, 80), 256), ((2, 48), 256)):  # classes, then probabilities
        picture = colors[rng.integers(0, count, size) * (255 // (count - 1))].astype(np.uint8)
        inlined, _ = pixels_of(inline_svg.inline(as_svg(picture)[0], "a", "", False).svg)
        np.testing.assert_array_equal(inlined, picture)


def test_every_color_has_a_variable_for_light_and_for_dark():
    light, dark = inline_svg.color_variables(False), inline_svg.color_variables(True)
    for color in inline_svg.DARK_COLORS:
        name = inline_svg.variable(color).removeprefix("var(").removesuffix(")")
        assert f"{name}: {color};" in light and f"{name}: {inline_svg.DARK_COLORS[color]};" in dark
