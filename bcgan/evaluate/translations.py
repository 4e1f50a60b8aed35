"""Evaluate the translations between the classes as counterfactuals, on held-out patients.

For a patch that the classifier predicts correctly: is its translation predicted as the other class, and which
properties of the image changed? A translation that also changes the stain or the layout is a poor counterfactual: it
does not show what would have to change in this tissue.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy.stats import ConstantInputWarning, pearsonr
from skimage.color import rgb2gray, rgb2lab
from skimage.metrics import structural_similarity
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bcgan import data, progress, runs
from bcgan.classify import calibration
from bcgan.classify.calibration import Calibration
from bcgan.classify.scoring import predict_probabilities
from bcgan.data.histology_phantom.tissue import held_out_patches
from bcgan.data.prepared import phantom_labels
from bcgan.evaluate import intervals
from bcgan.experiment import Experiment
from bcgan.gan.translation import translate
from bcgan.gan.watch import brightness_grids
from bcgan.models import weights
from bcgan.models.efficientnet_lite import has_weights, pooled_features
from bcgan.preprocess import properties
from bcgan.preprocess.store import Store, load_role, load_synthetic, resize_patches

PROPERTIES = ("density", "haematoxylin", "coverage", "contrast", "red", "green", "blue")
MAX_EXAMPLES = 8
NUCLEAR_QUANTITIES = ("nuclear_area_fraction", "nuclear_count", "nuclear_radius_px")  # known for phantom patches
NUM_PHANTOM_PATCHES = 256  # of each class, for fitting the regressions, and as many that are translated
RIDGE_PENALTIES = np.logspace(0, 6, 13)  # candidates


def evaluate(experiment: Experiment, store: Store, root: Path, folder: Path) -> None:
    """Translate test patches to the other class and back; the classifier is the proposed one, with every seed.

    translations.csv has one row per patch: class, patient, flip_rate (NaN if it was not classified correctly),
    change_<property>, cielab_shift, layout_correlation (of 5x5 grids), ssim, cycle_reconstruction_error (mean absolute
    difference of the patch and its translation back, in gray levels). translations.json has their means by class with
    intervals over resampled patients; `real_class_difference`, malignant minus benign real patches; and
    `phantom_ground_truth`, from `measure_phantom_nuclei`. translations.npz has the patches of the figures.
    """
    predict_labels = _load_classifier(experiment, root, folder)
    images, labels = load_role(store, "test")
    patients = store.index["patient"].to_numpy()[store.role_indices("test")]
    pair = experiment.translated_labels
    names = [experiment.data.class_names[label] for label in pair]
    networks = [weights.load_model(root / "translate" / f"to_{name}.keras") for name in names]
    threshold = experiment.features.nuclear_od_threshold
    synthetic, synthetic_labels = load_synthetic(root / "features", experiment.data.size, accepted_only=False)
    tables, examples, class_means = [], {}, []
    for index, (label, name) in enumerate(zip(pair, names, strict=True)):
        rows = np.flatnonzero(labels == label)
        before, after, back = translate_cycle(networks, images[rows], index)
        table = measure_changes(before, after, threshold)
        table["cycle_reconstruction_error"] = np.abs(back.astype(np.int16) - before).mean((1, 2, 3))
        is_correct = predict_labels(before) == label
        is_flipped = predict_labels(after) == pair[1 - index]
        table["flip_rate"] = np.where(is_correct, is_flipped.astype(float), np.nan)
        tables.append(table.assign(patient=patients[rows], **{"class": name}))
        rng = np.random.default_rng(experiment.seed)
        example_rows = rng.choice(len(rows), min(MAX_EXAMPLES, len(rows)), replace=False)
        examples[f"real_{name}"] = np.stack([before[example_rows], after[example_rows], back[example_rows]], 1)
        synthetic_patches = synthetic[synthetic_labels == label][:MAX_EXAMPLES]
        examples[f"synthetic_{name}"] = np.stack(translate_cycle(networks, synthetic_patches, index), 1)
        class_means.append(properties.patch_features(before, threshold)[list(PROPERTIES)].mean())
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(folder / "translations.csv", index=False, float_format="%.6g")
    np.savez_compressed(folder / "translations.npz", **examples)
    results = summarize(table, *experiment.bootstrap)
    class_difference = (class_means[1] - class_means[0]).to_dict()
    is_phantom = experiment.data.name == "histology_phantom"
    truth = measure_phantom_nuclei(networks, experiment) if is_phantom else None
    contents = {"classes": results, "real_class_difference": class_difference, "phantom_ground_truth": truth}
    runs.write_json(folder / "translations.json", contents | {"classifier": experiment.proposed})
    for name, estimates in results.items():
        flip_rate = estimates["flip_rate"]["value"]
        progress.log.info(
            "evaluate: translations of %s patches: %s called the other class, density %+.3f (real classes differ %.3f)",
            name, "none" if flip_rate is None else f"{flip_rate:.0%}", estimates["change_density"]["value"],
            class_difference["density"],
        )  # fmt: skip


def translate_cycle(
    networks: list[keras.Model], images: np.ndarray, label: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return patches of a class, their translations to the other class, and these translated back.

    Args:
        networks: The translators to the first and to the second class.
        images: uint8, (n, side, side, 3). All results are of this type and shape.
        label: 0 for patches of the first class, 1 for the second.
    """
    translated = translate(networks[1 - label], images)
    return images, translated, translate(networks[label], translated)


def measure_phantom_nuclei(networks: list[keras.Model], experiment: Experiment) -> dict[str, dict[str, Any]] | None:
    """Measure how translations change nuclei, on phantom patches of patients outside every split.

    Every nucleus of a rendered patch is known, but not of its translation. Ridge regressions on EfficientNet-Lite2's
    features, fitted on other such patients, estimate the fraction of the patch that nuclei cover, their number and
    their mean radius (pixels).

    Args:
        networks: The translators to the first and to the second class.

    Returns:
        {quantity: {real_class_difference, r2, <class>}}. real_class_difference: the second class minus the first, of
        rendered patches. r2: of the regression, on rendered patches. <class>: {value, low, high} of the change on
        translation to the other class. `None` if Lite2's weights are not installed.
    """
    if not has_weights("lite2"):
        return None
    pair = experiment.translated_labels
    train, test = (
        [_render_phantom_patches(label, first_patient, experiment) for label in pair]
        for first_patient in (0, NUM_PHANTOM_PATCHES)
    )
    names = [experiment.data.class_names[label] for label in pair]
    train_truth, test_truth = (
        pd.concat([truth for _, truth in by_class], ignore_index=True) for by_class in (train, test)
    )
    train_features = pooled_features("lite2", np.concatenate([images for images, _ in train]))
    before = pooled_features("lite2", np.concatenate([images for images, _ in test]))
    translated = [translate(networks[1 - label], images) for label, (images, _) in enumerate(test)]
    after = pooled_features("lite2", np.concatenate(translated))
    changes, results = test_truth[["class", "patient"]].copy(), {}
    for quantity in NUCLEAR_QUANTITIES:
        in_train, in_test = train_truth[quantity].notna(), test_truth[quantity].notna()  # no radius without nuclei
        regression = make_pipeline(StandardScaler(), RidgeCV(RIDGE_PENALTIES))
        regression.fit(train_features[in_train], train_truth.loc[in_train, quantity])
        changes[quantity] = regression.predict(after) - regression.predict(before)
        means = test_truth.groupby("class")[quantity].mean()
        r2 = r2_score(test_truth.loc[in_test, quantity], regression.predict(before[in_test]))
        results[quantity] = {"real_class_difference": float(means[names[1]] - means[names[0]]), "r2": float(r2)}
    for name, estimates in summarize(changes, *experiment.bootstrap).items():
        for quantity, estimate in estimates.items():
            results[quantity][name] = estimate
    return results


def _render_phantom_patches(label: int, first: int, experiment: Experiment) -> tuple[np.ndarray, pd.DataFrame]:
    """Render NUM_PHANTOM_PATCHES phantom patches of a class, of patients outside every split.

    Args:
        first: Number of the first patient.

    Returns:
        Patches, uint8, (n, size, size, 3), and a row for each: NUCLEAR_QUANTITIES, class and patient.
    """
    size, mpp = experiment.data.size, data.microns_per_pixel(experiment.data)
    kind = phantom_labels(experiment.data.classes)[label]
    patches, patients = held_out_patches(NUM_PHANTOM_PATCHES, size, kind, experiment.seed, first, mpp)
    rows = [
        (patch.density, len(patch.nuclei), patch.nuclei[:, 2].mean() if len(patch.nuclei) else np.nan)
        for patch in patches
    ]
    truth = pd.DataFrame(rows, columns=list(NUCLEAR_QUANTITIES))
    truth["class"] = experiment.data.class_names[label]
    return np.stack([patch.image for patch in patches]), truth.assign(patient=patients)


def _load_classifier(experiment: Experiment, root: Path, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from patches of any size to the labels that the proposed classifier predicts, with all seeds.

    It averages the seeds' distances from their validation thresholds or, with more than two classes, their calibrated
    probabilities.
    """
    name = experiment.proposed
    measured = runs.read_json(folder / "metrics.json")[name]
    thresholds, calibrations = measured["thresholds"], measured["calibration"]
    networks = {
        seed: weights.load_model(root / "classify" / f"{name}-seed{seed}.keras")
        for seed in experiment.classify.seeds_of(name)
    }
    size, settings = experiment.data.size, experiment.evaluate

    def predict_labels(images: np.ndarray) -> np.ndarray:
        """Return the predicted labels, integers, (n,), of uint8 patches, (n, side, side, 3)."""
        resized = resize_patches(images, size)
        by_seed = {
            seed: predict_probabilities(network, resized, settings.tta_views, settings.test_crops)
            for seed, network in networks.items()
        }
        if experiment.num_classes > 2:  # patches are called by calibrated probabilities
            calibrated = [
                calibration.apply(Calibration(**calibrations[str(seed)]), values) for seed, values in by_seed.items()
            ]
            return np.mean(calibrated, 0).argmax(1)
        return (np.mean([values - thresholds[str(seed)] for seed, values in by_seed.items()], 0) >= 0).astype(int)

    return predict_labels


def measure_changes(before: np.ndarray, after: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return the changes from patches to their translations, a row a patch; the columns are those of translations.csv.

    Args:
        before, after: uint8, (n, side, side, 3).
        threshold: Optical density of hematoxylin from which on a pixel belongs to a nucleus.
    """
    properties_before, properties_after = (properties.patch_features(images, threshold) for images in (before, after))
    table = (properties_after - properties_before)[list(PROPERTIES)].add_prefix("change_")
    lab_before, lab_after = (rgb2lab(images).mean((1, 2)) for images in (before, after))
    table["cielab_shift"] = np.linalg.norm(lab_after - lab_before, axis=1)
    gray_before, gray_after = rgb2gray(before), rgb2gray(after)
    pairs = zip(gray_before, gray_after, strict=True)
    table["ssim"] = [structural_similarity(patch, translation, data_range=1.0) for patch, translation in pairs]
    with warnings.catch_warnings(action="ignore", category=ConstantInputWarning):  # empty glass: NaN
        table["layout_correlation"] = pearsonr(
            brightness_grids(gray_before), brightness_grids(gray_after), axis=1
        ).statistic
    return table


def summarize(table: pd.DataFrame, resamples: int, confidence: float, seed: int) -> dict[str, Any]:
    """Return {class: {column: {value, low, high}}}: means over patches, with intervals over resampled patients.

    Args:
        table: Columns class and patient, and columns of numbers, which may be NaN; a row for each patch.
    """
    results = {}
    for name, rows in table.groupby("class"):
        patients = rows["patient"].to_numpy()
        results[name] = {
            column: intervals.mean_with_interval(rows[column].to_numpy(float), patients, resamples, confidence, seed)
            for column in rows.columns.difference(["class", "patient"])
        }
    return results
