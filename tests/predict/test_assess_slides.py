"""`assess` on slides: whose neighbours a patch has must not depend on its class, and never be another patient's.

Each image is called by the threshold of what was used for it.
"""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

import bcgan
from bcgan import experiment
from bcgan.data.histology_phantom.tissue import patient_style, render_patch
from bcgan.predict import assess
from tests.conftest import write_png

COLUMNS, ROWS = 4, 3


@pytest.fixture(scope="module")
def shipped():
    """The classifier that comes with bcgan, of one orientation, which refuses no patch here."""
    model = bcgan.load()
    model.card = model.card.model_copy(update={"ood_threshold": np.inf, "tta_views": 1})
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


def draw_large(slides, patient: str) -> np.ndarray:
    """Return the patches of a patient as one image."""
    pixels = np.stack([row[4] for row in slides if row[0] == patient])
    return pixels.reshape(ROWS, COLUMNS, 50, 50, 3).swapaxes(1, 2).reshape(50 * ROWS, 50 * COLUMNS, 3)


@pytest.mark.parametrize("neighbours", [True, False])
def test_every_image_is_called_by_the_threshold_of_what_was_used_for_it(slides, tmp_path, neighbours):
    """A large image, two tiles side by side, one far from them, and single patches."""
    model = bcgan.load(neighbours=neighbours)
    model.card = model.card.model_copy(update={"ood_threshold": np.inf, "tta_views": 1})
    write_png(tmp_path / "in/p0/benign/large.png", draw_large(slides, "p0"))
    tiles = {"s_x0_y0": "benign", "s_x50_y0": "malignant", "s_x5000_y0": "malignant"}
    singles = {f"{number}.png": ("benign", "malignant")[number % 2] for number in range(8)}
    files = [f"p1/{label}/{name}.png" for name, label in tiles.items()]
    files += [f"p2/{label}/{name}" for name, label in singles.items()]
    for name, (*_, pixels) in zip(files, slides, strict=False):
        write_png(tmp_path / "in" / name, pixels)
    settings = experiment.load("folder", ("data.mpp=4",), str(tmp_path / "in"))
    assessment = assess.assess(model, settings, None, tmp_path / "out")
    rows = pd.read_csv(tmp_path / "out/images.csv").set_index("image")
    together = ["p0/benign/large.png", *files[:2]] if neighbours else []
    assert sorted(rows.index[rows["neighbours"]]) == sorted(together)
    alone, near = model.card.thresholds.malignant, bcgan.load().card.spatial_context_thresholds.malignant
    expected = np.where(rows.index.isin(together), near, alone)
    np.testing.assert_allclose(rows["threshold"], expected, rtol=1e-5)
    called = rows["probability"] >= expected
    for metric, label in (("sensitivity", 1), ("specificity", 0)):
        recall = recall_score(rows["label"], called, pos_label=label)
        assert assessment["every"]["figures"][metric]["value"] == pytest.approx(recall)
    assert (assessment["neighbours"], assessment["images_with_neighbours"]) == (neighbours, len(together))
    assert assessment["threshold"] == (None if neighbours else alone)
    assert assessment["thresholds"] == {"alone": alone, "neighbours": near if neighbours else None}
    words = f"{alone:.4f} by itself" + (f", {near:.4f} with neighbours" if neighbours else "")
    assert f"of {len(together)} neighbouring patches are used" in assess.summarize(assessment)
    assert f"threshold of an image: {words}\n" in assess.summarize(assessment)


def test_the_patches_of_a_large_image_are_neighbours_of_one_another(shipped, slides, tmp_path):
    for patient, label in (("p0", "benign"), ("p1", "malignant")):
        write_png(tmp_path / f"in/{patient}/{label}/large.png", draw_large(slides, patient))
    settings = experiment.load("folder", ("data.mpp=4",), str(tmp_path / "in"))
    assessment = assess.assess(shipped, settings, None, tmp_path / "out")
    near = shipped.card.spatial_context_thresholds.malignant
    assert (assessment["images_with_neighbours"], assessment["neighbours"]) == (2, True)
    assert (assessment["threshold"], assessment["thresholds"]) == (near, {"alone": None, "neighbours": near})
    assert f"threshold of an image: {near:.4f} with neighbours\n" in assess.summarize(assessment)
    assert (pd.read_csv(tmp_path / "out/images.csv")["patches"] == COLUMNS * ROWS).all()
