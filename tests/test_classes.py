"""Two or more classes: their names, and a run with three classes from the images to the prediction of a slide."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bcgan
from bcgan import classes, cli, experiment
from bcgan.data.breakhis import scan as breakhis
from bcgan.data.histology_phantom.canvas import patient_style
from bcgan.data.histology_phantom.tissue import render_patch
from bcgan.data.labels import ClassNames, label_known_classes
from bcgan.data.prepared import phantom_labels, phantom_records
from bcgan.data.views import center_crop
from bcgan.errors import InputError
from bcgan.evaluate import derived, probes, synthetic, translations
from bcgan.explain import saliency
from bcgan.models import weights
from bcgan.predict import export, maps, serve
from bcgan.predict.model import Enhancement
from bcgan.predict.predict import columns, predict
from bcgan.preprocess import stain, store
from bcgan.settings import Data
from bcgan.slides.decode import decode_image
from bcgan.slides.files import find_images
from bcgan.slides.scale import Mpp
from tests.conftest import made_once, untraced, use_few_samples, write_png
from tests.predict.conftest import count_verdicts

NAMES = ("benign", "in_situ", "malignant")
KINDS = (0, 2, 1)  # the phantom's label of each class
SIZE, CROP, PATIENTS, PATCHES = 40, 32, 8, 9
EXPERIMENT = f"""
name: three
data:
  name: patient_folder
  dir: images
  labels: labels.csv
  classes: {{benign: [normal], in_situ: [dcis], malignant: [invasive]}}
  size: {SIZE}
  mpp: 4
  num_folds: 4
preprocess: {{clahe: true}}
gan: {{steps: 2, batch_size: 9, base_channels: 4, latent_dim: 8, projected_discriminator_weight: 0}}
translate: {{steps: 1, batch_size: 4, base_channels: 4, classes: [in_situ, malignant]}}
features: {{num_synthetic: 30, quality_filter: {{steps: 2}}}}
classify:
  batch_size: 16
  crop_size: {CROP}
  models: {{cnn: {{epochs: 1}}, gan_resnet: {{epochs: 1, synthetic_fraction: 0.2}}}}
evaluate:
  tta_views: 1
  test_crops: ten
  bootstrap_samples: 20
  num_gan_samples: 21
  probe_seeds: [0]
  num_explained_patches: 2
  explained_class: in_situ
  ensemble_models: [cnn, gan_resnet]
precision: float32
"""


def draw(root: Path) -> None:
    """Write patches of three classes, and a table that names the classes differently."""
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "label", "patient", "x", "y"])
        for patient in range(PATIENTS):
            rng = np.random.default_rng(patient)
            style = patient_style(rng)
            for number in range(PATCHES):
                label = number % 3
                name = f"p{patient}_{number}.png"
                write_png(root / "images" / name, render_patch(style, KINDS[label], rng, SIZE).image)
                spelling = ("Normal", "DCIS", "malignant")[label]
                table.writerow([name, spelling, f"p{patient}", SIZE * (number % 3), SIZE * (number // 3)])
    (root / "three.yaml").write_text(EXPERIMENT, "utf-8")


def call(folder: Path, *arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(SystemExit) as stop:
            cli.main(list(arguments))
    return stop.value.code


@pytest.fixture(scope="session")
def three(tmp_path_factory) -> Path:
    """A folder in which every stage of EXPERIMENT has run, and its classifier was exported to `model`."""

    def run(root: Path) -> None:
        draw(root)
        with untraced(), pytest.MonkeyPatch.context() as patch:
            for module in (probes, synthetic, translations):  # their ImageNet features take half of the time
                patch.setattr(module, "has_weights", lambda _: False)
            use_few_samples(patch)
            patch.setattr(export, "TTA_VIEWS", 2)
            assert call(root, "run", "three.yaml") == 0
            assert call(root, "export", "three.yaml", "--out", "model") == 0

    return made_once(tmp_path_factory, "three", run)


def test_the_case_of_benign_and_malignant_changes_neither_labels_nor_colors():
    settings = {"Malignant": ["Tumor"], "Benign": ["Normal"]}
    names = ClassNames(Data(name="patient_folder", classes=settings).classes)
    spellings = ("0", "1", "BENIGN", "malignant", "normal", "Tumor")
    assert [names.label(name) for name in spellings] == [0, 1, 0, 1, 0, 1]
    three = Data(name="patient_folder", classes=["Malignant", "DCIS", "Benign"]).class_names
    assert three == ("malignant", "DCIS", "benign")
    colors = classes.class_colors(("Malignant", "DCIS", "Benign"))  # of a network that bcgan did not train
    assert list(colors.values()) == list(classes.class_colors(three).values())
    assert (colors["Benign"], colors["Malignant"]) == (classes.FIRST_CLASS_COLOR, classes.LAST_CLASS_COLOR)
    assert classes.class_noun("Malignant") == "malignancy"
    overrides = (
        "data.name=patient_folder",
        "data.classes=[Benign, DCIS, Malignant]",
        "evaluate.explained_class=Benign",
    )
    assert experiment.load("folder", overrides).evaluate.explained_class == "benign"


def test_classes_keep_their_order_also_in_a_manifest():
    data = Data(name="patient_folder", classes={"b": None, "a": ["x", 7], "c": "y"})
    assert data.class_names == ("b", "a", "c")
    assert data.classes == (("b", ()), ("a", ("x", "7")), ("c", ("y",)))
    reloaded = Data.model_validate(json.loads(json.dumps(data.model_dump(mode="json"), sort_keys=True)))
    assert reloaded == data and reloaded != data.replace(classes=["a", "b", "c"])
    for binary in ({}, {"malignant": ["tumor"]}, {"malignant": [], "benign": ["normal"]}, ["malignant", "benign"],
                   ["Malignant", "Benign"], ["BENIGN"], {"MALIGNANT": ["tumor"], "benign": ["Normal"]}):  # fmt: skip
        assert Data(name="patient_folder", classes=binary).class_names == classes.CLASSES


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"tumor": []}, "'tumor' is a single class"),
        ({"a": ["x"], "b": ["X "]}, "'X ' is a and b"),
        ({"a": ["b"], "b": []}, "'b' is a and b"),
        (["a", "b", "a"], "'a' is named twice"),
        ({"a/b": [], "c": []}, "'a/b' is no name of a class"),
        ({True: [], "yes": []}, "True is no name of a class"),
    ],
)
def test_invalid_classes_are_refused_by_name(value, words):
    with pytest.raises(ValueError, match=words):
        Data(name="patient_folder", classes=value)


def test_a_number_is_a_class_index_unless_it_names_a_class():
    assert [ClassNames((("a", ()), ("b", ()), ("c", ()))).label(name) for name in ("0", "B ", "2.0", "3")] == [
        0,
        1,
        2,
        None,
    ]
    numbered = ClassNames((("a", ("1",)), ("b", ("2",)), ("c", ("3",))))
    assert [numbered.label(name) for name in ("0", "1", "2", "3")] == [None, 0, 1, 2]


def test_tumor_types_of_breakhis_are_classes(tmp_path):
    names = ("SOB_B_A-14-1-40-001", "SOB_B_F-14-2-40-001", "SOB_M_DC-14-3-40-001", "SOB_M_LC-14-4-40-001")
    for name in names:
        write_png(tmp_path / f"{name}.png", np.zeros((4, 4, 3), np.uint8))

    def labels(*pairs) -> list[int]:
        return [record.label for record in breakhis.records((tmp_path,), 40, classes=pairs)]

    assert labels() == [0, 0, 1, 1]
    assert labels(("ductal_carcinoma", ()), ("fibroadenoma", ())) == [1, 0]  # other tumor types are left out
    assert labels(("benign", ()), ("lobular", ("lobular_carcinoma",)), ("other", ("malignant",))) == [0, 0, 2, 1]
    with pytest.raises(InputError, match="'dcis' is no class of BreaKHis"):
        labels(("benign", ()), ("dcis", ()))


def test_kinds_of_phantom_tissue_are_classes(tmp_path, monkeypatch):
    from bcgan.data.histology_phantom import histology_phantom_dataset_builder as builder

    def small_config(size: int, mpp: float, in_situ: bool) -> builder.PhantomConfig:
        return builder.PhantomConfig(name=f"small{in_situ}", patients=2, patches=8, size=size, mpp=mpp, in_situ=in_situ)

    monkeypatch.setattr(builder, "config_for", small_config)
    pairs = (("benign", ()), ("carcinoma", ("in_situ", "malignant")))
    records = phantom_records((tmp_path,), 32, 4.0, pairs)
    assert len(records) == 16 and {record.label for record in records} == {0, 1}
    three = phantom_records((tmp_path,), 32, 4.0, (("benign", ()), ("in_situ", ()), ("malignant", ())))
    assert [min(1, record.label) for record in three] == [record.label for record in records]
    assert {record.label for record in three} == {0, 1, 2}
    without = phantom_records((tmp_path,), 32, 4.0, (("benign", ()), ("in_situ", ())))
    assert len(without) == sum(record.label < 2 for record in three)
    assert phantom_labels(pairs) == [0, 1] and phantom_labels(()) == [0, 1]
    assert label_known_classes((), NAMES, "x") == {"benign": 0, "malignant": 1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("evaluate.explained_class=dcis",), "evaluate.explained_class: dcis is none of the classes"),
        (("translate.classes=[benign,dcis]",), "translate.classes: dcis is none of the classes"),
        (("translate.classes=[benign,benign]",), "benign is named twice"),
        (("gan.batch_size=2",), "gan.batch_size: 2 is less than the 3 classes"),
    ],
)
def test_settings_that_contradict_the_classes_are_refused(tmp_path, settings, words):
    (tmp_path / "three.yaml").write_text(EXPERIMENT, "utf-8")
    with pytest.raises(InputError, match=words):
        experiment.load(str(tmp_path / "three.yaml"), settings)


@pytest.mark.slow
def test_every_stage_handles_three_classes(three):
    root = three / "runs/three"
    counts = json.loads((root / "preprocess/split.json").read_text())["counts"]
    assert counts["train"]["by_class"] == dict.fromkeys(NAMES, counts["train"]["patches"] // 3)
    with np.load(root / "features/synthetic.npz") as synthetic:
        np.testing.assert_array_equal(synthetic["labels"], np.arange(30) % 3)
    assert (root / "classify/cnn-seed0.keras").exists()
    assert {path.name for path in (root / "translate").glob("to_*")} == {"to_in_situ.keras", "to_malignant.keras"}
    table = pd.read_csv(root / "evaluate/probabilities.csv")
    for name in ("gan_resnet", "ensemble", derived.CONTEXT, derived.COLOR_TEXTURE):
        probabilities = derived.get_probabilities(table, name, 0)
        assert probabilities.shape == (len(table), 3)
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    metrics = json.loads((root / "evaluate/metrics.json").read_text())["ensemble"]
    assert set(metrics["by_class"]["test"]) == set(NAMES) and metrics["operating_points"] == {}
    areas = [metrics["by_class"]["test"][name]["roc_auc"]["value"] for name in NAMES]
    assert metrics["sets"]["test"]["roc_auc"]["value"] == pytest.approx(np.mean(areas))
    assert json.loads((root / "evaluate/explanations.json").read_text())["class"] == "in_situ"
    assert json.loads((root / "evaluate/leak_audit.json").read_text())["passed"]
    translations = json.loads((root / "evaluate/translations.json").read_text())["classes"]
    assert set(translations) == {"in_situ", "malignant"}


@pytest.mark.slow
def test_a_slide_of_three_classes_is_predicted_with_the_probability_of_each(three, tmp_path):
    model = bcgan.load(three / "model")
    assert model.card.classes == NAMES
    rows = pd.read_csv(three / "labels.csv")[:9]
    tiles = [decode_image((three / "images" / name).read_bytes(), name) for name in rows["image"]]
    write_png(tmp_path / "slide.png", np.concatenate([np.concatenate(tiles[i : i + 3], 1) for i in (0, 3, 6)]))
    write_png(tmp_path / "patch.png", tiles[4])
    out = io.StringIO()
    counts = predict(
        model, find_images([str(tmp_path)]), out, False, maps=tmp_path / "maps", mpp_of=lambda _: Mpp(4.0, 4.0, "user")
    )
    table = pd.read_csv(io.StringIO(out.getvalue()))
    assert tuple(table.columns) == columns(NAMES) and count_verdicts(counts) == len(table)
    by_class = table[[f"probability_{name}" for name in NAMES]].to_numpy()
    has_score = table["verdict"].isin(["scored", "abstained"])
    np.testing.assert_allclose(by_class[has_score].sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(table["probability"][has_score], by_class[has_score].max(1))
    scored = table["verdict"] == "scored"
    assert (table["label"][scored] == np.array(NAMES)[by_class[scored].argmax(1)]).all()
    limits = [
        model.card.thresholds,
        model.card.spatial_context_thresholds,
    ]  # of single patches, and of patches of a slide
    lowest = np.array([value.min_confidence for value in limits])[table["path"].str.endswith("slide.png").astype(int)]
    assert (table["verdict"][has_score] == "scored").equals(table["probability"][has_score] >= lowest[has_score])
    single = table[table["path"].str.endswith("patch.png")].iloc[0]
    np.testing.assert_allclose(
        single[[f"probability_{name}" for name in NAMES]].astype(float),
        model.probabilities(tiles[4][None])[0],
        atol=1e-6,
    )
    squares = json.loads((tmp_path / "maps/slide.png.geojson").read_text())["features"]
    measurements = squares[0]["properties"]["measurements"]
    assert not measurements or set(measurements) == {*(f"probability of {name}" for name in NAMES), "uncertainty"}
    row = serve.score_image(model, (tmp_path / "patch.png").read_bytes(), "patch.png", 4.0).rows[0].model_dump()
    assert row["probability_in_situ"] == pytest.approx(single["probability_in_situ"])


@pytest.mark.slow
def test_crop_and_enhancement_are_part_of_the_exported_model(three):
    """The model enhances raw images as the run did, and gives what the run's networks give for cropped patches."""
    model = bcgan.load(three / "model", "keras")
    assert (model.card.size, model.card.enhancement.clahe, model.network.input_shape[1]) == (SIZE, True, SIZE)
    built = store.load(three / "runs/three/preprocess")
    raw = np.stack([decode_image((three / "images" / name).read_bytes(), name) for name in built.index["image"][:8]])
    np.testing.assert_array_equal(model.prepare(raw), built.images[:8])
    assert (built.images[:8] != raw).mean() > 0.5
    networks = [weights.load_model(path) for path in sorted((three / "runs/three/classify").glob("*.keras"))]
    center = center_crop(built.images[:8], CROP).astype(np.float32) / 255
    expected = np.mean([np.asarray(network(center, training=False)) for network in networks], axis=0)
    computed = np.asarray(model.network(built.images[:8].astype(np.float32) / 255, training=False))
    np.testing.assert_allclose(computed, expected, atol=0.02 * np.ptp(expected) + 1e-3)  # half precision rounds


@pytest.mark.slow
def test_stains_are_normalized_per_image_or_per_single_patch(three):
    model = bcgan.load(three / "model", "keras")
    model.card = model.card.model_copy(update={"enhancement": Enhancement(stain_normalization="macenko")})
    rng = np.random.default_rng(3)
    style = patient_style(rng)
    patches = np.stack([render_patch(style, label, rng, SIZE).image for label in (1, 1, 0)])
    np.testing.assert_array_equal(model.prepare(patches, np.zeros((3, 2))), stain.normalize(patches)[0])
    alone = np.concatenate([stain.normalize(patch[None])[0] for patch in patches])
    np.testing.assert_array_equal(model.prepare(patches), alone)


@pytest.mark.slow
def test_each_class_of_three_is_explained_against_the_rest(three, eagerly):
    model = bcgan.load(three / "model", "keras")
    patch = render_patch(patient_style(np.random.default_rng(1)), 2, np.random.default_rng(2), SIZE).image
    image = patch[None].astype(np.float32) / 255
    logits = np.asarray(model.network(image, training=False))[0]
    for label in range(3):
        network = saliency.explain_class(model.network, label)
        odds = logits[label] - np.log(np.exp(np.delete(logits, label)).sum())
        logit, white = saliency.logits(network)(np.concatenate([image, np.ones_like(image)]))
        assert logit == pytest.approx(odds, abs=1e-4)
        total = saliency.integrated_gradients(network, image)[0].sum()
        assert total == pytest.approx(odds - white, abs=float(0.1 * abs(odds - white) + 0.05))
        assert saliency.grad_cam(network, image).shape == (1, SIZE, SIZE)
    most_probable = model.probabilities(patch[None])[0].argmax()
    for class_probabilities in (model.predict(patch[None]).class_probabilities[0], np.full(3, np.nan)):
        assert maps.explained_label(model, patch, class_probabilities) == most_probable
    assert maps.describe_colors(model.card, 1) == "orange supports in situ, violet the other classes"


@pytest.mark.slow
def test_synthetic_patches_and_labelled_images_of_three_classes(three, tmp_path, capsys):
    assert call(three, "sample", "three", "--label", "dcis", "--out", str(tmp_path / "a")) == 2
    assert "--label dcis: this generator's classes are benign, in_situ, malignant" in capsys.readouterr().err
    assert call(three, "assess", "three.yaml", "--model", "model", "--out", str(tmp_path / "b")) == 0
    results = json.loads((tmp_path / "b/assessment.json").read_text())["every"]
    assert results["by_class"] == dict.fromkeys(NAMES, PATIENTS * PATCHES // 3)
    settings = ("--set", "data.classes=[malignant, in_situ, benign]")
    assert call(three, "assess", "three.yaml", "--model", "model", *settings, "--out", str(tmp_path / "c")) == 2
    assert "malignant, in_situ, benign are not the classes of the classifier" in capsys.readouterr().err
