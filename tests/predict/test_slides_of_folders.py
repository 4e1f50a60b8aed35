"""Which images are neighbors: those of one slide, whose folders state its name, but not the class of a patch."""

import io
import json

import numpy as np
import pandas as pd
import pytest

import bcgan
from bcgan import data, experiment
from bcgan.data.histology_phantom.tissue import patient_style, render_patch
from bcgan.errors import InputError
from bcgan.predict import assess
from bcgan.predict.predict import predict
from bcgan.predict.tile_groups import list_slides
from bcgan.settings import Tile
from bcgan.slides.files import find_images
from tests.conftest import write_png

CLASSES = ("normal", "tumor")
SIDE = 3  # patches a side of a slide


@pytest.fixture(scope="module")
def model():
    """The included classifier, of one orientation, with classes of other names, which refuses no patch here."""
    loaded = bcgan.load()
    changes = {"ood_threshold": np.inf, "classes": CLASSES, "tta_views": 1}
    loaded.card = loaded.card.model_copy(update=changes)
    return loaded


@pytest.fixture(scope="module")
def patches() -> dict[str, np.ndarray]:
    """Patches of two slides of one patient by the slide's name, uint8 (n, 50, 50, 3), and labels that alternate."""
    rng = np.random.default_rng(0)
    style = patient_style(rng)
    return {
        name: np.stack([render_patch(style, (index + shift) % 2, rng).image for index in range(SIDE**2)])
        for shift, name in enumerate("AB")
    }


PLACES = np.array([(50 * x, 50 * y) for y in range(SIDE) for x in range(SIDE)])


def label_of(slide: str, index: int) -> int:
    return (index + "AB".index(slide)) % 2


def write(folder, patches, pattern: str) -> list[tuple[str, str, int]]:
    """Write the patches of both slides below a folder; return the name, slide and number of each."""
    rows = []
    for slide, images in patches.items():
        for index, (image, (x, y)) in enumerate(zip(images, PLACES.tolist(), strict=True)):
            name = CLASSES[label_of(slide, index)]
            key = pattern.format(slide=slide, number=index, name=name, x=x, y=y)
            write_png(folder / key, image)
            rows.append((key, slide, index))
    return rows


def write_table(folder, rows, offset: int = 0) -> None:
    """Write a table of labels and places; those of slide B are moved along x by `offset`."""
    table = [
        (key, CLASSES[label_of(slide, index)], "p", PLACES[index][0] + offset * (slide == "B"), PLACES[index][1])
        for key, slide, index in rows
    ]
    pd.DataFrame(table, columns=["image", "label", "patient", "x", "y"]).to_csv(folder / "t.csv", index=False)


def settings_of(folder):
    table = f"data.labels={folder / 't.csv'}"
    overrides = ("data.mpp=4", table, "data.classes={normal: [], tumor: []}", "evaluate.bootstrap_samples=10")
    return experiment.load("folder", overrides, str(folder / "in"))


def assess_images(model, folder) -> pd.Series:
    assess.assess(model, settings_of(folder), None, folder / "out")
    return pd.read_csv(folder / "out/images.csv").set_index("image")["probability"]


@pytest.mark.parametrize(
    "pattern", ["p/{slide}/{number}.png", "{slide}/{name}/p/{number}.png", "{slide}_x{x}_y{y}.png"]
)
def test_slides_in_folders_of_their_own_are_scored_as_two(model, patches, tmp_path, pattern):
    rows = write(tmp_path / "in", patches, pattern)
    write_table(tmp_path, rows)
    expected = {slide: model.probabilities(images, PLACES) for slide, images in patches.items()}
    values = [expected[slide][index] for _, slide, index in rows]
    np.testing.assert_allclose(assess_images(model, tmp_path)[[key for key, *_ in rows]], values, atol=1e-5)


@pytest.mark.parametrize("pattern", ["p/{slide}{number}.png", "p/{name}/{slide}{number}.png", "{slide}{number}.png"])
def test_two_images_at_one_place_of_one_slide_are_refused(model, patches, tmp_path, pattern):
    """By all that read the data set: `assess`, and the stage `preprocess` of a run."""
    write_table(tmp_path, write(tmp_path / "in", patches, pattern))
    words = r"data.labels: .*t.csv: .*[AB]\d+.png and .*\d.png have one place in one slide, x \d+, y 0\. .*remove a row"
    with pytest.raises(InputError, match=words):
        assess_images(model, tmp_path)
    with pytest.raises(InputError, match=words):
        data.records(settings_of(tmp_path).data)


def test_images_without_a_place_are_not_refused(patches, tmp_path):
    rows = write(tmp_path / "in", patches, "p/{slide}{number}.png")
    write_table(tmp_path, rows)
    table = pd.read_csv(tmp_path / "t.csv").drop(columns=["x", "y"])
    table.to_csv(tmp_path / "t.csv", index=False)
    assert len(data.records(settings_of(tmp_path).data)) == len(rows)


def test_places_that_the_pixels_contradict_are_not_used(model, patches, tmp_path, caplog):
    """Two slides in one folder whose patches overlap by half."""
    rows = write(tmp_path / "in", patches, "p/{slide}{number}.png")
    write_table(tmp_path, rows, offset=25)
    alone = {slide: model.probabilities(images) for slide, images in patches.items()}
    values = [alone[slide][index] for _, slide, index in rows]
    np.testing.assert_allclose(assess_images(model, tmp_path)[[key for key, *_ in rows]], values, atol=1e-5)
    words = "assess: p/p: its tiles overlap by their places (x and y of data.labels), but their pixels differ there"
    assert words in caplog.text


@pytest.mark.parametrize("pattern", ["p/{slide}/{number}.png", "{slide}_x{x}_y{y}.png"])
def test_assess_warns_where_every_slide_has_one_class(model, patches, tmp_path, caplog, pattern):
    """The names of slides may state the class."""
    rows = write(tmp_path / "in", patches, pattern)
    write_table(tmp_path, rows)
    table = pd.read_csv(tmp_path / "t.csv")
    assess_images(model, tmp_path)
    assert "assess: no slide has patches of two classes" not in caplog.text
    table["label"] = [CLASSES["AB".index(slide)] for _, slide, _ in rows]
    table.to_csv(tmp_path / "t.csv", index=False)
    assess_images(model, tmp_path)
    assert "assess: no slide has patches of two classes, but 1 patients have" in caplog.text


def predict_rows(model, folder) -> tuple[dict[str, float], list[str]]:
    """Return the probability of each image by its path below the folder, and the slides."""
    out = io.StringIO()
    slides = predict(model, find_images([str(folder)]), out, True)
    rows = map(json.loads, out.getvalue().splitlines())
    return {row["path"].removeprefix(f"{folder}/"): row["probability"] for row in rows}, list(slides)


@pytest.mark.parametrize("pattern", ["p/{name}/{slide}_x{x}_y{y}.png", "p/{slide}_x{x}_y{y}.png"])
def test_predict_and_assess_use_the_same_neighbours_whatever_the_classes_are_called(
    model, patches, tmp_path, caplog, pattern
):
    """Each class has a folder of its own, or both are in that of the patient."""
    rows = write(tmp_path / "in", patches, pattern)
    write_table(tmp_path, rows)
    predicted, slides = predict_rows(model, tmp_path / "in")
    assert slides == [f"{tmp_path}/in/p/{slide}" for slide in "AB"]
    assert list_slides(find_images([str(tmp_path / "in")]), CLASSES) == slides
    assert "read as two slides" not in caplog.text
    assessed = assess_images(model, tmp_path)
    for slide, images in patches.items():
        expected = model.probabilities(images, PLACES)
        keys = [key for key, name, _ in rows if name == slide]
        np.testing.assert_allclose([predicted[key] for key in keys], expected, atol=1e-5)
        np.testing.assert_allclose(assessed[keys], expected, atol=1e-5)


def test_folders_that_are_no_class_of_the_model_are_warned_of(model, patches, tmp_path, caplog):
    for folder, numbers in (("healthy", slice(0, None, 2)), ("carcinoma", slice(1, None, 2))):
        for image, (x, y) in zip(patches["A"][numbers], PLACES[numbers].tolist(), strict=True):
            write_png(tmp_path / f"in/{folder}/s_x{x}_y{y}.png", image)
    assert len(predict_rows(model, tmp_path / "in")[1]) == 2
    assert caplog.text.count("in/carcinoma/s and") == 1
    words = "are read as two slides, as their tiles lie in two folders (1 such names). If they are parts of one slide"
    assert words in caplog.text and "name the folders as the classes (normal, tumor)" in caplog.text


@pytest.mark.parametrize(
    ("folders", "slides"),
    [
        ("234", {"in/2/s", "in/3/s", "in/4/s"}),  # patients or slides
        ("012", {"in/s"}), ("1", {"in/s"}), ("AB", {"in/A/s", "in/B/s"}),
    ],
)  # fmt: skip
def test_numbers_are_folders_of_classes_only_beside_0_and_1(tmp_path, folders, slides):
    for column, folder in enumerate(folders):
        for row in range(2):
            write_png(tmp_path / f"in/{folder}/s_x{50 * column}_y{50 * row}.png", np.zeros((2, 2, 3), np.uint8))
    found = list_slides(find_images([str(tmp_path / "in")]), ("normal", "benign", "in_situ", "invasive", "other"))
    assert {slide.removeprefix(f"{tmp_path}/") for slide in found} == slides


def test_folders_of_patients_with_the_same_names_of_tiles_are_not_warned_of(model, patches, tmp_path, caplog):
    for patient, begin in (("p1", 0), ("p2", 700)):
        for image, (x, y) in zip(patches["A"], PLACES.tolist(), strict=True):
            write_png(tmp_path / f"in/{patient}/patch_x{begin + x}_y{y}.png", image)
    assert len(predict_rows(model, tmp_path / "in")[1]) == 2
    assert "read as two slides" not in caplog.text


def test_images_that_are_cut_have_places_of_their_own(patches, tmp_path):
    rows = write(tmp_path / "in", patches, "p/{slide}{number}.png")
    write_table(tmp_path, rows)
    settings = settings_of(tmp_path).data
    assert len(data.records(settings.model_copy(update={"tile": Tile(mpp=4)}))) == len(rows)


def test_slides_of_one_name_that_share_a_place_are_not_warned_of(model, patches, tmp_path, caplog):
    for patient in ("p1", "p2"):
        for image, (x, y) in zip(patches["A"], PLACES.tolist(), strict=True):
            write_png(tmp_path / f"in/{patient}/core_x{x}_y{y}.png", image)
    assert len(predict_rows(model, tmp_path / "in")[1]) == 2
    assert "read as two slides" not in caplog.text
