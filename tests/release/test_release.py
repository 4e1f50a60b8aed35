"""`bcgan release`: what it writes, what it refuses, and that a generator that gives patients away is caught."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from bcgan import cli, execution, runs
from bcgan.errors import InputError, WorkError
from bcgan.preprocess import store
from bcgan.release import privacy, synthesis
from bcgan.release.release import release
from tests.release.conftest import BANK, NUMBER, REQUEST, STRANGERS, fresh_patches, generating


def training_patches(root: Path, patients: list[str] | None = None) -> list[np.ndarray]:
    """Training patches of each class, repeated up to BANK, turned and with a little noise: memorized."""
    patches, rng = store.load(root / "preprocess"), np.random.default_rng(0)
    index = patches.index
    chosen = (index["role"] == "train") if patients is None else index["patient"].isin(patients)
    banks = []
    for label in (0, 1):
        rows = rng.choice(np.flatnonzero(chosen & (index["label"] == label)), BANK)
        turned = np.stack([np.rot90(patch, rng.integers(4)) for patch in patches.images[rows]])
        banks.append(np.clip(turned + rng.normal(0, 4, turned.shape), 0, 255).astype(np.uint8))
    return banks


def test_a_release_can_be_used_at_once(released):
    out, root = released / "out", released / "runs" / "audited"
    assert runs.read_json(out / "audit.json")["passed"]
    table = pd.read_csv(out / "patches.csv")
    assert table["class"].value_counts().to_dict() == {"benign": NUMBER // 2, "malignant": NUMBER // 2}
    with np.load(next((root / "cache" / "release").glob("patches-*")) / "patches.npz") as saved:
        images = saved["images"]
    for row, image in zip(table.itertuples(), images, strict=True):
        assert runs.hash_file(out / row.file) == row.sha256
        assert row.file.startswith(f"images/{row._2}/")  # pandas renames the column `class`
        if row.Index % 50 == 0:
            np.testing.assert_array_equal(cv2.imread(str(out / row.file))[..., ::-1], image)
    manifest = runs.read_json(out / "manifest.json")
    on_disk = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == on_disk
    assert all(runs.hash_file(out / file) == digest for file, digest in manifest["files"].items())
    assert (manifest["licence"], manifest["patches"], manifest["mpp"]) == ("CC-BY-4.0", NUMBER, 4.0)

    import tensorflow_datasets as tfds

    data = tfds.builder_from_directory(str(out / "tfds")).as_dataset(split="train")
    by_file = {row.file: row for row in table.itertuples()}
    examples = list(data.as_numpy_iterator())
    assert len(examples) == NUMBER
    for example in examples[::50]:
        row = by_file[example["file"].decode()]
        assert example["label"] == row.label
        np.testing.assert_array_equal(example["image"], images[row.Index])


def test_its_description_is_croissant(released):
    mlcroissant = pytest.importorskip("mlcroissant")
    out = released / "out"
    described = mlcroissant.Dataset(jsonld=str(out / "croissant.json"))
    rows = list(described.records("patches"))
    table = pd.read_csv(out / "patches.csv")
    assert [row["patches/file"].decode() for row in rows] == table["file"].tolist()
    assert [row["patches/label"] for row in rows] == table["label"].tolist()
    assert described.metadata.license == ["CC-BY-4.0"]


def test_its_card_states_the_audit_and_names_no_patient(released):
    out, root = released / "out", released / "runs" / "audited"
    card, audit = (out / "README.md").read_text("utf-8"), runs.read_json(out / "audit.json")
    assert "Pathology, Example Hospital" in card and "CC-BY-4.0" in card
    for check in audit["privacy"]:
        assert f"{check['value']:.3f}" in card
    for network in audit["utility"]["networks"].values():
        assert f"{network['released']['roc_auc']['value']:.3f}" in card
    patients = set(store.load(root / "preprocess").index["patient"])
    for path in out.rglob("*"):
        if path.suffix in (".json", ".md", ".csv"):
            assert not [patient for patient in patients if patient in path.read_text("utf-8")], path
    owner = runs.read_json(root / "release" / "audit.json")
    assert owner.pop("most_exposed_patient") in patients
    assert owner == audit


def test_what_the_owner_sees_stays_in_the_run(released):
    out, root = released / "out", released / "runs" / "audited"
    for space in privacy.PATCH_SPACES:
        sheet = cv2.imread(str(root / "release" / f"closest_{space}.png"))
        assert sheet.shape == (2 * 52, 16 * 52, 3)
    assert not list(out.rglob("closest*"))


def test_the_same_request_gives_the_same_files_and_trains_nothing_again(released, tmp_path, monkeypatch):
    shutil.copytree(released, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("bcgan.release.utility.train", None)
    with generating(fresh_patches(STRANGERS)) as (settings, root):
        release(settings, root, REQUEST, Path("again"))
    first, second = (runs.read_json(Path(folder, "manifest.json"))["files"] for folder in ("out", "again"))
    assert first == second


def test_no_released_patch_is_nearer_than_the_limits(released):
    folder = next((released / "runs" / "audited" / "cache" / "release").glob("patches-*"))
    synthetic, limits = synthesis.load(folder), runs.read_json(folder / "manifest.json")["settings"]["limits"]
    for space, limit in limits.items():
        assert synthetic.table[f"distance_{space}"].min() > limit
    assert len(synthetic.candidates) > len(synthetic.table) == NUMBER


def test_a_generator_that_memorized_its_patches_is_refused(copied):
    with (
        generating(training_patches(copied)) as (settings, root),
        pytest.raises(WorkError, match=r"audit failed, and .*out was not written\. Candidates too near") as error,
    ):
        release(settings, root, REQUEST, Path("out"))
    assert "gan.diff_augment" in str(error.value)
    assert not Path("out").exists()
    audit = runs.read_json(root / "release" / "audit.json")
    assert not audit["passed"]
    assert {check["space"]: check["value"] for check in audit["privacy"] if check["passed"] is False}["pixels"] > 0.9


def test_a_leak_of_one_patient_is_refused(copied):
    """One patch in five is of one training patient."""
    index = store.load(copied / "preprocess").index
    patient = index["patient"][index["role"] == "train"].iloc[0]
    banks, leaked = fresh_patches(STRANGERS), training_patches(copied, [patient])
    for bank, patches in zip(banks, leaked, strict=True):
        bank[: BANK // 5] = patches[: BANK // 5]
    with generating(banks) as (settings, root), pytest.raises(WorkError, match="audit failed"):
        release(settings, root, REQUEST, Path("out"))
    assert not Path("out").exists()


def test_a_useless_release_is_refused(released, tmp_path, monkeypatch):
    shutil.copytree(released, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("bcgan.release.utility.MAX_LOSS", -1.0)
    with (
        generating(fresh_patches(STRANGERS)) as (settings, root),
        pytest.raises(WorkError, match="Loss of ROC AUC by training on the release"),
    ):
        release(settings, root, REQUEST, Path("more"))
    assert not Path("more").exists()
    assert not runs.read_json(root / "release" / "audit.json")["passed"]


def refuse(message: str, request=REQUEST) -> None:
    with generating([]) as (settings, root), pytest.raises(InputError, match=message):
        release(settings, root, request, Path("out"))


def change_index(root: Path, **columns) -> None:
    path = root / "preprocess" / "index.csv"
    pd.read_csv(path, dtype=str, keep_default_na=False).assign(**columns).to_csv(path, index=False)


def test_a_run_without_held_out_patients_is_refused(copied, monkeypatch):
    change_index(copied, role="train")
    monkeypatch.setattr(execution.artifacts, "stale_reason", lambda *_: None)
    refuse(r"There are 0 patients that the generator has not seen \(validation, test\)\..* needs 8 of each")


def test_data_without_patients_are_refused(copied, monkeypatch):
    change_index(copied, patient=lambda index: index["id"])
    monkeypatch.setattr(execution.artifacts, "stale_reason", lambda *_: None)
    refuse("name no patient")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (REQUEST._replace(license_name=" "), "--license"),
        (REQUEST._replace(creator="two\nlines"), "--creator"),
        (REQUEST._replace(number=10), "--number 10.*200 or more"),
    ],
)
def test_a_request_without_what_it_needs_is_refused(copied, request_, message):
    refuse(message, request_)


def test_a_folder_with_something_in_it_is_left_alone(copied):
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine", "utf-8")
    refuse("not an empty folder")
    assert [path.name for path in Path("out").iterdir()] == ["notes.txt"]


def test_too_few_accepted_candidates_are_an_error(copied, monkeypatch):
    iterate = synthesis.iterate_candidates

    def refuse_all(bundle, label, seed):
        for images, table in iterate(bundle, label, seed):
            yield images, table.assign(filter_result="low_confidence")

    monkeypatch.setattr(synthesis, "iterate_candidates", refuse_all)
    monkeypatch.setattr(synthesis, "MAX_TRIES_PER_PATCH", 2)
    message = r"accepted 0 of 384 candidates of the class benign, and 150 were asked for"
    with generating(fresh_patches(STRANGERS, 4)) as (settings, root), pytest.raises(WorkError, match=message):
        release(settings, root, REQUEST, Path("out"))
    assert not Path("out").exists()


def test_another_generator_is_refused_by_the_command(copied, capsys):
    shutil.copy(copied / "gan" / "discriminator.keras", copied / "gan" / "generator.keras")
    arguments = ["release", "audited.yaml", "--number", "200", "--out", "out", "--license", "CC0-1.0", "--creator", "A"]
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "generator.keras was changed" in capsys.readouterr().err


def test_the_command_needs_a_licence(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["release", "phantom", "--out", "out", "--creator", "A"])
    assert ended.value.code == 2
    assert "--license" in capsys.readouterr().err


def test_classes_are_divided_evenly():
    assert synthesis.count_by_class(10, 3) == [4, 3, 3]
    assert synthesis.count_by_class(9, 3) == [3, 3, 3]


def test_a_class_that_is_memorized_cannot_hide_among_others():
    candidates = pd.DataFrame({
        "label": np.repeat([0, 1], [100, 900]), "distance_pixels": np.repeat([0.0, 2.0], [20, 980]),
        "distance_features": 2.0,
    })  # fmt: skip
    proximity = privacy.Proximity(
        dict.fromkeys(privacy.PATCH_SPACES, 1.0), dict.fromkeys(privacy.PATCH_SPACES, np.ones(5))
    )
    checks = {(check.name, check.space): check for check in privacy.check_proximity(candidates, proximity)}
    assert checks["removed_fraction", "pixels"].value == pytest.approx(0.2)
    assert checks["removed_fraction", "pixels"].passed is False
    assert checks["removed_fraction", "features"].passed is True


@pytest.mark.parametrize(
    ("name", "estimate", "passed"),
    [
        ("membership_patients", (0.50, 0.42, 0.58), True),
        ("membership_patients", (0.58, 0.48, 0.68), True),  # chance lies within
        ("membership_patients", (0.58, 0.53, 0.63), False),
        ("membership_patients", (0.52, 0.51, 0.53), True),  # above chance, and harmless
        ("membership_patients", (0.50, 0.20, 0.80), False),  # too few patients
        ("membership_patients", (0.50, None, None), False),
        ("true_positive_rate", (0.06, 0.02, 0.09), False),
        ("true_positive_rate", (0.06, 0.00, 0.19), True),
        ("true_positive_rate", (0.02, 0.012, 0.03), True),
        ("removed_fraction", (0.06, None, None), False),
    ],
)
def test_a_check_fails_where_a_leak_is_shown_or_cannot_be_excluded(name, estimate, passed):
    assert privacy._check(name, "pixels", dict(zip(("value", "low", "high"), estimate, strict=True))).passed is passed
