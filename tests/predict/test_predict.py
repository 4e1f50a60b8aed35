import csv
import doctest
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colorbar

import bcgan
from bcgan import cli_models
from bcgan.errors import InputError
from bcgan.predict import explain, maps, predict
from bcgan.predict import model as models
from bcgan.sizes import MIN_TISSUE_FRACTION
from bcgan.slides.decode import decode_image
from bcgan.slides.files import find_images, printable
from bcgan.slides.mpp_table import MppChoice
from bcgan.slides.patches import PatchGrid, cut_patches
from bcgan.slides.reader import FlatImage
from bcgan.slides.scale import ModelScale, Mpp, Scale
from bcgan.slides.tissue import is_colorless, tissue_fraction
from tests.conftest import use_few_samples, write_png
from tests.predict.conftest import command, find_paths

MPP = 4.0  # microns a pixel of the model's patches
MODEL_SCALE = ModelScale(50, MPP, (50, 50), 1.0)


def predict_paths(model, paths, out=None, as_jsonl=False, mpp: float | None = MPP, maps=None) -> dict[str, int]:
    images = find_images(map(str, paths))
    by_slide = predict.predict(model, images, out or io.StringIO(), as_jsonl, MppChoice(mpp), maps)
    totals = sum(by_slide.values(), Counter())
    return {verdict: totals[verdict] for verdict in models.VERDICTS}


def test_the_shipped_classifier_and_its_doctest_work():
    model = bcgan.load()
    noise = np.random.default_rng(0).integers(0, 255, (3, 50, 50, 3), dtype=np.uint8)
    assert (model.predict(noise).verdict == models.VERDICTS.index("out_of_distribution")).all()
    assert doctest.testmod(models).attempted > 0
    assert doctest.testmod(models).failed == 0


@pytest.mark.parametrize("side", [50, 200])
def test_an_image_of_empty_glass_has_a_verdict(model, tmp_path, side):
    write_png(tmp_path / "glass.png", np.full((side, side, 3), 255, np.uint8))
    out = io.StringIO()
    assert predict_paths(model, [tmp_path / "glass.png"], out, True)["no_tissue"] == 1
    row = json.loads(out.getvalue())
    assert (row["probability"], row["uncertainty"], row["label"]) == (None, None, None)
    assert (row["mpp"], row["mpp_source"]) == (4.0, "user")


def test_patches_that_are_not_scored_have_neither_class_nor_probability(model, patches):
    noise = np.random.default_rng(0).integers(0, 255, (1, 50, 50, 3), dtype=np.uint8)
    glass = np.full((1, 50, 50, 3), 240, np.uint8)
    predictions = model.predict(np.concatenate([patches, noise, glass]))
    assert predictions.verdict[-2:].tolist() == [models.OUT_OF_DISTRIBUTION, models.NO_TISSUE]
    assert {models.SCORED, models.ABSTAINED} <= set(predictions.verdict)
    has_score = predictions.verdict < models.OUT_OF_DISTRIBUTION
    for values in (predictions.probability, predictions.uncertainty):
        np.testing.assert_array_equal(np.isfinite(values), has_score)
    expected = np.where(predictions.probability >= predictions.threshold, 1, 0)
    expected[predictions.verdict != models.SCORED] = -1
    np.testing.assert_array_equal(predictions.called, expected)
    assert (predictions.threshold == model.card.thresholds.malignant).all()


def test_the_card_is_checked_before_anything_is_loaded(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(models.engines, "select_engine", lambda *arguments: pytest.fail("a network was loaded"))
    for name, change in (
        ("classifier.keras", lambda path: path.write_bytes(path.read_bytes() + b" ")),
        ("classifier.tflite", lambda path: path.write_bytes(path.read_bytes() + b" ")),
        ("quality_filter.npz", lambda path: path.unlink()),
        (models.CARD, lambda path: path.write_text("{}")),
        (models.CARD, lambda path: path.write_text(path.read_text().replace('"benign",', ""))),
        (models.CARD, lambda path: path.write_text(path.read_text().replace('"benign",', '"benign", "in_situ",'))),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(exported, copy)
        change(copy / name)
        with pytest.raises(InputError, match=rf"{name}.*bcgan export"):
            models.load(copy)
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("height", "width", "mpp", "words"),
    [
        (50, 50, 1.0, "50x50 pixels at 1 microns a pixel .* are 12x12"), (256, 256, 0.5, "are 32x32"),
        (1, 1, None, "is smaller than a patch"), (37, 37, None, "is smaller than a patch"),
        (38, 1, None, "is smaller than a patch"), (50, 49, None, "is smaller than a patch"),
        (49, 60, 4.0, "is smaller than a patch"), (50, 50, 400.0, "enlarged 100 times"),
        (50, 50, 32.0, "enlarged 8 times .* at most 4 times are read"), (50, 50, 16.0, None), (50, 50, None, None),
    ],
)  # fmt: skip
def test_images_smaller_than_a_patch_are_refused(patches, height, width, mpp, words):
    """It is not padded with glass and called benign."""
    image = FlatImage(np.resize(patches[0], (height, width, 3)), "image.png")
    stated = mpp and Mpp(mpp, mpp, "user")
    if words is None:
        assert len(cut_patches(image, MODEL_SCALE, stated).patches)
        return
    with pytest.raises(ValueError, match=f"image.png .*{words}"):
        cut_patches(image, MODEL_SCALE, stated)


def test_grey_tissue_is_out_of_distribution(patches):
    """Grey tissue would be called benign with high probability; glass is white on any slide."""
    model = bcgan.load()
    grey = patches.mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1)
    strange = models.VERDICTS.index("out_of_distribution")
    predictions, has_tissue = model.predict(grey), tissue_fraction(grey) >= MIN_TISSUE_FRACTION
    np.testing.assert_array_equal(predictions.verdict, np.where(has_tissue, strange, models.NO_TISSUE))
    assert has_tissue.mean() > 0.9 and (predictions.called == -1).all()
    assert not is_colorless(patches).any()
    assert not is_colorless(np.full((1, 50, 50, 3), 255, np.uint8)).any()
    half = patches.copy()
    half[:, :25] = grey[:, :25]  # some colour is enough
    assert not is_colorless(half).any()


def test_patches_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match="must be uint8"):
        model.predict(np.zeros((1, 32, 32, 3), np.uint8))


def test_an_earlier_output_stays_until_the_new_one_is_complete(exported, idc_folder, tmp_path, monkeypatch):
    out = tmp_path / "calls.csv"
    out.write_text("of yesterday")

    def stopped(model, paths, file, *_):
        file.write("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "predict", stopped)
    assert command(idc_folder, "--model", exported, "--out", out) == 130
    assert out.read_text() == "of yesterday"


@pytest.mark.parametrize("options", [
    ("--out", "{image}"), ("--summary", "{image}"), ("--out", "{table}"), ("--out", "{archive}"),
    ("--out", "both.csv", "--summary", "both.csv"),
])  # fmt: skip
def test_no_file_that_is_read_is_written(exported, idc_folder, tmp_path, monkeypatch, capsys, options):
    """The image, the archive, the table of scales, and the other output."""
    monkeypatch.chdir(tmp_path)
    image, archive, table = tmp_path / "slide.png", tmp_path / "more!.zip", tmp_path / "scales.csv"
    shutil.copy2(find_paths(idc_folder)[0], image)
    with zipfile.ZipFile(archive, "w") as file:
        file.write(image, "inside.png")
    table.write_text("slide.png,4\ninside.png,4\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    options = [option.format(image=image, table=table, archive=archive) for option in options]
    assert command(image, archive, "--model", exported, "--mpp-csv", table, *options) == 2
    assert "Name another file." in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pictures_that_were_drawn_are_not_read(exported, idc_folder, tmp_path, monkeypatch, capsys):
    """Maps and explanations beside the images are left out, until they are named."""
    monkeypatch.chdir(tmp_path)
    patch = decode_image(find_paths(idc_folder)[0].read_bytes(), "")
    write_png(tmp_path / "slide.png", np.tile(patch, (3, 3, 1)))
    options = ("--model", exported, "--mpp", MPP)
    for out in ("first.csv", "second.csv"):
        assert command(".", *options, "--maps", "maps", "--out", out) in (0, 3)
    assert Path("first.csv").read_text() == Path("second.csv").read_text()
    assert "maps was written by bcgan and is left out; name it to read it" in capsys.readouterr().err
    assert [image.name for image in find_images(["."])] == ["slide.png"]
    assert [image.name for image in find_images(["maps"])] == ["slide.png.heat.png", "slide.png.map.png"]


def test_a_large_image_is_tiled_where_it_holds_tissue():
    """The last row and column of tiles end at the border of the image."""
    image = np.full((130, 220, 3), 255, np.uint8)
    image[:100, 50:150] = (150, 80, 140)
    grid = cut_patches(FlatImage(image, "slide"), MODEL_SCALE, Mpp(4.0, 4.0, "user"))
    assert sorted(map(tuple, grid.coords)) == [(x, y) for x in (50, 100) for y in (0, 50, 80)]
    assert not grid.is_single_patch
    for (x, y), patch, tissue in zip(grid.coords, grid.patches, grid.tissue, strict=True):
        np.testing.assert_array_equal(patch, image[y : y + 50, x : x + 50])
        np.testing.assert_array_equal(tissue, (patch == (150, 80, 140)).all(-1))
    half = cut_patches(FlatImage(image, "slide"), MODEL_SCALE, Mpp(2.0, 2.0, "user"))
    assert (half.scale.x, half.scale.y) == (2, 2)
    assert set(map(tuple, half.image_coords)) == {(x, y) for x in (0, 100, 120) for y in (0, 30)}


def test_every_file_has_its_verdict(model, idc_folder, tmp_path, exported, capsys):
    real = find_paths(idc_folder)[:3]
    (tmp_path / "broken.png").write_bytes(real[0].read_bytes()[:200])
    (tmp_path / "empty.png").write_bytes(b"")
    write_png(tmp_path / "noise.png", np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8))
    out = tmp_path / "new" / "out.csv"
    assert command(*real, tmp_path, "--model", exported, "--out", out) == 3
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert tuple(rows[0]) == predict.COLUMNS
    verdicts = {Path(row["path"]).name: row["verdict"] for row in rows}
    assert verdicts["broken.png"] == verdicts["empty.png"] == "unreadable"
    assert verdicts["noise.png"] == "out_of_distribution"
    assert all(verdicts[path.name] in ("scored", "abstained") for path in real)
    for row in rows:
        assert (row["label"] != "") == (row["verdict"] == "scored")
        assert (row["probability"] != "") == (row["verdict"] in ("scored", "abstained"))
    assert "broken.png is truncated or damaged: its end is missing" in capsys.readouterr().err


def test_an_unreadable_slide_is_reported_and_the_others_are_predicted(model, idc_folder, tmp_path):
    real, out = [find_paths(idc_folder / patient)[0] for patient in ("100", "101")], io.StringIO()
    names = [tmp_path / name for name in ("slide.svs", "slide.mrxs", "slide.czi", "slide.dcm", "slide.ome.tif")]
    for path in names:
        path.write_bytes(b"a slide")
    counts = predict_paths(model, [real[0], *names, real[1]], out, True)
    assert counts["unreadable"] == 5
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in (real[0], *names, real[1])]
    assert all(row[column] is None for row in rows[1:-1] for column in ("probability", "label", "mpp", "mpp_source"))


def test_a_list_may_name_files_in_any_bytes(monkeypatch):
    images = find_images(["-"], ["a.png\n", "b.png\r\n", "\n"])
    assert [image.local for image in images] == [Path("a.png"), Path("b.png")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff.png\n"), "utf-8"))
    assert [os.fsencode(line.strip()) for line in cli_models._read_file_list(("-",))] == [b"a\xff.png"]
    assert cli_models._read_file_list(("a.png",)) == ()


def test_json_lines_and_csv_have_the_same_rows(model, idc_folder):
    paths = find_paths(idc_folder)[:2]
    lines, table = io.StringIO(), io.StringIO()
    predict_paths(model, paths, lines, True)
    predict_paths(model, paths, table, False)
    json_rows = [json.loads(line) for line in lines.getvalue().splitlines()]
    csv_rows = list(csv.DictReader(io.StringIO(table.getvalue())))
    assert [row["probability"] for row in json_rows] == [float(row["probability"]) for row in csv_rows]
    assert [[str(value) if value is not None else "" for value in row.values()] for row in json_rows] == [
        list(row.values()) for row in csv_rows
    ]


def test_a_slide_gets_a_map_and_outlines(model, patches, tmp_path):
    slide = patches[:12].reshape(3, 4, 50, 50, 3).swapaxes(1, 2).reshape(150, 200, 3)
    write_png(tmp_path / "slide.png", slide)
    counts = predict_paths(model, [tmp_path / "slide.png"], maps=tmp_path / "maps")
    outlines = json.loads((tmp_path / "maps/slide.png.geojson").read_text())
    assert len(outlines["features"]) == sum(counts.values()) == 12
    ring = np.array(outlines["features"][5]["geometry"]["coordinates"][0])
    assert ring.min(0).tolist() == [50, 50] and ring.max(0).tolist() == [100, 100]
    for kind in ("map", "heat"):
        assert decode_image((tmp_path / f"maps/slide.png.{kind}.png").read_bytes(), kind).ndim == 3
    assert set(maps.SCALE_BARS) >= {1, 50, 200, 1000}


def color_set(pixels: np.ndarray) -> set[tuple]:
    return set(map(tuple, pixels.reshape(-1, 4)))


def three_squares(thresholds: tuple[float, ...]) -> tuple[PatchGrid, models.Predictions]:
    """Three patches: with a label, abstained and out of distribution."""
    image = np.zeros((50, 150, 3), np.uint8) + np.array([255, 0, 255], np.uint8)
    places = np.array([[0, 0], [50, 0], [100, 0]])
    no_tissue = np.zeros((3, 50, 50), bool)
    scale = Scale(1.0, 1.0, (4.0, 4.0), "user", False)
    grid = PatchGrid(np.zeros((3, 50, 50, 3), np.uint8), places, scale, no_tissue, image, 1.0, False, 50)
    verdict = np.array([models.SCORED, models.ABSTAINED, models.OUT_OF_DISTRIBUTION])
    predictions = models.Predictions(
        np.array([0.1, 0.9, np.nan]), np.array([0, 0, np.nan]), np.array([0, -1, -1]), verdict, np.array(thresholds),
        np.array([[0.9, 0.1], [0.1, 0.9], [np.nan, np.nan]]),
    )  # fmt: skip
    return grid, predictions


@pytest.mark.parametrize("tissue", [True, False])
def test_a_map_has_tissue_or_none_and_stripes_where_there_is_no_probability(tissue):
    """Magenta is no colour of the map; the third square belongs to a patch that is out of distribution."""
    card = models.Card.model_validate_json((models.SHIPPED / models.CARD).read_text("utf-8"))
    grid, predictions = three_squares((0.3, 0.3, 0.3))
    colors = maps.patch_colors(predictions, card.classes)
    picture = maps.heatmap_overlay(grid, predictions, colors, 1.0, (50, 150), 1.0)
    colours = maps.COLOR_MAP(maps.threshold_norm(0.3)([0.1, 0.9]))
    np.testing.assert_allclose(picture[:, :50] - colours[0], 0, atol=1e-9)
    assert color_set(picture[:, 50:100]) == {tuple(colours[1]), maps.HATCH}  # lines over the colour: abstained
    assert color_set(picture[:, 100:]) == set(maps.STRIPES)
    target = io.BytesIO()
    maps.draw_map(target, "slide", grid, predictions, card, tissue)
    red, green, blue = decode_image(target.getvalue(), "map").astype(int).reshape(-1, 3).T
    assert ((red > 100) & (blue > 100) & (np.minimum(red, blue) - green > 60)).any() == tissue


@pytest.mark.parametrize(
    ("thresholds", "words"),
    [((0.3, 0.3, 0.3), "line: the threshold"), ((0.3, 0.4, 0.4), "lines: the thresholds with and without neighbors")],
)
def test_the_color_bar_shows_every_threshold(monkeypatch, thresholds, words):
    card = models.Card.model_validate_json((models.SHIPPED / models.CARD).read_text("utf-8"))
    lines, labels = [], []
    monkeypatch.setattr(maps.Axes, "axhline", lambda axes, y, **_: lines.append(y))
    monkeypatch.setattr(colorbar.Colorbar, "set_label", lambda bar, text, **_: labels.append(text))
    maps.draw_map(io.BytesIO(), "slide", *three_squares(thresholds), card)
    assert lines == sorted(set(thresholds))
    assert labels[-1] == f"Probability of malignancy; {words}"


def test_a_folder_without_a_model_is_named(tmp_path, capsys):
    assert command("nowhere.png", "--model", tmp_path) == 2
    assert "nowhere.png" in capsys.readouterr().err
    write_png(tmp_path / "patch.png", np.zeros((50, 50, 3), np.uint8))
    assert command(tmp_path / "patch.png", "--model", tmp_path) == 2
    assert "classifier.json does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("name", [r"$\frac$ <i>.png", os.fsdecode(b"no\xfftext.png"), "two\nlines.png"])
def test_names_may_hold_anything_in_pictures_too(model, patches, tmp_path, monkeypatch, eagerly, name):
    """Matplotlib would read dollars as mathematics, and refuses bytes that are no text."""
    use_few_samples(monkeypatch)
    write_png(tmp_path / "a" / name, np.concatenate(list(patches[:4])))
    write_png(tmp_path / "b" / name, patches[0])
    out = io.StringIO()
    predict_paths(model, [tmp_path / "a" / name], out, True, maps=tmp_path / "maps")
    assert {json.loads(line)["path"] for line in out.getvalue().splitlines()} == {printable(str(tmp_path / "a" / name))}
    assert out.getvalue().encode("utf-8")
    (image,) = find_images([str(tmp_path / "b" / name)])
    printed_name = Path(image.name).name  # a backslash separates folders, and bytes that are no text are escaped
    assert (tmp_path / f"maps/{printed_name}.map.png").stat().st_size > 10_000
    assert explain.write(model, [image], tmp_path / "out") == 0
    assert (tmp_path / f"out/0000-{Path(printed_name).stem}.png").stat().st_size > 10_000


def test_slides_of_the_same_name_have_separate_maps(model, patches, tmp_path):
    paths = [tmp_path / "a/slide.png", tmp_path / "b/slide.png", tmp_path / "b/other.png"]
    for path in paths:
        write_png(path, np.concatenate(list(patches[:2])))
    predict_paths(model, paths, maps=tmp_path / "maps")
    names = {path.name for path in (tmp_path / "maps").glob("*.geojson")}
    assert names == {"0000-slide.png.geojson", "0001-slide.png.geojson", "other.png.geojson"}


def test_a_maps_squares_are_as_large_as_the_tiles():
    image, corners, scale = np.zeros((32, 64, 3), np.uint8), np.array([[0, 0]]), Scale(1.0, 1.0, None, "user", False)
    patches, tissue = np.zeros((1, 50, 50, 3), np.uint8), np.ones((1, 50, 50), bool)
    grid = PatchGrid(patches, corners, scale, tissue, image, 1.0, False, 32)
    predictions = models.Predictions(
        np.array([0.9]), np.zeros(1), np.ones(1, int), np.zeros(1, int), np.array([0.5]), np.array([[0.1, 0.9]])
    )
    picture = maps.heatmap_overlay(grid, predictions, [(1.0, 0.0, 0.0)], 1.0, (32, 64), 1.0)
    assert (picture[:, :32, 3] == 1).all() and (picture[:, 32:, 3] == 0).all()


def test_litert_gives_the_probabilities_of_keras(exported, model, patches):
    models_by_engine = [bcgan.load(exported, engine) for engine in ("litert", "keras")]
    by_litert, by_keras = (model.probabilities(patches) for model in models_by_engine)
    assert 0 < model.card.litert_max_abs_error < 0.01
    np.testing.assert_allclose(by_litert, by_keras, atol=0.01)
    largest = np.abs(by_litert - by_keras).max()
    near = (np.abs(by_keras[:, None] - model.card.thresholds.limits) <= largest).any(1)
    calls = [model.predict(patches).called for model in models_by_engine]
    assert not near.all()
    np.testing.assert_array_equal(calls[0][~near], calls[1][~near])
    # OpenVINO and LiteRT read the same file and sum in a different order.
    np.testing.assert_allclose(model.probabilities(patches[:1]), by_litert[:1], atol=1e-4)


def test_a_network_that_was_changed_after_it_was_checked_is_not_loaded(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    loaded = models.load(folder, "litert")
    (folder / "classifier.keras").write_bytes(b"another one")
    with pytest.raises(InputError, match="was changed after it was checked"):
        _ = loaded.network


def test_an_older_export_has_keras_alone(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "old")
    card = json.loads((folder / "classifier.json").read_text())
    card["sha256"] = {name: digest for name, digest in card["sha256"].items() if not name.endswith(".tflite")}
    (folder / "classifier.json").write_text(json.dumps(card))
    assert bcgan.load(folder).engine == "keras"
    with pytest.raises(InputError, match=r"engine litert: .* has no classifier.tflite; export it again"):
        bcgan.load(folder, "litert")


def test_a_patch_is_predicted_without_tensorflow(exported, idc_folder):
    code = (
        "import sys; from bcgan.cli import main\n"
        f"try: main(['predict', {str(next(idc_folder.rglob('*.png')))!r}, '--model', {str(exported)!r}])\n"
        "except SystemExit as stop: assert stop.code in (0, 3), stop.code\n"
        "sys.exit(bool({'tensorflow', 'keras', 'sklearn', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith("path,x,y,probability")
