"""Labelled images that are larger than a patch are cut as `bcgan predict` cuts them, and measured as images."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from bcgan import experiment
from bcgan.data.histology_phantom.canvas import patient_style
from bcgan.data.histology_phantom.tissue import render_patch
from bcgan.data.slide_names import slide_names
from bcgan.errors import InputError
from bcgan.evaluate import images as by_image
from bcgan.preprocess import store
from bcgan.slides.patches import cut_patches
from bcgan.slides.reader import open_image
from bcgan.slides.scale import ModelScale, Mpp
from tests.conftest import write_png

SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of 144x100 pixels of 2 microns, two of each of six patients."""
    root = tmp_path_factory.mktemp("images")
    for patient in range(6):
        rng = np.random.default_rng(patient)
        style = patient_style(rng)
        for label, name in enumerate(("benign", "malignant")):
            tissue = render_patch(style, label, rng, 144, 2.0).image[:100]
            write_png(root / f"p{patient}" / name / f"{name}.png", tissue)
    return root


def build(tmp_path, folder, *overrides):
    (tmp_path / "x.yaml").write_text(
        f"name: x\ndata: {{name: patient_folder, dir: '{folder}', size: {SIZE}, num_folds: 3, mpp: 2}}\n"
    )
    out = tmp_path / "preprocess"
    out.mkdir(exist_ok=True)
    store.build(experiment.load(str(tmp_path / "x.yaml"), ("data.tile={mpp: 4}", *overrides)), out)
    return store.load(out)


def test_patches_are_cut_as_predict_cuts_them(tmp_path, folder):
    built = build(tmp_path, folder)
    path = folder / "p3/malignant/malignant.png"
    with open_image(path) as image:
        grid = cut_patches(image, ModelScale(SIZE, 4.0, None, 1.0), Mpp(2.0, 2.0, "user"))
    rows = built.index[built.index["image"] == "p3/malignant/malignant.png"]
    np.testing.assert_array_equal(rows[["x", "y"]].to_numpy(), grid.coords)
    np.testing.assert_array_equal(built.images[rows.index.to_numpy()], grid.patches)
    assert len(rows) == 6  # 72x50 pixels at 4 microns: columns at 0, 32 and 40, rows at 0 and 18
    assert rows["id"].iloc[1] == "p3/malignant/malignant.png_x32_y0"
    assert set(slide_names(rows, ())) == {"p3/p3/malignant/malignant.png"}
    assert (built.index.groupby("image")[["patient", "label", "role"]].nunique() == 1).all(axis=None)


def test_stride_scale_and_tissue_are_settings(tmp_path, folder):
    image = "p0/benign/benign.png"

    def corners(*overrides) -> list[list[int]]:
        index = build(tmp_path, folder, "data.tile.min_tissue=0", *overrides).index
        return index.loc[index["image"] == image, ["x", "y"]].to_numpy().tolist()

    assert corners("data.tile.stride=16")[:4] == [[0, 0], [16, 0], [32, 0], [40, 0]]
    assert corners("data.tile.mpp=null")[-1] == [144 - SIZE, 100 - SIZE]  # at the resolution of the image
    pixels = cv2.imread(str(folder / image))[..., ::-1]
    built = build(tmp_path, folder, "data.tile.mpp=null", "data.mpp=null", "data.tile.min_tissue=0")
    row = built.index.index[(built.index["image"] == image) & (built.index["x"] == 64) & (built.index["y"] == 32)][0]
    np.testing.assert_array_equal(built.images[row], pixels[32:64, 64:96])


def test_images_that_cannot_be_cut_are_named_and_the_others_used(tmp_path, folder, caplog):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    write_png(copy / "p1/benign/small.png", np.full((40, 90, 3), 150, np.uint8))
    write_png(copy / "p1/benign/white.png", np.full((100, 144, 3), 255, np.uint8))
    built = build(tmp_path, copy)
    listed = pd.read_csv(tmp_path / "preprocess/audit.csv").set_index("id")["reason"]
    assert "small.png is smaller than a patch: 90x40 pixels" in listed["p1/benign/small.png"]
    assert listed["p1/benign/white.png"].endswith("white.png: no tissue was found")
    assert built.index["image"].nunique() == 12
    with pytest.raises(InputError, match=r"None of 14 patches can be used.*states no resolution. Set data.mpp"):
        build(tmp_path, copy, "data.mpp=null")


def test_images_of_mixed_scales_are_cut_at_one_scale(tmp_path):
    """BreaKHis at 40X and 100X: refused as whole images, and cut at one scale into patches of the same tissue."""
    rng = np.random.default_rng(0)
    for number, (kind, scale) in enumerate((k, s) for k in ("B_A", "M_DC") for s in (40, 100) for _ in range(3)):
        name = f"SOB_{kind}-14-{500 + number % 3 + 10 * (kind[0] == 'M')}-{scale}-{number:03}.png"
        style = patient_style(rng)
        write_png(tmp_path / "in" / name, render_patch(style, int(kind[0] == "M"), rng, 140, 0.49 * 40 / scale).image)
    (tmp_path / "x.yaml").write_text(
        f"name: x\ndata: {{name: breakhis, dir: '{tmp_path / 'in'}', size: 32, num_folds: 3, tile: {{mpp: 0.5}}}}\n"
    )
    loaded = experiment.load(str(tmp_path / "x.yaml"), ("data.tile.min_tissue=0",))
    store.build(loaded, tmp_path)
    counts = store.load(tmp_path).index.groupby("image").size()
    assert counts[counts.index.str.contains("-40-")].unique().tolist() == [25]
    assert counts[counts.index.str.contains("-100-")].unique().tolist() == [4]  # less than half as wide
    with pytest.raises(InputError, match="images of several magnifications"):
        store.build(experiment.load(str(tmp_path / "x.yaml"), ("data.tile=null",)), tmp_path)


def test_the_score_of_an_image_is_the_mean_of_its_patches():
    table = pd.DataFrame({
        "image": list("aabbccddeeff"), "patient": list("ppppqqqqrrrr"), "label": [0, 0, 1, 1] * 3,
        "role": ["test"] * 8 + ["validation"] * 4,
    })  # fmt: skip
    scores = np.array([0.1, 0.9, 0.8, 0.6, 0.2, 0.2, 0.9, 0.1, 0.1, 0.1, 0.5, 0.5])
    metrics = by_image.image_metrics(table, {0: scores}, "test", 20, 0.95, 0)
    # The means are 0.5 and 0.7 for patient p, 0.2 and 0.5 for q; the threshold of the validation images is 0.5.
    assert metrics["image_recognition_rate"]["value"] == pytest.approx(3 / 4)
    assert metrics["patient_recognition_rate"]["value"] == pytest.approx((1 / 2 + 2 / 2) / 2)
    assert metrics["image_roc_auc"]["value"] == pytest.approx(3.5 / 4)
    three = np.eye(3)[[0, 0, 1, 2, 2, 2, 1, 1, 0, 0, 1, 1]] * 0.8 + 0.1 * np.arange(3)
    labels = table.assign(label=[0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 1, 1])
    metrics = by_image.image_metrics(labels, {0: three}, "test", 20, 0.95, 0)
    # The patches of image b score highest for 1 and for 2; class 2 has the larger mean.
    assert metrics["image_recognition_rate"]["value"] == pytest.approx(2 / 4)
    assert json.dumps(metrics)


def test_the_interval_of_a_recognition_rate_is_over_trainings_too():
    """One training is right everywhere, another one as often as chance."""
    patients = np.repeat([f"p{number:02d}" for number in range(20)], 2)
    roles = [pd.DataFrame({"image": patients + role, "patient": patients, "label": [0, 1] * 20, "role": role})
             for role in ("test", "validation")]  # fmt: skip
    for column in ("image", "patient"):
        roles[1][column] += "v"
    for table in roles:
        table["image"] += np.tile(["a", "b"], 20)
    table = pd.concat(roles, ignore_index=True)
    right = np.where(table["label"] == 1, 0.9, 0.1)
    wrong_half = np.where((table["role"] == "test") & (np.arange(80) % 4 < 2), 1 - right, right)
    metrics = by_image.image_metrics(table, {0: right, 1: wrong_half}, "test", 400, 0.95, 0)
    for name in ("image_recognition_rate", "patient_recognition_rate"):
        assert metrics[name]["value"] == pytest.approx(0.75)
        assert metrics[name]["low"] < 0.6
        assert metrics[name]["high"] == 1
