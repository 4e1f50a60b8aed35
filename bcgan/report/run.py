"""Everything that a report shows, read once from the stages' files."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bcgan import progress, runs
from bcgan.artifacts import MANIFEST, PARTIAL
from bcgan.classify.pretraining import SEEN
from bcgan.data.records import CLASSES
from bcgan.errors import InputError
from bcgan.evaluate import patients as by_patient
from bcgan.evaluate import score
from bcgan.evaluate.derived import CONTEXT, ENSEMBLE, classifiers, column
from bcgan.experiment import Experiment
from bcgan.gan.features import PICTURED
from bcgan.gan.watch import sameness
from bcgan.preprocess import store
from bcgan.report.style import CLASSIFIER_NAMES, ROLE_NAMES

# Of data sets that are often read in part, as published.
ARCHIVE_TOTALS = {"idc": {"patches": 277_524, "patients": 279}}


class Run(NamedTuple):
    """A finished run. patient_images: whether pictures of patients' tissue may be shown."""

    experiment: Experiment
    store: store.Store
    split: dict[str, Any]
    audit: dict[str, Any]
    faulty: pd.DataFrame  # id, faults: files in which the audit found any
    properties: pd.DataFrame
    pooled: np.ndarray  # of every patch of the store, the means of the channels of PICTURED
    synthetic: dict[str, np.ndarray]
    synthetic_properties: pd.DataFrame
    grids: list[Path]
    gan_log: pd.DataFrame
    logs: pd.DataFrame  # classifier, seed, epoch, loss, accuracy, validation_*
    probabilities: pd.DataFrame
    metrics: dict[str, Any]
    comparisons: list[dict[str, Any]]  # classifier, against, metric, value, low, high, p
    split_optimism: dict[str, Any]  # model: random_split, patient_split, split_optimism
    leak_audit: dict[str, Any]
    gan_scores: dict[str, Any]
    steering: pd.DataFrame  # class, attribute, asked, measured, unasked
    walks: dict[str, np.ndarray]  # walk, sweep, asked
    probes: dict[str, Any] | None
    explanations: dict[str, Any] | None  # classifier, seed, patches, and each method's tests
    explained: dict[str, np.ndarray]  # real_<what> and synthetic_<what>: images, probability, a map a method
    translations: dict[str, Any] | None  # classes, gap
    translated: dict[str, np.ndarray]  # real_<class> and synthetic_<class>: patch, translation, way back
    learning_curve: dict[str, Any] | None  # cells, differences
    ablation: dict[str, Any] | None  # model, epochs, variants
    cross_validation: dict[str, Any] | None  # num_folds, epochs, models
    pretrained: dict[str, Any] | None  # patches, patients: whom self-supervision met
    manifests: dict[str, Any]
    patient_images: bool

    @property
    def phantom(self) -> bool:
        return self.experiment.data.name == "histology_phantom"

    @property
    def patients_known(self) -> bool:
        """PatchCamelyon names no patient: every patch stands for itself."""
        return self.experiment.data.name != "patch_camelyon"

    @property
    def names(self) -> list[str]:
        """The classifiers, the proposed one first, derived ones last."""
        evaluated = [name for name in CLASSIFIER_NAMES if name in self.metrics]
        return sorted(evaluated, key=lambda name: name != self.experiment.proposed)

    @property
    def trained(self) -> list[str]:
        """Those of `names` that the stage classify trained."""
        return [name for name in self.names if name in self.experiment.classify.models]

    def columns(self, name: str) -> dict[int, str]:
        """{seed: column of `probabilities`} of a classifier."""
        return {seed: column(name, seed) for seed in classifiers(self.probabilities)[name]}

    def mean(self, name: str, table: pd.DataFrame) -> pd.Series:
        """Return a classifier's probabilities of the patches in `table`, the mean over its seeds."""
        return table[list(self.columns(name).values())].mean(axis=1)

    def right(self, name: str, table: pd.DataFrame) -> pd.Series:
        """In how many of its trainings a classifier calls each patch of `table` right, as a share."""
        thresholds = self.metrics[name]["thresholds"]
        calls = [table[column] >= thresholds[str(seed)] for seed, column in self.columns(name).items()]
        return pd.concat([call == (table["label"] == 1) for call in calls], axis=1).mean(axis=1)

    @property
    def test(self) -> pd.DataFrame:
        """Those of `probabilities` that are of test patches."""
        return self.probabilities[self.probabilities["role"] == "test"]

    def trained_on_unlisted(self) -> list[str]:
        """Return the classifiers trained on unlabelled patches of unlisted patients, and ensembles with one of them."""
        unlisted_names = set(self.experiment.trained_on_unlisted) if "unlisted" in self.split["counts"] else set()
        unlisted_names |= {ENSEMBLE, CONTEXT} if unlisted_names & set(self.experiment.members) else set()
        return [name for name in self.names if name in unlisted_names]

    def count(self, role: str) -> dict[str, int]:
        return self.split["counts"][role]

    def said(self, role: str) -> str:
        """`49 test patients, 2,120 patches, 556 malignant`, for captions."""
        count, name = self.count(role), ROLE_NAMES[role]
        return f"{count['patients']} {name} patients, {count['patches']:,} patches, {count['positives']:,} malignant"

    def learnt_from(self) -> str:
        """What made the synthetic patches, for captions."""
        gan = self.experiment.gan
        late_text = (
            f", the last {gan.projected_discriminator_3x3_steps:,} with a new projected discriminator,"
            if gan.projected_discriminator_3x3_steps
            else ""
        )
        return (
            f"The GAN learnt in {gan.steps:,} steps of {gan.batch_size} patches{late_text} from {self.said('train')}."
        )

    def layout_sameness(self) -> dict[str, list[float]]:
        """How alike the layouts of two patches of a class are, benign and malignant: synthetic, real training ones."""
        index = self.store.index[self.store.index["role"] == "train"]
        image_sets = {
            "synthetic": (self.synthetic["images"], self.synthetic["labels"]),
            "real": (self.store.images[index.index], index["label"].to_numpy()),
        }
        return {
            kind: [sameness(images[labels == label]) for label in range(len(CLASSES))]
            for kind, (images, labels) in image_sets.items()
        }

    def part(self) -> str:
        """How much of the public archive was read, where that is known and is not all of it."""
        archive, read = ARCHIVE_TOTALS.get(self.experiment.data.name), self.audit["patches"]
        if archive is None or read >= archive["patches"]:
            return ""
        return (
            f"A part of the archive: {read:,} of the public archive's {archive['patches']:,} patches were read, of "
            f"{self.store.index['patient'].nunique()} of its {archive['patients']} patients."
        )

    def data_sha256(self) -> str:
        """Of the kept patches' pixels, whatever their files' order and place: SHA-256 of their sorted hashes."""
        return hashlib.sha256("\n".join(sorted(self.store.index["pixels"])).encode()).hexdigest()

    def protocol(self) -> str:
        policy = {
            "official": "official patient lists",
            "extended": "official lists, other patients join training",
        }
        return policy.get(self.split["policy"], f"whole patients by {self.split['policy'].replace('kfold', 'k-fold')}")

    def bootstrap(self) -> str:
        """What the classifiers' intervals are over."""
        return "a bootstrap of patients" + (" and of seeds" if len(self.experiment.classify.seeds) > 1 else "")

    def single(self) -> str:
        """Which classifiers' intervals are not over seeds, in a sentence."""
        names = [name for name in self.names if len(self.columns(name)) < len(self.experiment.classify.seeds)]
        if not names:
            return ""
        titles = ", ".join(CLASSIFIER_NAMES[name] for name in names)
        return f"Over patients alone: {titles}; each is fitted once, or pools its members' seeds."

    def threshold(self, name: str) -> float:
        """From which probability on a classifier calls a patch malignant, mean over the seeds."""
        return float(np.mean(list(self.metrics[name]["thresholds"].values())))

    def seeds(self) -> str:
        number = len(self.experiment.classify.seeds)
        return f"{number} seed{'s' if number > 1 else ''}"


def read(experiment: Experiment, root: Path, patient_images: bool) -> Run:
    probabilities, measured = score.load(root / "evaluate")
    if any(
        name not in classifier_metrics["sets"]["test"]
        for classifier_metrics in measured["metrics"].values()
        for name in by_patient.NAMES
    ):
        raise InputError(
            f"{root / 'evaluate'} was made by an older bcgan: bcgan run {experiment.name} --force evaluate."
        )
    synthetic, walks = (runs.read_arrays(root / "features" / f"{name}.npz") for name in ("synthetic", "walks"))
    translations_path, probes = root / "evaluate" / "translations.json", root / "evaluate" / "probes.json"
    explained, pretrained_path = root / "evaluate" / "explanations.json", root / "pretrain" / SEEN
    properties = pd.read_csv(
        root / "features" / "properties.csv", dtype={"id": str, "patient": str}, keep_default_na=False
    )
    properties["class"] = np.array(CLASSES)[properties["label"]]
    return Run(
        experiment,
        store.load(root / "preprocess"),
        runs.read_json(root / "preprocess" / "split.json"),
        runs.read_json(root / "preprocess" / "audit.json"),
        pd.read_csv(root / "preprocess" / "audit.csv", dtype=str, keep_default_na=False)[["id", "faults"]],
        properties,
        _pooled(root / "features" / "pooled.npz"),
        synthetic,
        pd.read_csv(root / "features" / "synthetic_properties.csv"),
        sorted((root / "gan" / "grids").glob("*.png")),
        pd.DataFrame(progress.read_lines(root / "gan" / "log.jsonl")),
        _logs(experiment, root / "classify"),
        probabilities,
        measured["metrics"],
        measured["comparisons"],
        measured["split_optimism"],
        measured["leak_audit"],
        runs.read_json(root / "evaluate" / "gan_scores.json"),
        pd.read_csv(root / "features" / "steering.csv"),
        walks,
        runs.read_json(probes) if probes.exists() else None,
        runs.read_json(explained) if explained.exists() else None,
        runs.read_arrays(explained.with_suffix(".npz")) if explained.exists() else {},
        runs.read_json(translations_path) if translations_path.exists() else None,
        runs.read_arrays(translations_path.with_suffix(".npz")) if translations_path.exists() else {},
        asked_for(experiment, root, "learning_curve", "learning_curve.json"),
        asked_for(experiment, root, "ablation", "ablation.json"),
        asked_for(experiment, root, "cross_validation", "cross_validation.json"),
        runs.read_json(pretrained_path) if pretrained_path.exists() else None,
        _manifests(root),
        patient_images,
    )


def _pooled(path: Path) -> np.ndarray:
    with np.load(path) as saved:
        return saved[PICTURED]


def asked_for(experiment: Experiment, root: Path, stage: str, file: str) -> Any:
    """What a stage that runs only when asked for has found, where it ran on these files with these settings."""
    path = root / stage / MANIFEST
    if not path.exists() or not path.with_name(file).exists():
        return None
    manifest = runs.read_json(path)
    current = {
        f"{name}/{file}": digest
        for name, manifest_of_stage in _manifests(root).items()
        for file, digest in manifest_of_stage["outputs"].items()
    }
    same_settings = _part_of(manifest["settings"], experiment.model_dump(mode="json"))
    if not same_settings or not manifest["inputs"].items() <= current.items():
        progress.log.warning("report: %s is of other settings or files and is left out", path.parent)
        return None
    return runs.read_json(path.with_name(file))


def _manifests(root: Path) -> dict[str, Any]:
    """Return the manifest of each finished stage."""
    paths = [path for path in root.glob(f"*/{MANIFEST}") if path.parent.suffix != PARTIAL]
    return {path.parent.name: runs.read_json(path) for path in paths}


def _part_of(part: Any, container: Any) -> bool:
    if isinstance(part, dict) and isinstance(container, dict):
        return all(key in container and _part_of(value, container[key]) for key, value in part.items())
    return part == container


def _logs(experiment: Experiment, folder: Path) -> pd.DataFrame:
    lines = [
        {"classifier": name, "seed": seed, **line}
        for name in experiment.classify.models
        for seed in experiment.classify.seeds
        for line in progress.read_lines(folder / f"{name}-seed{seed}.jsonl")
    ]
    return pd.DataFrame(lines)
