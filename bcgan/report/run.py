"""A finished run as the report reads it: the stages' files, and numbers and phrases that several figures share."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bcgan import ledger
from bcgan.classes import class_colors, class_text
from bcgan.classifiers import with_simclr
from bcgan.classify.calibration import Calibration, apply
from bcgan.data.splits import unlisted_patients
from bcgan.evaluate.derived import CONTEXT, ENSEMBLE, get_probabilities, seeds_by_classifier
from bcgan.evaluate.intervals import MIN_PATIENTS
from bcgan.evaluate.metrics import call, operating_points
from bcgan.experiment import Experiment
from bcgan.gan.quality_filter import probabilities_of
from bcgan.gan.watch import layout_correlation
from bcgan.preprocess import store
from bcgan.report import wording
from bcgan.report.style import CLASSIFIER_NAMES, ROLE_NAMES
from bcgan.report.wording import count_text

# Published sizes of data sets that are often read only in part.
ARCHIVE_TOTALS = {"idc": {"patches": 277_524, "patients": 279}}


class Run(NamedTuple):
    """A finished run, as its files have it."""

    experiment: Experiment
    store: store.Store
    split: dict[str, Any]  # split.json: policy, seed, counts by role, sha256, patients (their roles)
    audit: dict[str, Any]  # audit.json: numbers of patches found and kept, faults, what was unknown
    faulty_files: pd.DataFrame  # id, faults: files in which the audit found a fault
    properties: pd.DataFrame  # of each patch of the store: id, class, role, density, coverage, colors, ...
    pooled_features: np.ndarray  # (patches of the store, channels): means over the discriminator's map COMPARED_BLOCK
    synthetic: dict[str, np.ndarray]  # images (uint8), labels, accepted, COMPARED_BLOCK (its channel means)
    synthetic_properties: pd.DataFrame  # of each synthetic patch, with filter_result
    sample_grids: list[Path]  # pictures of synthetic patches, by GAN step
    gan_log: pd.DataFrame  # a row for each logged step
    training_logs: pd.DataFrame  # classifier, seed, epoch, loss, accuracy, validation_*
    probabilities: pd.DataFrame  # of each held-out patch: id, patient, label, role and each training's probability
    metrics: dict[str, Any]  # metrics.json, by classifier: thresholds, calibration, sets ({role: {metric: estimate}})
    comparisons: list[dict[str, Any]]  # classifier, reference, metric, value, low, high, p
    split_optimism: dict[str, Any]  # model: random_split, patient_split, split_optimism
    leak_audit: dict[str, Any]  # passed, checks
    gan_scores: dict[str, Any]  # score: value, low, high, floor, ceiling, samples, network
    release_audit: dict[str, Any] | None  # of the last `bcgan release`: number, removed, privacy, utility, passed
    steering: pd.DataFrame  # class, attribute, asked, measured, unasked
    latent_walks: dict[str, np.ndarray]  # walk, sweep, asked
    probes: dict[str, Any] | None
    explanations: dict[str, Any] | None  # classifier, seed, patches, and each method's tests
    explained_patches: dict[str, np.ndarray]  # real_<what> and synthetic_<what>: images, probability, a map a method
    translations: dict[str, Any] | None  # classes (the pair), real_class_difference, classifier, phantom_ground_truth
    translated_patches: dict[str, np.ndarray]  # real_<class>, synthetic_<class>: patch, translation, translation back
    learning_curve: dict[str, Any] | None  # cells, differences
    tuning: dict[str, Any] | None  # of the last `bcgan tune`: model, trials, best, baseline and its state
    ablation: dict[str, Any] | None  # model, epochs, variants, selected
    cross_validation: dict[str, Any] | None  # num_folds, epochs, models
    pretraining_patients: dict[str, Any] | None  # patches, patients: those that SimCLR was trained on
    manifests: dict[str, Any]  # of each finished stage: version, commit, environment, seconds, outputs, ...
    times: list[ledger.Entry]  # of the stages and their longest trainings
    patient_images: bool  # whether pictures of patients' tissue may be shown

    @property
    def is_phantom(self) -> bool:
        """Return whether the tissue is procedural."""
        return self.experiment.data.name == "histology_phantom"

    @property
    def data_source(self) -> str:
        """Return the data set's name, or `tiles` for patches that `bcgan tile` cut, which are read as `idc`.

        The names of the public archive's patches have the slide number 5, those of tiles a hash.
        """
        name = self.experiment.data.name
        is_archive = self.store.index["id"].str.contains("_idx5_", regex=False).all()
        return "tiles" if name == "idc" and not is_archive else name

    @property
    def has_patient_names(self) -> bool:
        """Return whether patches name their patients. PatchCamelyon's do not: every patch counts as a patient."""
        return self.experiment.data.name != "patch_camelyon"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the classes in the order of their labels."""
        return self.experiment.data.class_names

    @property
    def class_texts(self) -> list[str]:
        """Return the names of the classes as parts of sentences, in the order of their labels."""
        return [class_text(name) for name in self.class_names]

    @property
    def class_colors(self) -> dict[str, str]:
        """Return the color of each class by name."""
        return class_colors(self.class_names)

    @property
    def is_multiclass(self) -> bool:
        """Return whether there are more than two classes."""
        return len(self.class_names) > 2

    @property
    def contrasted_labels(self) -> range:
        """Return the labels that are measured against the rest: the second of two classes, or each of more."""
        return range(0 if self.is_multiclass else 1, len(self.class_names))

    @property
    def metric_names(self) -> dict[str, str]:
        """Return the titles of the metrics by name."""
        return wording.metric_names(self.class_names)

    @property
    def classifier_names(self) -> list[str]:
        """Return the evaluated classifiers, the proposed one first, derived ones last."""
        evaluated = [name for name in CLASSIFIER_NAMES if name in self.metrics]
        return sorted(evaluated, key=lambda name: name != self.experiment.proposed)

    @property
    def trained_names(self) -> list[str]:
        """Return those of `classifier_names` that the stage classify trained."""
        return [name for name in self.classifier_names if name in self.experiment.classify.models]

    def seeds(self, name: str) -> list[int]:
        """Return the seeds of a classifier's trainings."""
        return seeds_by_classifier(self.probabilities)[name]

    def probabilities_by_seed(self, name: str, table: pd.DataFrame) -> dict[int, np.ndarray]:
        """Return {training seed: the probabilities that decide which class a patch is called}.

        Args:
            name: Of the classifier.
            table: Rows of `probabilities`, one for each of n patches.

        Returns:
            Two classes: of the second class, (n,), not calibrated, as the threshold is one of such probabilities.
            More: of each class, (n, classes), calibrated, as the class with the highest one is called.
        """
        if self.is_multiclass:
            return {seed: self.calibrated_probabilities(name, seed, table) for seed in self.seeds(name)}
        return {seed: get_probabilities(table, name, seed) for seed in self.seeds(name)}

    def mean_probabilities(self, name: str, table: pd.DataFrame) -> np.ndarray:
        """Return the mean over the seeds of `probabilities_by_seed`: (n,), or (n, classes) with more than two."""
        return np.mean(list(self.probabilities_by_seed(name, table).values()), axis=0)

    def calibrated_probabilities(self, name: str, seed: int, table: pd.DataFrame) -> np.ndarray:
        """Return the calibrated probabilities of one training, (n,) or (n, classes), for the n patches in `table`."""
        calibration = Calibration(**self.metrics[name]["calibration"][str(seed)])
        return apply(calibration, get_probabilities(table, name, seed))

    def called_by_seed(self, name: str, table: pd.DataFrame) -> dict[int, np.ndarray]:
        """Return {seed: the labels that a training of a classifier calls the patches of `table`, (n,)}."""
        thresholds = self.metrics[name]["thresholds"]
        return {
            seed: call(probabilities, thresholds[str(seed)])
            for seed, probabilities in self.probabilities_by_seed(name, table).items()
        }

    def mean_calls(self, name: str, table: pd.DataFrame) -> np.ndarray:
        """Return the labels, (n,), that a classifier calls the patches of `table` by the mean over its seeds."""
        return call(self.mean_probabilities(name, table), None if self.is_multiclass else self.mean_threshold(name))

    def true_probabilities(self, name: str, table: pd.DataFrame) -> np.ndarray:
        """Return a classifier's mean probability of the true class of each patch of `table`, (n,)."""
        return probabilities_of(self.mean_probabilities(name, table), table["label"].to_numpy())

    def correct_fraction(self, name: str, table: pd.DataFrame) -> pd.Series:
        """Return, by the index of `table`, the fraction of its trainings that classify each patch correctly."""
        correct = [table["label"] == called for called in self.called_by_seed(name, table).values()]
        return pd.concat(correct, axis=1).mean(axis=1)

    def patient_accuracies(self, name: str) -> pd.Series:
        """Return the share of each test patient's patches that a classifier gets right, mean over seeds; by patient."""
        table = self.test_predictions
        return self.correct_fraction(name, table).groupby(table["patient"]).mean()

    @property
    def test_predictions(self) -> pd.DataFrame:
        """Return the rows of `probabilities` that are test patches."""
        return self.probabilities[self.probabilities["role"] == "test"]

    def trained_on_unlisted(self) -> list[str]:
        """Return the classifiers trained on unlabelled patches of unlisted patients, and ensembles with one of them."""
        patients = (self.pretraining_patients or {}).get("patients", ())
        pretrained_on = unlisted_patients(self.store.index).intersection(patients)
        unlisted_names = set(with_simclr(self.experiment.classify.models)) if pretrained_on else set()
        unlisted_names |= {ENSEMBLE, CONTEXT} if unlisted_names & set(self.experiment.ensemble_members) else set()
        return [name for name in self.classifier_names if name in unlisted_names]

    def role_counts(self, role: str) -> dict[str, Any]:
        """Return the numbers of `patients`, `patches` and `positives` (patches not of the first class) of a role."""
        return self.split["counts"][role]

    def class_counts(self, role: str) -> list[int]:
        """Return the numbers of patches of a role, by label."""
        counts = self.role_counts(role)
        if self.is_multiclass:
            return [counts["by_class"][name] for name in self.class_names]
        return [counts["patches"] - counts["positives"], counts["positives"]]

    def role_summary(self, role: str) -> str:
        """Return a role's counts for captions: `49 test patients, 2,120 patches, 556 malignant`."""
        counts, by_class = self.role_counts(role), self.class_counts(role)
        classes = ", ".join(f"{by_class[label]:,} {self.class_texts[label]}" for label in self.contrasted_labels)
        if len(self.class_names) > wording.MAX_LISTED_CLASSES:
            classes = f"{len(self.class_names)} classes"
        return f"{counts['patients']} {ROLE_NAMES[role]} patients, {counts['patches']:,} patches, {classes}"

    def gan_training_summary(self) -> str:
        """Return a sentence for captions: the steps and patches that the GAN was trained with."""
        gan = self.experiment.gan
        late_text = (
            f", the last {gan.projected_discriminator_3x3_steps:,} with a new projected discriminator,"
            if gan.projected_discriminator_3x3_steps
            else ""
        )
        return (
            f"The GAN learnt in {gan.steps:,} steps of {gan.batch_size} patches{late_text} from "
            f"{self.role_summary('train')}."
        )

    def layout_correlations(self) -> dict[str, list[float]]:
        """Return the mean correlation of the layouts of two patches of a class: {synthetic, real: [by label]}.

        A layout is the brightness on a coarse grid. Synthetic patches that correlate more than real ones, which are the
        training patches, are a sign of mode collapse.
        """
        index = self.store.index[self.store.index["role"] == "train"]
        image_sets = {
            "synthetic": (self.synthetic["images"], self.synthetic["labels"]),
            "real": (self.store.images[index.index], index["label"].to_numpy()),
        }
        all_labels = range(len(self.class_names))
        return {
            kind: [layout_correlation(images[labels == label]) for label in all_labels]
            for kind, (images, labels) in image_sets.items()
        }

    def subset_note(self) -> str:
        """Return a sentence on how much of the public archive was read; empty if that is unknown, or all was read."""
        archive, num_read = ARCHIVE_TOTALS.get(self.data_source), self.audit["patches"]
        if archive is None or num_read >= archive["patches"]:
            return ""
        return (
            f"A part of the archive: {num_read:,} of the public archive's {archive['patches']:,} patches were read, of "
            f"{self.store.index['patient'].nunique()} of its {archive['patients']} patients."
        )

    def data_sha256(self) -> str:
        """Return the SHA-256 of the sorted hashes of the patches' pixels, independent of files' order and paths."""
        return hashlib.sha256("\n".join(sorted(self.store.index["pixels"])).encode()).hexdigest()

    def protocol_text(self) -> str:
        """Return how patients were split, for captions."""
        data, policy = self.experiment.data, self.split["policy"]
        if data.name == "patch_camelyon":  # which names no patients
            return "the data set's own split" if policy == "official" else "patches, whose patients are unknown"
        lists = "patient lists of data.split_dir" if data.split_dir else "official patient lists"
        texts = {"official": lists, "extended": f"{lists}, other patients join training"}
        return texts.get(policy, f"whole patients by {policy.replace('kfold', 'k-fold')}")

    def bootstrap_note(self) -> str:
        """Return for captions what the intervals of all classifiers are over: patients, or also trainings."""
        has_trainings = max(self._numbers_of_seeds().values()) > 1
        return "a bootstrap of patients" + (", widened by what trainings vary" if has_trainings else "")

    @property
    def has_intervals(self) -> bool:
        """Return whether the test patients are enough for intervals."""
        return self.test_predictions["patient"].nunique() >= MIN_PATIENTS

    def interval_text(self) -> str:
        """Return for captions what the test patients' intervals are, or that there are none."""
        if not self.has_intervals:
            return f"no intervals, as there are fewer than {MIN_PATIENTS} test patients"
        return f"{wording.percent(self.experiment.evaluate.confidence_level)} intervals by {self.bootstrap_note()}"

    def is_trained_once(self, name: str) -> bool:
        """Return whether a classifier is, or pools, a network that was trained once.

        Its intervals do not cover how trainings of that network differ.
        """
        members = self.experiment.ensemble_members if name in (ENSEMBLE, CONTEXT) else (name,)
        return any(len(self.seeds(member)) == 1 for member in members if member in self.trained_names)

    def trainings_text(self, name: str) -> str:
        """Return a classifier's number of trainings, of an ensemble those of its members, such as `3+1`."""
        members = self.experiment.ensemble_members if name in (ENSEMBLE, CONTEXT) else (name,)
        return "+".join(str(len(self.seeds(member))) for member in members)

    def single_fit_note(self) -> str:
        """Return a sentence that names the classifiers whose intervals are over patients only, not over seeds.

        They are trained once, or are ensembles, which pool their members' seeds. "" if there are none.
        """
        names = [name for name in self.classifier_names if len(self.seeds(name)) == 1]
        if not names:
            return ""
        if max(self._numbers_of_seeds().values()) == 1:
            return "Each network was trained once: the intervals do not cover how trainings of a network differ."
        titles = ", ".join(CLASSIFIER_NAMES[name] for name in names)
        return f"Over patients alone: {titles}; each is trained or fitted once, or pools its members' seeds."

    def mean_threshold(self, name: str) -> float:
        """Return the probability from which on a classifier calls the second of two classes, mean over the seeds."""
        return float(np.mean(list(self.metrics[name]["thresholds"].values())))

    def thresholds_by_seed(self, name: str, rule: str) -> dict[int, float]:
        """Return {seed: threshold} that a rule selects on the validation patients for each training of a classifier.

        Args:
            name: Of the classifier, of two classes.
            rule: What the threshold is best for: `youden`, `sensitivity_95`, `f1` or `accuracy`.
        """
        validation = self.probabilities[self.probabilities["role"] == "validation"]
        labels = validation["label"].to_numpy()
        return {
            seed: operating_points(labels, scores)[rule]
            for seed, scores in self.probabilities_by_seed(name, validation).items()
        }

    def seeds_text(self, name: str | None = None) -> str:
        """Return a classifier's number of seeds, such as `3 seeds`.

        Without a name: the most frequent number, and the classifiers with others, such as `3 seeds (1: Plain CNN)`.
        """
        if name:
            return count_text(len(self.seeds(name)), "seed")
        numbers = self._numbers_of_seeds()
        counts = list(numbers.values())
        usual = max(set(counts), key=lambda count: (counts.count(count), count))
        names_by_count: dict[int, list[str]] = {}
        for name, count in numbers.items():
            if count != usual:
                names_by_count.setdefault(count, []).append(CLASSIFIER_NAMES[name])
        exceptions = "; ".join(f"{count}: {', '.join(names)}" for count, names in sorted(names_by_count.items()))
        return count_text(usual, "seed") + (f" ({exceptions})" if exceptions else "")

    def _numbers_of_seeds(self) -> dict[str, int]:
        """Return how many trainings each classifier has."""
        return {name: len(self.seeds(name)) for name in self.trained_names}
