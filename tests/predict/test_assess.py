import io
import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import bcgan
from bcgan import cli, experiment, runs
from bcgan.errors import InputError
from bcgan.predict import assess, predict
from bcgan.predict.model import OUT_OF_DISTRIBUTION
from bcgan.predict.tile import PATCH_SCALE
from bcgan.preprocess.images import encode_png
from bcgan.slides.files import find_images
from bcgan.slides.patches import read_patch
from tests.conftest import write_png
from tests.predict.conftest import find_paths, read_patches


@pytest.fixture(scope="module")
def shipped():
    """The classifier that comes with bcgan, of two orientations."""
    model = bcgan.load()
    model.card = model.card.model_copy(update={"tta_views": 2})
    return model


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


def test_copies_and_contradicting_labels_are_counted(shipped, labelled, tmp_path, caplog):
    """Pixel by pixel, in whatever format."""
    assess.assess(shipped, settings(labelled), None, tmp_path / "out")
    assert "repeat another" not in caplog.text
    pixels = cv2.imread(str(labelled / "p0/0/0.png"))
    cv2.imwrite(str(labelled / "p0/0/again.tif"), pixels)
    cv2.imwrite(str(labelled / "p2/0/again.bmp"), pixels)
    shutil.copy(labelled / "p1/1/1.png", labelled / "p1/0.png")
    (labelled / "p1/0").mkdir()
    (labelled / "p1/0.png").rename(labelled / "p1/0/1.png")
    assess.assess(shipped, settings(labelled), None, tmp_path / "out")
    words = (
        f"3 images repeat another one (first: {labelled}/p0/0/0.png and {labelled}/p0/0/again.tif), and 2 have copies"
    )
    assert words in caplog.text


def test_blank_images_are_no_copies(shipped, labelled, tmp_path, caplog):
    for number, name in enumerate(("p0/0", "p0/1", "p1/0")):
        write_png(labelled / name / "blank.png", np.full((50, 50, 3), (250, 240, 245), np.uint8) - number // 2)
    assess.assess(shipped, settings(labelled), None, tmp_path / "out")
    assert "repeat another" not in caplog.text


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


def probabilities_of_predict(model, folder) -> dict[str, float | None]:
    """Return the probability of each file, as `bcgan predict` writes it; `None` without one."""
    out = io.StringIO()
    predict.predict(model, find_images([str(folder)]), out, as_jsonl=True, progress_bar=False)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"].removeprefix(f"{folder}/"): row["probability"] for row in rows}


@pytest.mark.parametrize("name", ["folder", "idc"])
@pytest.mark.parametrize("neighbours", [True, False])
def test_the_figures_are_of_what_predict_says(idc_folder, tmp_path, name, neighbours):
    """Of files whose names state places, one of them narrower than a patch, in a layout that predict sees as well."""
    model = bcgan.load(neighbours=neighbours)
    folder = shutil.copytree(idc_folder / "103", tmp_path / "in/103").parent
    shutil.copytree(idc_folder / "104", folder / "104")
    cut = folder / "103/0/103_idx5_x201_y51_class0.png"
    write_png(cut, read_patches([cut])[0][:42])
    write_png(folder / "104/1/elsewhere.png", read_patches([folder / "104/1/104_idx5_x51_y51_class1.png"])[0])
    said = probabilities_of_predict(model, folder)
    assessment = assess.assess(model, experiment.load(name, (), str(folder)), None, tmp_path / "out")
    rows = pd.read_csv(tmp_path / "out/images.csv")
    paths = {path.stem: path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    names = rows["image"] if name == "folder" else rows["image"].map(paths)
    assert len(rows) == (21 if name == "folder" else 20)
    expected = np.array([said[name] for name in names], float)  # NaN for `None`
    np.testing.assert_allclose(rows["probability"], expected, atol=2e-4)
    assert rows["probability"].notna().sum() > 10
    assert assessment["images_with_neighbours"] == (20 if neighbours else 0)
    assert assessment["neighbours"] == neighbours
    text = f"of {20 if neighbours else 0} neighbouring patches are used"
    assert text in assess.summarize(assessment)


def test_patients_that_the_classifier_may_have_met_are_named(shipped, labelled, tmp_path, monkeypatch, caplog):
    """From the official lists of the public archive and from the run that trained the classifier, if it is there."""

    def warnings(folder, model) -> str:
        caplog.clear()
        with caplog.at_level("WARNING", logger="bcgan"):
            assess.assess(model, settings(folder), None, tmp_path / "out")
        return caplog.text

    assert "may have been trained" not in warnings(labelled, shipped)
    shutil.copytree(labelled / "p2", labelled / "8864")
    text = "at least 1 of 9 patients (first: 8864) have names of patients that the classifier may have been trained on"
    assert text in warnings(labelled, shipped)
    monkeypatch.setattr(runs, "_home", tmp_path)
    index = tmp_path / "runs/mine/preprocess/index.csv"
    index.parent.mkdir(parents=True)
    index.write_text("id,patient,role\n1,p3,train\n2,p4,test\n3,p5,train\n")
    trained = shipped.card.training_data | {"experiment": "mine", "data": "breakhis"}
    split = {key: value for key, value in trained.items() if key != "calibrated"}  # not trained again on all
    for counts, text in ((trained, "3 of 9 patients (first: p3)"), (split, "2 of 9 patients (first: p3)")):
        monkeypatch.setattr(shipped, "card", shipped.card.model_copy(update={"training_data": counts}))
        assert text in warnings(labelled, shipped)


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
