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
    return bcgan.load()


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
    in_distribution = written[keys].notna().to_numpy()
    assert in_distribution.any()
    np.testing.assert_allclose(written[keys][in_distribution], np.array(values)[in_distribution], atol=1e-5)


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
