"""What a translation between the classes changes and what it leaves: as a counterfactual, on held-out patients.

For a patch that the classifier called right: is its translation called the other class, what changed on the way, and
what stayed? A translation that changes the stain or the layout answers another question than "what would have to change
in this tissue".
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ConstantInputWarning, pearsonr
from skimage.color import rgb2gray, rgb2lab
from skimage.measure import block_reduce
from skimage.metrics import structural_similarity
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bcgan import progress, runs
from bcgan.classify.scoring import probabilities
from bcgan.data.histology_phantom.tissue import outside
from bcgan.data.records import CLASSES
from bcgan.data.views import central
from bcgan.evaluate import intervals
from bcgan.experiment import Experiment
from bcgan.gan.translation import translate
from bcgan.models import weights
from bcgan.models.efficientnet_lite import installed, pooled
from bcgan.preprocess import properties
from bcgan.preprocess.store import GAN_SIZE, Store, at_size, load_synthetic, of_role

PROPERTIES = ("density", "haematoxylin", "coverage", "contrast", "red", "green", "blue")
COARSE = 10  # pixels: the layout of a patch is its brightness on a 5x5 grid
MAX_EXAMPLES = 8
TRUE_QUANTITIES = ("nuclear_area_fraction", "nuclear_count", "nuclear_radius_px")  # known of phantom patches
TRUTHS = 256  # phantom patches of a class from which nuclei are learnt to be read, and as many that are translated
PENALTIES = np.logspace(0, 6, 13)


def evaluate(experiment: Experiment, store: Store, root: Path, folder: Path) -> None:
    """Translate test patches to the other class and back; the classifier is the proposed one, every seed.

    Writes translations.csv, one row per patch: class, patient, flip_rate (NaN if it was not classified correctly),
    change_<property>, cielab_shift, layout_correlation (of 5x5 grids), ssim, cycle_reconstruction_error (mean grey
    levels between the patch and its translation back). Writes translations.json: their means by class with intervals
    over resampled patients; `real_class_difference`, how real patches of the two classes differ; and
    `phantom_ground_truth`, what happens to nuclei that are known. Writes translations.npz for the figures.
    """
    settings, call = experiment.evaluate, _caller(experiment, root, folder)
    images, labels = of_role(store, "test")
    patients = store.index["patient"].to_numpy()[store.rows("test")]
    networks = [weights.load_model(root / "translate" / f"to_{name}.keras") for name in CLASSES]
    threshold = experiment.features.nuclear_od_threshold
    synthetic, synthetic_labels = load_synthetic(root / "features", GAN_SIZE, selected=False)
    tables, examples, measured = [], {}, []
    for label, name in enumerate(CLASSES):
        rows = np.flatnonzero(labels == label)
        before, after, back = there_and_back(networks, images[rows], label)
        table = compare(before, after, threshold)
        table["cycle_reconstruction_error"] = np.abs(back.astype(np.int16) - before).mean((1, 2, 3))
        right = call(before) == bool(label)
        table["flip_rate"] = np.where(right, (call(after) != bool(label)).astype(float), np.nan)
        tables.append(table.assign(patient=patients[rows], **{"class": name}))
        example_rows = np.random.default_rng(experiment.seed).choice(
            len(rows), min(MAX_EXAMPLES, len(rows)), replace=False
        )
        examples[f"real_{name}"] = np.stack([before[example_rows], after[example_rows], back[example_rows]], 1)
        examples[f"synthetic_{name}"] = np.stack(
            there_and_back(networks, synthetic[synthetic_labels == label][:MAX_EXAMPLES], label), 1
        )
        measured.append(properties.measure(before, threshold)[list(PROPERTIES)].mean())
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(folder / "translations.csv", index=False, float_format="%.6g")
    np.savez_compressed(folder / "translations.npz", **examples)
    results = summarise(table, settings.bootstrap_samples, settings.confidence_level, experiment.seed)
    gap = (measured[1] - measured[0]).to_dict()
    truth = against_truth(networks, experiment) if experiment.data.name == "histology_phantom" else None
    runs.write_json(
        folder / "translations.json",
        {
            "classes": results,
            "real_class_difference": gap,
            "classifier": experiment.proposed,
            "phantom_ground_truth": truth,
        },
    )
    for name, figures in results.items():
        progress.log.info(
            "evaluate: translations of %s patches: %s called the other class, density %+.3f (real classes differ %.3f)",
            name, _percent(figures["flip_rate"]["value"]), figures["change_density"]["value"], gap["density"],
        )  # fmt: skip


def there_and_back(networks: list, images: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches of a class, their translations to the other class, and these translated back."""
    after = translate(networks[1 - label], images)
    return images, after, translate(networks[label], after)


def against_truth(networks: list, experiment: Experiment) -> dict[str, dict[str, Any]] | None:
    """What translations do to nuclei, on phantom patches of patients whom no split holds, where every nucleus is known.

    How much of a patch nuclei cover, how many they are and how large (mean radius, pixels) is read off a translation by
    ridge regressions on EfficientNet-Lite2's features, fitted on other such patients.

    Returns:
        {quantity: {real_class_difference, r2, benign, malignant}}. real_class_difference: malignant minus benign as
        rendered. r2: of the regression on patches as rendered. benign, malignant: {value, low, high} of the change on
        translation to the other class. `None` if Lite2's weights are not installed.
    """
    if not installed("lite2"):
        return None
    fitting, testing = ([_rendered(label, first, experiment) for label in (0, 1)] for first in (0, TRUTHS))
    features, known = _seen(fitting), pd.concat([table for _, table in fitting], ignore_index=True)
    before, truth = _seen(testing), pd.concat([table for _, table in testing], ignore_index=True)
    after = _seen([(translate(networks[1 - label], images), None) for label, (images, _) in enumerate(testing)])
    changes, results = truth[["class", "patient"]].copy(), {}
    for quantity in TRUE_QUANTITIES:
        there, had = known[quantity].notna(), truth[quantity].notna()  # a patch without nuclei has none of a radius
        reader = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(features[there], known.loc[there, quantity])
        changes[quantity] = reader.predict(after) - reader.predict(before)
        means = truth.groupby("class")[quantity].mean()
        r2 = r2_score(truth.loc[had, quantity], reader.predict(before[had]))
        results[quantity] = {"real_class_difference": float(means["malignant"] - means["benign"]), "r2": float(r2)}
    settings = experiment.evaluate
    for name, figures in summarise(
        changes, settings.bootstrap_samples, settings.confidence_level, experiment.seed
    ).items():
        for quantity, figure in figures.items():
            results[quantity][name] = figure
    return results


def _rendered(label: int, first: int, experiment: Experiment) -> tuple[np.ndarray, pd.DataFrame]:
    """Phantom patches of a class, and what is known of their nuclei."""
    patches, patients = outside(TRUTHS, GAN_SIZE, label, experiment.seed, first)
    rows = [
        (patch.density, len(patch.nuclei), patch.nuclei[:, 2].mean() if len(patch.nuclei) else np.nan)
        for patch in patches
    ]
    known = pd.DataFrame(rows, columns=list(TRUE_QUANTITIES))
    return np.stack([patch.image for patch in patches]), known.assign(patient=patients, **{"class": CLASSES[label]})


def _seen(image_sets: list) -> np.ndarray:
    return pooled("lite2", np.concatenate([images for images, _ in image_sets]))


def _caller(experiment: Experiment, root: Path, folder: Path):
    """True where the classifier's seeds together call a patch malignant, at their validation thresholds."""
    name = experiment.proposed
    thresholds = runs.read_json(folder / "metrics.json")[name]["thresholds"]
    networks = {
        seed: weights.load_model(root / "classify" / f"{name}-seed{seed}.keras") for seed in experiment.classify.seeds
    }
    size, crop = experiment.data.size, experiment.classify.crop_size

    def call(images: np.ndarray) -> np.ndarray:
        sized = central(at_size(images, size), crop)
        above = [
            probabilities(network, sized, experiment.evaluate.tta_views) - thresholds[str(seed)]
            for seed, network in networks.items()
        ]
        return np.mean(above, 0) >= 0

    return call


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.0%}"


def compare(before: np.ndarray, after: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return what changed from each patch to its translation, one row per patch; uint8 (n, side, side, 3) both."""
    measured = [properties.measure(side, threshold) for side in (before, after)]
    table = (measured[1] - measured[0])[list(PROPERTIES)].add_prefix("change_")
    lab = [rgb2lab(side).mean((1, 2)) for side in (before, after)]
    table["cielab_shift"] = np.linalg.norm(lab[1] - lab[0], axis=1)
    grey = [rgb2gray(side) for side in (before, after)]
    table["ssim"] = [structural_similarity(a, b, data_range=1.0) for a, b in zip(*grey, strict=True)]
    with warnings.catch_warnings(action="ignore", category=ConstantInputWarning):  # empty glass has no layout: NaN
        table["layout_correlation"] = pearsonr(*map(_layout, grey), axis=1).statistic
    return table


def summarise(table: pd.DataFrame, resamples: int, confidence: float, seed: int) -> dict[str, Any]:
    """{class: {figure: {value, low, high}}}, means over patches with intervals over resampled patients."""
    results = {}
    for name, rows in table.groupby("class"):
        patients = rows["patient"].to_numpy()
        results[name] = {
            column: intervals.of_mean(rows[column].to_numpy(float), patients, resamples, confidence, seed)
            for column in rows.columns.difference(["class", "patient"])
        }
    return results


def _layout(grey: np.ndarray) -> np.ndarray:
    """Mean brightness on a coarse grid, (n, cells)."""
    return block_reduce(grey, (1, COARSE, COARSE), np.mean).reshape(len(grey), -1)
