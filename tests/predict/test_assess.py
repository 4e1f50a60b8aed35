import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import bcgan
from bcgan import cli, experiment
from bcgan.errors import InputError
from bcgan.predict import assess
from bcgan.predict.model import OUT_OF_DISTRIBUTION
from bcgan.predict.tile import PATCH_SCALE
from bcgan.preprocess.images import encode_png
from bcgan.slides.patches import read_patch
from tests.conftest import write_png
from tests.predict.conftest import find_paths, read_patches


@pytest.fixture(scope="module")
def shipped():
    return bcgan.load()


@pytest.fixture
def labelled(tmp_path, patches_of):
    """Patches of eight patients, a file that is no image and an image of noise."""
    folder, rng = tmp_path / "labelled", np.random.default_rng(0)
    for number, patch in enumerate(patches_of):
        place = folder / f"p{number % 8}" / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        write_png(place / f"{number}.png", patch)
    write_png(folder / "p1" / "1" / "noise.png", rng.integers(0, 256, (50, 50, 3), np.uint8))
    (folder / "p0" / "0" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def patches_of(idc_folder):
    return list(read_patches(find_paths(idc_folder)[:24]))


def settings(folder):
    return experiment.load("breakhis", ("data.name=patient_folder", "data.magnification=null"), str(folder))


def test_figures_are_those_of_the_rows(shipped, labelled, tmp_path):
    assessment = assess.assess(shipped, settings(labelled), None, tmp_path / "out")
    rows = pd.read_csv(tmp_path / "out/images.csv")
    read = rows[rows["patches"] > 0]
    assert (assessment["images"], assessment["unreadable"], assessment["every"]["images"]) == (26, 1, 25)
    assert rows.loc[rows["image"] == "p1/1/noise.png", "refused"].item()
    accepted = read[~read["refused"].astype(bool)]
    for name, table in (("every", read), ("judged", accepted)):
        patches = np.stack([read_patch(labelled / image, PATCH_SCALE) for image in table["image"]])
        expected = roc_auc_score(table["label"], shipped.probabilities(patches))
        assert assessment[name]["figures"]["roc_auc"]["value"] == pytest.approx(expected, abs=1e-6)
    assert rows.loc[rows["probability"].notna(), "image"].tolist() == accepted["image"].tolist()
    assert assessment["judged"]["images"] == len(accepted)
    assert assessment["judged"]["malignant"] == accepted["label"].sum()
    assert json.loads((tmp_path / "out/assessment.json").read_text()) == assessment


def test_an_image_s_probability_is_the_mean_over_its_patches(shipped, patches_of, tmp_path):
    folder = tmp_path / "large" / "p" / "0"
    folder.mkdir(parents=True)
    write_png(
        folder / "four.png", np.concatenate([np.concatenate(patches_of[:2], 1), np.concatenate(patches_of[2:4], 1)])
    )
    places = np.array([[0, 0], [50, 0], [0, 50], [50, 50]])  # the patches are neighbours, as in bcgan predict
    predictions = shipped.predict(np.stack(patches_of[:4]), places)
    known = predictions.verdict != OUT_OF_DISTRIBUTION
    assert known.any()
    for mpp, count in ((4.0, 4), (None, 0)):
        assess.assess(shipped, settings(tmp_path / "large"), mpp, tmp_path / "out")
        row = pd.read_csv(tmp_path / "out/images.csv").iloc[0]
        assert row["patches"] == count  # no patch if the scale of the image is unknown
        if count:
            assert row["probability"] == pytest.approx(predictions.probability[known].mean(), abs=1e-4)


def test_neighbours_count_where_the_data_set_has_coordinates(shipped, idc_folder, tmp_path, caplog):
    """A warning says that the classifier was trained on patients of that data set."""
    patches = idc_folder / "100"
    idc = experiment.load("idc", (), str(patches))
    for model, threshold in (
        (shipped, shipped.card.spatial_context_thresholds),
        (bcgan.load(neighbours=False), shipped.card.thresholds),
    ):
        with caplog.at_level("WARNING", logger="bcgan"):
            assessment = assess.assess(model, idc, None, tmp_path)
        assert "was trained on 254 patients of this data set" in caplog.text
        assert assessment["neighbours"] == (model is shipped)
        assert assessment["threshold"] == threshold.malignant
        rows = pd.read_csv(tmp_path / "images.csv")
        paths = [next(patches.rglob(f"{key}.png")) for key in rows["image"]]
        places = rows["image"].str.extract(r"_x(\d+)_y(\d+)_").to_numpy(int)
        read = read_patches(paths)
        expected = model.predict(read, places if model is shipped else None)
        np.testing.assert_allclose(rows["probability"], expected.probability, atol=1e-5)


def test_a_data_set_that_contradicts_its_files_is_refused_unless_the_user_decides(shipped, patches_of, tmp_path):
    for number, patch in enumerate(patches_of[:2]):
        path = tmp_path / f"in/p{number}/{number}/a.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_png(patch, 4.0))
    for mpp in (None, 4):
        with_mpp = experiment.load("folder", () if mpp is None else (f"data.mpp={mpp}",), str(tmp_path / "in"))
        assert assess.assess(shipped, with_mpp, None, tmp_path / "out")["images"] == 2
    wrong = experiment.load("folder", ("data.mpp=2",), str(tmp_path / "in"))
    with pytest.raises(InputError, match=r"a\.png states 4 microns a pixel, and the data set has 2\. Correct"):
        assess.assess(shipped, wrong, None, tmp_path / "out")
    assert assess.assess(shipped, wrong, 4.0, tmp_path / "out")["unreadable"] == 0


def test_the_command_reports_unreadable_images(labelled, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["assess", "breakhis", "--set", "data.name=patient_folder", "--set", "data.magnification=null",
                  "--data-dir", str(labelled), "--out", str(tmp_path / "out")])  # fmt: skip
    assert stop.value.code == 3
    assert "26 images, 1 unreadable or without tissue" in capsys.readouterr().out
