"""`bcgan release`: what it writes, what it refuses, and that a generator that reveals patients is detected."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from bcgan import cli, execution, runs
from bcgan.errors import InputError, WorkError
from bcgan.gan.distances import all_distances
from bcgan.models import projected_discriminator as networks
from bcgan.preprocess import store
from bcgan.release import dataset, privacy, repeats, synthesis, tables
from bcgan.release.release import release
from bcgan.report import run_files
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
        text = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
        assert not [patient for patient in patients if patient.encode() in text], path
    owner = runs.read_json(root / "release" / "audit.json")
    assert owner.pop("most_exposed_patient") in patients
    assert owner == audit


def test_what_the_owner_sees_stays_in_the_run(released):
    out, root = released / "out", released / "runs" / "audited"
    for space in privacy.PATCH_SPACES:
        sheet = cv2.imread(str(root / "release" / f"closest_{space}.png"))
        assert sheet.shape == (2 * 50 + 2, 16 * 52, 3)
    assert not list(out.rglob("closest*"))


def test_the_same_request_gives_the_same_files_and_trains_nothing_again(released, tmp_path, monkeypatch):
    shutil.copytree(released, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("bcgan.release.utility.train", None)
    monkeypatch.setattr("time.strftime", lambda _: runs.read_json(Path("out/manifest.json"))["date"])
    with generating(fresh_patches(STRANGERS)) as (settings, root):
        release(settings, root, REQUEST, Path("again"))
    first, second = (runs.read_json(Path(folder, "manifest.json"))["files"] for folder in ("out", "again"))
    assert first == second


def test_no_released_patch_is_beyond_the_limits(released):
    folder = next((released / "runs" / "audited" / "cache" / "release").glob("patches-*"))
    synthetic, limits = synthesis.load(folder), runs.read_json(folder / "manifest.json")["settings"]["limits"]
    for space, limit in limits["proximity"].items():
        assert synthetic.table[f"score_{space}"].max() <= limit
    assert len(synthetic.candidates) == len(synthetic.candidates["label"]) > len(synthetic.table) == NUMBER
    assert len(synthetic.removed) == len(synthetic.removed_images) > 0
    for label, distances in enumerate(limits["repeat_distances"]):
        rows = synthetic.table["label"].to_numpy() == label
        for space, limit in distances.items():
            between = all_distances(*2 * [synthetic.values[space][rows]], privacy.SPACES[space])
            assert between[~np.eye(len(between), dtype=bool)].min() > limit > 0
    # The generator has 300 patches of a class, of which it draws with replacement.
    assert runs.read_json(released / "out" / "audit.json")["repeats"] == synthetic.candidates["is_repeat"].sum() > 10
    assert not (synthetic.candidates["is_repeat"] & synthetic.candidates["is_removed"]).any()


def test_a_cached_training_is_found_by_all_that_it_depends_on(released):
    manifests = (released / "runs" / "audited" / "cache" / "release").glob("cnn-*/manifest.json")
    settings = {path.parent.name.rsplit("-", 1)[0]: runs.read_json(path)["settings"] for path in manifests}
    assert set(settings) == {"cnn-released", "cnn-real", "cnn-tuned-2-released", "cnn-tuned-2-initial"}
    for used in settings.values():
        assert {"tta_views", "test_crops"} == set(used["evaluate"])
        assert {"batch_size", "optimizer", "loss", "crop_size"} < set(used["classify"])
        assert {"seed", "precision", "steps"} < set(used)
    network = next((released / "runs" / "audited" / "cache" / "release").glob("cnn-released-*/cnn-released.keras"))
    assert settings["cnn-tuned-2-released"]["start"] == runs.hash_file(network)
    assert settings["cnn-tuned-2-initial"]["start"] is None
    assert settings["cnn-tuned-2-initial"]["tested"]


def test_every_attempt_is_kept_and_stated(released, tmp_path, monkeypatch):
    shutil.copytree(released, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    path = Path("runs/audited/release/attempts.json")
    (attempt,) = runs.read_json(path)
    failed = {"inputs": attempt["inputs"], "request": {"number": 400, "seed": 3, "passed": False}}
    of_other_files = {"inputs": {}, "request": {"number": 400, "seed": 4, "passed": False}}
    runs.write_json(path, [failed, of_other_files, attempt])
    with generating(fresh_patches(STRANGERS)) as (settings, root):
        release(settings, root, REQUEST, Path("again"))
    assert runs.read_json(Path("again/audit.json"))["earlier_attempts"] == [failed["request"]]
    assert "number 2 with this generator" in Path("again/README.md").read_text("utf-8")
    assert len(runs.read_json(path)) == 3


def test_a_generator_that_memorized_its_patches_is_refused(copied):
    with (
        generating(training_patches(copied)) as (settings, root),
        pytest.raises(WorkError, match=r"audit failed, and .*out was not written\. Candidates removed") as error,
    ):
        release(settings, root, REQUEST, Path("out"))
    assert "gan.diff_augment" in str(error.value)
    assert not Path("out").exists()
    audit = runs.read_json(root / "release" / "audit.json")
    assert not audit["passed"]
    assert audit["utility"] is None
    (removed,) = [check for check in audit["privacy"] if check["passed"] is False]
    assert (removed["name"], removed["limit"]) == ("removed_fraction", privacy.MAX_REMOVED)
    assert removed["value"] > 0.9


def failed_checks(root: Path) -> set[tuple[str, str]]:
    """Names and spaces of the checks that failed."""
    checks = runs.read_json(root / "release" / "audit.json")["privacy"]
    return {(check["name"], check["space"]) for check in checks if check["passed"] is False}


def remove_nothing(monkeypatch) -> None:
    """Release patches that are too near to training patches, and repeated ones."""
    monkeypatch.setattr(privacy, "is_too_near", lambda measured, limits: np.zeros(len(measured), bool))
    monkeypatch.setattr(repeats.RepeatFilter, "find", lambda self, values: np.zeros(len(values["pixels"]), bool))


def test_the_attacks_find_a_generator_that_memorized_where_nothing_is_removed(copied, monkeypatch):
    remove_nothing(monkeypatch)
    with generating(training_patches(copied)) as (settings, root), pytest.raises(WorkError, match="audit failed"):
        release(settings, root, REQUEST, Path("out"))
    assert not Path("out").exists()
    names = {"nearer_to_members", "membership_patches", "membership_patients", "true_positive_rate"}
    assert failed_checks(root) >= {(name, space) for name in names for space in ("pixels", "features")}


def test_the_attacks_find_a_leak_of_one_patient_where_nothing_is_removed(copied, monkeypatch):
    """One patch in five is of one training patient."""
    remove_nothing(monkeypatch)
    index = store.load(copied / "preprocess").index
    patient = index["patient"][index["role"] == "train"].iloc[0]
    banks, leaked = [bank.copy() for bank in fresh_patches(STRANGERS)], training_patches(copied, [patient])
    for bank, patches in zip(banks, leaked, strict=True):
        bank[: BANK // 5] = patches[: BANK // 5]
    with generating(banks) as (settings, root), pytest.raises(WorkError, match="audit failed"):
        release(settings, root, REQUEST, Path("out"))
    assert failed_checks(root) >= {("linkage", "pixels"), ("true_positive_rate", "pixels")}
    assert runs.read_json(root / "release" / "audit.json")["most_exposed_patient"] == patient


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
    refuse(r"There are 0 patients with 5 patches or more that the generator has not seen\..* needs 20 of each")


def test_data_without_patients_are_refused(copied, monkeypatch):
    change_index(copied, patient=lambda index: index["id"])
    monkeypatch.setattr(execution.artifacts, "stale_reason", lambda *_: None)
    refuse("names no patients")


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


def test_a_folder_that_is_not_empty_is_not_changed(copied):
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
    message = r"accepted 0 of 384 candidates of the class benign, 0 of these repeat others, and 150 were asked for"
    with generating(fresh_patches(STRANGERS, 4)) as (settings, root), pytest.raises(WorkError, match=message):
        release(settings, root, REQUEST, Path("out"))
    assert not Path("out").exists()


def test_a_generator_of_few_patches_cannot_fill_a_release(copied, monkeypatch):
    monkeypatch.setattr(synthesis, "MAX_TRIES_PER_PATCH", 4)
    message = r"class benign, \d\d+ of these repeat others, and 150 were asked for"
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
        "label": np.repeat([0, 1], [100, 900]), "score_pixels": np.repeat([2.0, 0.0], [20, 980]), "score_features": 0.0,
        "distance_pixels": 1.0, "distance_features": 1.0,
    })  # fmt: skip
    limits, distances = (dict.fromkeys(privacy.PATCH_SPACES, value) for value in (1.0, np.ones(5)))
    removed, *_ = privacy.check_proximity(candidates, privacy.Proximity(limits, distances))
    assert removed.value == pytest.approx(0.2)
    assert removed.passed is False


@pytest.mark.parametrize(
    ("estimate", "passed"),
    [
        ((0.50, 0.42, 0.58), True),
        ((0.58, 0.48, 0.68), True),  # chance lies within
        ((0.58, 0.53, 0.63), False),
        ((0.42, 0.37, 0.47), False),  # an attacker can reverse the score
        ((0.52, 0.51, 0.53), True),  # beyond chance, and harmless
        ((0.50, 0.20, 0.80), False),  # too few patients
        ((0.50, None, None), False),
    ],
)
def test_a_check_fails_where_a_leak_is_shown_or_cannot_be_excluded(estimate, passed):
    values = dict(zip(("value", "low", "high"), estimate, strict=True))
    assert privacy._two_sided("membership_patients", "pixels", values).passed is passed


def test_data_of_an_unknown_scale_can_be_released(released, tmp_path):
    folder = next((released / "runs" / "audited" / "cache" / "release").glob("patches-*"))
    identity = dataset.Identity("x", "https://example.org/terms", "A", ("a", "b"), None, 0, {"generator.keras": "0"})
    audit = runs.read_json(released / "out" / "audit.json")
    dataset.write(tmp_path / "out", identity, synthesis.load(folder), audit, "2026-01-02")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "microns per pixel unknown" in card
    assert "license: other\nlicense_link: https://example.org/terms" in card
    assert runs.read_json(tmp_path / "out" / "manifest.json")["mpp"] is None


def test_an_unfinished_release_leaves_nothing(released, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(dataset, "data_card", fail)
    folder = next((released / "runs" / "audited" / "cache" / "release").glob("patches-*"))
    identity = dataset.Identity("x", "CC0-1.0", "A", ("a", "b"), 4.0, 0, {"generator.keras": "0"})
    audit = runs.read_json(released / "out" / "audit.json")
    with pytest.raises(OSError, match="disk full"):
        dataset.write(tmp_path / "out", identity, synthesis.load(folder), audit, "2026-01-02")
    assert list(tmp_path.iterdir()) == []


def test_a_turned_copy_has_nearly_the_features_of_its_original(copied):
    images = store.load(copied / "preprocess").images[np.arange(12)]
    extract, name = privacy.make_feature_fn(copied)
    turned = np.stack([np.rot90(image, 1 + index % 3) for index, image in enumerate(images)])
    turned_features, original_features = extract(turned), extract(images)
    distances = np.linalg.norm(turned_features[:, None] - original_features, axis=2)
    assert (distances.argmin(1) == np.arange(12)).all()
    assert np.diag(distances).max() < 0.05 * np.median(distances)


def test_the_report_shows_the_audit_of_its_own_files_alone(released, tmp_path, caplog):
    shutil.copytree(released / "runs" / "audited", tmp_path / "run")
    audit = run_files._read_release_audit(tmp_path / "run")
    assert audit["passed"]
    assert "most_exposed_patient" not in audit
    path = tmp_path / "run" / "gan" / "manifest.json"
    manifest = runs.read_json(path)
    manifest["outputs"]["generator.keras"] = "0"
    runs.write_json(path, manifest)
    assert run_files._read_release_audit(tmp_path / "run") is None


def test_an_audit_has_tables_of_privacy_utility_and_tuning(released):
    audit = runs.read_json(released / "out" / "audit.json")
    assert len(tables.privacy(audit | {"utility": None})) == len(audit["privacy"])
    assert len(tables.utility(audit)) == 2
    assert len(tables.tuning(audit)) == 2


def test_the_projected_discriminators_score_is_the_mean_of_its_logits(copied, monkeypatch):
    features = networks.imagenet_features(50, weights=False)
    monkeypatch.setattr(networks, "imagenet_features", lambda size: features)
    network = networks.projected_discriminator(features, width=4)
    images = store.load(copied / "preprocess").images.select(np.arange(10))
    scores = privacy._score_by_projected_discriminator(network, images, 2)
    maps = [np.asarray(values) for values in features(images[np.arange(10)].astype(np.float32) / 255)]
    outputs = [network([*maps, np.full(10, label)]) for label in (0, 1)]
    logits = [[np.asarray(values).mean((1, 2, 3)) for values in by_map] for by_map in outputs]
    np.testing.assert_allclose(scores, np.mean(logits, (0, 1)), rtol=1e-3, atol=1e-5)
    assert np.ptp(scores) > 0
