"""`assess` on slides: whose neighbours a patch has must not depend on its class, and never be another patient's."""

import numpy as np
import pandas as pd
import pytest

import bcgan
from bcgan import experiment
from bcgan.data.histology_phantom.tissue import patient_style, render_patch
from bcgan.predict import assess
from tests.conftest import write_png

COLUMNS, ROWS = 4, 3


@pytest.fixture(scope="module")
def shipped():
    """The classifier that comes with bcgan, which refuses no patch here."""
    model = bcgan.load()
    model.card = model.card.model_copy(update={"ood_threshold": np.inf})
    return model


@pytest.fixture(scope="module")
def slides() -> list[tuple[str, int, int, int, np.ndarray]]:
    """Patient, label, x, y and pixels of the patches of two patients, whose labels are random."""
    rng, patches = np.random.default_rng(0), []
    for patient in ("p0", "p1"):
        style = patient_style(rng)
        labels = rng.permutation([0, 1] * (COLUMNS * ROWS // 2))
        for index, label in enumerate(labels.tolist()):
            y, x = (50 * number for number in divmod(index, COLUMNS))
            patches.append((patient, label, x, y, render_patch(style, label, rng).image))
    return patches


def write(folder, slides, pattern: str, names: tuple[str, ...]) -> list[str]:
    """Write the patches below a folder, and return their names; `names` are those of the classes in the pattern."""
    keys = []
    for patient, label, x, y, pixels in slides:
        keys.append(pattern.format(patient=patient, name=names[label], x=x, y=y))
        write_png(folder / keys[-1], pixels)
    return keys


def expected_probabilities(model, slides) -> dict[tuple[str, int, int], float]:
    """Return the probability of each patch among all patches of its patient."""
    by_place = {}
    for patient in ("p0", "p1"):
        rows = [row for row in slides if row[0] == patient]
        places = np.array([(x, y) for _, _, x, y, _ in rows])
        values = model.probabilities(np.stack([pixels for *_, pixels in rows]), places)
        by_place |= {(patient, *place): value for place, value in zip(places.tolist(), values, strict=True)}
    return by_place


def assert_all_are_neighbours(model, slides, keys, folder, *overrides) -> None:
    assessment = assess.assess(model, experiment.load("folder", overrides, str(folder)), None, folder / "out")
    assert assessment["images_with_neighbours"] == len(slides) == assessment["every"]["images"]
    written = pd.read_csv(folder / "out/images.csv").set_index("image")["probability"]
    expected = expected_probabilities(model, slides)
    values = [expected[patient, x, y] for patient, _, x, y, _ in slides]
    np.testing.assert_allclose(written[keys], values, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("benign", "malignant"), ""),
        (("Normal", "Tu mor"), "data.classes={benign: [normal], malignant: [tumor]}"),
        (("healthy", "carcinoma"), "data.classes={benign: healthy, malignant: [carcinoma, tumor]}"),
        (("1", "0"), "data.classes={benign: ['1'], malignant: ['0']}"),
    ],
)
def test_neighbours_are_those_of_every_class_whatever_the_folders_are_called(shipped, slides, tmp_path, names, classes):
    keys = write(tmp_path, slides, "{patient}/{name}/s_x{x}_y{y}.png", names)
    assert_all_are_neighbours(shipped, slides, keys, tmp_path, "data.mpp=4", *filter(None, [classes]))


@pytest.mark.parametrize("pattern", ["{name}/{patient}/s_x{x}_y{y}.png", "s_x{x}_y{y}_{name}_{patient}.png"])
def test_a_table_without_places_has_the_neighbours_of_each_patient(shipped, slides, tmp_path, pattern):
    """Folders of the classes above those of the patients, and no folder at all."""
    keys = write(tmp_path, slides, pattern, ("normal", "tumor"))
    table = pd.DataFrame({"image": keys, "label": [row[1] for row in slides], "patient": [row[0] for row in slides]})
    table.to_csv(tmp_path / "labels.csv", index=False)
    overrides = (
        "data.mpp=4",
        f"data.labels={tmp_path / 'labels.csv'}",
        "data.classes={benign: normal, malignant: tumor}",
    )
    assert_all_are_neighbours(shipped, slides, keys, tmp_path, *overrides)


@pytest.mark.parametrize(
    "pattern",
    ["{name}/{patient}/s_x{x}_y{y}.png", "{patient}/{x:05d}a{y}.png", "s_x{y}_y{x}_{patient}.png",
     "{patient}/{name}_{x}_{y}7.png"],
)  # fmt: skip
def test_the_places_of_a_table_are_used_whatever_the_names_state(shipped, slides, tmp_path, pattern):
    keys = write(tmp_path, slides, pattern, ("normal", "tumor"))
    columns = {"image": keys, "label": [row[1] for row in slides], "patient": [row[0] for row in slides]}
    table = pd.DataFrame(columns | {"x": [row[2] for row in slides], "y": [row[3] for row in slides]})
    table.to_csv(tmp_path / "labels.csv", index=False)
    classes = "data.classes={benign: normal, malignant: tumor}"
    overrides = ("data.mpp=4", f"data.labels={tmp_path / 'labels.csv'}", classes)
    assert_all_are_neighbours(shipped, slides, keys, tmp_path, *overrides)


def test_x_and_y_of_a_table_are_pixels_of_the_files_and_narrow_images_are_completed(shipped, slides, tmp_path):
    """Patches of one row, every second one, of files with twice the pixels; the last one is narrow."""
    one_row = [row for row in slides if row[0] == "p0" and row[3] == 0]
    places = [0, 200, 400, 600]
    rows = []
    for number, (x, (*_, pixels)) in enumerate(zip(places, one_row, strict=True)):
        fine = pixels.repeat(2, 0).repeat(2, 1)
        write_png(tmp_path / f"p0/{number}.png", fine[:, :80] if number == 3 else fine)
        rows.append((f"p0/{number}.png", number % 2, "p0", x, 0))
    write_png(tmp_path / "p0/right.png", one_row[0][4].repeat(2, 0).repeat(2, 1))
    rows.append(("p0/right.png", 0, "p0", 680, 0))
    pd.DataFrame(rows, columns=["image", "label", "patient", "x", "y"]).to_csv(tmp_path / "t.csv", index=False)
    settings = experiment.load("folder", ("data.mpp=2", f"data.labels={tmp_path / 't.csv'}"), str(tmp_path))
    assessment = assess.assess(shipped, settings, None, tmp_path / "out")
    assert (assessment["images_with_neighbours"], assessment["every"]["images"]) == (5, 5)
    patches = [row[4] for row in one_row]
    patches[3] = np.concatenate([patches[3][:, :40], patches[0][:, :10]], 1)
    patches.append(patches[0])
    expected = shipped.probabilities(np.stack(patches), np.array([[x // 2, 0] for x in (*places, 680)]))
    written = pd.read_csv(tmp_path / "out/images.csv")["probability"].to_numpy()
    np.testing.assert_allclose(written, expected, atol=1e-3)
