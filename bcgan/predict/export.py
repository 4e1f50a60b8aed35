"""`bcgan export`: a finished run's classifier as a folder that `bcgan predict` reads."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from bcgan import data, machine, progress, runs
from bcgan.artifacts import MANIFEST, Cache
from bcgan.classify import calibration, context, linear
from bcgan.classify.scoring import predict_probabilities
from bcgan.classify.train import Patches, Recipe, TrainingData, select_patches
from bcgan.data import batches
from bcgan.data.slide_names import slide_names
from bcgan.errors import InputError
from bcgan.evaluate import derived, intervals, metrics
from bcgan.experiment import Experiment
from bcgan.gan import quality_filter
from bcgan.models import weights
from bcgan.models.classifier import build_for_run
from bcgan.predict import engines, formats
from bcgan.predict.model import CARD, FILES, Card, ConfidenceThreshold, Enhancement, Model, Predictions, Thresholds
from bcgan.preprocess import store
from bcgan.sizes import MIN_TISSUE_FRACTION
from bcgan.slides.scale import ModelScale

SPECIFICITY = 0.95  # on validation patients, at the upper end of the abstain range
ACCURACY = 0.95  # likewise, of the patches that have a label, with more than two classes
KNOWN_QUANTILE = 0.995  # share of validation patches that count as in distribution
TTA_VIEWS = 8
MAX_CHANGED_FRACTION = 0.01  # of validation patches whose verdict may differ between LiteRT and Keras
CARD_METRICS = ("roc_auc", "balanced_accuracy", "sensitivity", "specificity", "f1")


def export(experiment: Experiment, root: Path, out: Path, everyone: bool = False) -> Card:
    """Write the classifier, its reference CNN and quality filter, and the model card into a folder.

    The classifier is one network, in half precision: the ensemble of `evaluate.ensemble_models` (by default the
    proposed classifier alone), each with the seed of the best validation ROC AUC. Calibration, thresholds, the spatial
    context model and the out-of-distribution threshold are fitted on the predictions of this network for the validation
    patients. The metrics in the card are those of the held-out patients.

    Args:
        root: Folder of the run.
        out: Folder to write, which is empty or has an earlier export.
        everyone: Whether to train the members again, on the patients of every role, with the same number of epochs.
            Calibration, thresholds and metrics remain those of the networks that were not trained on held-out
            patients. The new networks are cached in runs/<experiment>/export; an interruption loses one epoch.

    Raises:
        InputError: If the folder has other files, or the run was trained on images of several scales.
    """
    patches = store.load(root / "preprocess")
    check_one_scale(experiment, patches.index)
    if experiment.preprocess.stain_normalization != "none":
        progress.log.warning(
            "export: stains were normalized in all patches of a patient together; bcgan predict does so in each image"
        )
    part = _make_part_folder(out)
    table = pd.read_csv(
        root / "evaluate" / "probabilities.csv", dtype={"patient": str, "id": str}, keep_default_na=False
    )
    members = {name: _best_seed(table, name) for name in experiment.ensemble_members}
    paths = [root / "classify" / f"{derived.column_name(name, seed)}.keras" for name, seed in members.items()]
    size = experiment.data.size
    weights.save_float16(build_ensemble([weights.load_model(path) for path in paths], size), part / "classifier.keras")
    for name in FILES[1:]:
        shutil.copy(root / "features" / name, part)
    card = _build_card(experiment, root, part, members)
    if everyone:
        with runs.lock(root):
            networks, counts = _train_on_all_patients(experiment, root, members)
        weights.save_float16(build_ensemble(networks, size), part / "classifier.keras")
        card = card.model_copy(update={"training_data": card.training_data | counts})
    card = card_with_litert(card, part, patches.images[patches.role_indices("validation")])
    (part / CARD).write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
    _move_into_place(part, out)
    return card


def _make_part_folder(out: Path) -> Path:
    """Make the temporary folder inside `out` that the export is written to.

    Raises:
        InputError: If `out` has files that no export wrote.
    """
    part = out / ".part"
    export_files = {part.name, *FILES, *engines.LITERT_FILES}  # an interrupted export has these without a card
    if out.exists() and {path.name for path in out.iterdir()} - export_files and not (out / CARD).exists():
        raise InputError(f"{out} has other files. Choose an empty folder with --out.")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def _move_into_place(part: Path, out: Path) -> None:
    """Replace an earlier export by the new one. The card is removed first and written last: it marks completeness."""
    for name in (CARD, *engines.LITERT_FILES, *formats.FORMAT_FILES.values(), formats.TABLE):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in sorted(part.iterdir(), key=lambda path: path.name == CARD):
        path.replace(out / path.name)
    part.rmdir()


def card_with_litert(card: Card, folder: Path, images: np.ndarray) -> Card:
    """Write LiteRT's files, keep them if they agree with Keras, and return the card with the SHA-256 of every file.

    The files are kept if, with every installed runtime, no probability of the given patches differs by more than
    `formats.MAX_DEVIATION` and at most MAX_CHANGED_FRACTION of the verdicts change.
    """
    write_litert(folder)
    digests = {name: runs.hash_file(folder / name) for name in (*FILES, *engines.LITERT_FILES)}
    fitted_filter = quality_filter.load(folder / "quality_filter.npz")
    plain = card.model_copy(update={"enhancement": Enhancement()})  # the patches of the run are enhanced already

    def predict(engine: str) -> Predictions:
        return Model(plain, engines.select_engine(engine, folder, digests), fitted_filter, folder).predict(images)

    expected, runtimes = predict("keras"), [name for name in engines.RUNTIMES if engines.is_installed(name)]
    deviations = [_max_deviation(predict(runtime), expected) for runtime in runtimes]
    max_deviation, num_changed = map(max, zip((0.0, 0), *deviations, strict=True))
    max_changed = max(1, MAX_CHANGED_FRACTION * len(images))
    is_equivalent = bool(runtimes) and max_deviation <= formats.MAX_DEVIATION and num_changed <= max_changed
    if not runtimes:
        progress.log.warning(
            "export: the LiteRT files are left out, as neither LiteRT nor OpenVINO is installed to check them; Keras "
            "will run the network. To get them: pip install ai-edge-litert, then export again"
        )
    elif not is_equivalent:
        progress.log.warning(
            "export: LiteRT's probabilities differ from Keras's by up to %.3f, and %d of %d verdicts change. The "
            "LiteRT files are left out; Keras will run the network", max_deviation, num_changed, len(images),
        )  # fmt: skip
    if not is_equivalent:
        for name in engines.LITERT_FILES:
            (folder / name).unlink()
        return card.model_copy(update={"sha256": {name: digests[name] for name in FILES}, "litert_max_abs_error": None})
    return card.model_copy(update={"sha256": digests, "litert_max_abs_error": max_deviation})


def _max_deviation(candidate: Predictions, expected: Predictions) -> tuple[float, int]:
    """Return the largest difference of a probability that both have, and the number of verdicts that differ."""
    difference = np.nanmax(np.abs(candidate.class_probabilities - expected.class_probabilities), initial=0)
    return float(difference), int((candidate.verdict != expected.verdict).sum())


def write_litert(folder: Path) -> None:
    """Write .tflite files with float16 weights: the folder's classifier, and its reference CNN up to the features."""
    network, reference_cnn = (weights.load_model(folder / f"{name}.keras") for name in engines.NETWORKS)
    features = keras.Model(reference_cnn.inputs, reference_cnn.get_layer("logit").input, name="features")
    for model, name in zip((network, features), engines.LITERT_FILES, strict=True):
        formats.write_litert(model, folder / name, half=True)


def build_ensemble(networks: list[keras.Model], size: int | None = None) -> keras.Model:
    """Build one network whose output is the mean of the networks' logits; its input is an image in [0, 1].

    Args:
        size: Side of a patch, pixels, of which networks for smaller ones take the center. Defaults to theirs.
    """
    own_size = networks[0].input_shape[1]
    image = x = keras.Input(((size or own_size), (size or own_size), 3), name="image")
    if margin := (size or own_size) - own_size:
        cropping = ((margin // 2, margin - margin // 2),) * 2
        x = keras.layers.Cropping2D(cropping, name="center_crop")(image)
    for index, network in enumerate(networks):
        network.name = f"member{index}_{network.name}"
    logits = [network(x) for network in networks]
    logit = keras.layers.Average(dtype="float32", name="logit")(logits) if len(logits) > 1 else logits[0]
    return keras.Model(image, logit, name="classifier")


def _train_on_all_patients(
    experiment: Experiment, root: Path, members: dict[str, int]
) -> tuple[list[keras.Model], dict[str, int | str]]:
    """Train the members on the patients of every role, or load them from the cache.

    Args:
        members: Seed of each classifier, by name.

    Returns:
        The networks, and the card's counts of patients and patches.
    """
    xla = machine.configure(experiment)
    patches, settings, cache = store.load(root / "preprocess"), experiment.classify, Cache(root, "export")
    inputs = {"classify": runs.read_json(root / "classify" / MANIFEST)["key"]}
    real = select_patches(patches, np.arange(len(patches.index)))

    def build(name: str, seed: int, folder: Path) -> None:
        """Train one member and write it into `folder` as <name>-seed<seed>.keras."""
        model = settings.models[name]
        keras.utils.set_random_seed(seed)
        size = settings.crop_size or experiment.data.size
        network = build_for_run(name, root, size, model, experiment.num_classes)
        synthetic = None
        if model.uses_synthetic:
            loaded = store.load_synthetic(root / "features", experiment.data.size, model.filter_synthetic)
            synthetic = Patches(*loaded)
        path = folder / f"{derived.column_name(name, seed)}.keras"
        penalty = linear.selected_penalty(root / "classify" / f"{path.stem}.jsonl")
        recipe = Recipe(settings, model, seed, xla, inverse_penalty=penalty)
        linear.fit(network, TrainingData(real, synthetic), recipe, path)

    networks = []
    for name, seed in members.items():
        column = derived.column_name(name, seed)
        folder = cache.get_or_build(column, {"all_patients": True}, inputs, partial(build, name, seed))
        networks.append(weights.load_model(folder / f"{column}.keras"))
    counts = {"patients": int(patches.index["patient"].nunique()), "patches": len(patches.index)}
    return networks, counts | {"calibrated": "on networks that had not seen the held-out patients"}


def _best_seed(table: pd.DataFrame, name: str) -> int:
    """Return the seed of a classifier with the best ROC AUC on the validation patches of probabilities.csv."""
    rows = table[table["role"] == "validation"]
    labels = rows["label"].to_numpy()
    return max(
        derived.seeds_by_classifier(table)[name],
        key=lambda seed: metrics.macro_roc_auc(labels, derived.get_probabilities(rows, name, seed)),
    )


def _build_card(experiment: Experiment, root: Path, out: Path, members: dict[str, int]) -> Card:
    """Fit calibration, thresholds and spatial context of the classifier in `out`, measure it, and return its card."""
    patches = store.load(root / "preprocess")
    rows = patches.role_indices("validation")
    index, images = patches.index.iloc[rows], patches.images.select(rows)
    labels = index["label"].to_numpy()
    network = weights.cast_to_float32(weights.load_model(out / "classifier.keras"))
    raw = predict_probabilities(network, images, TTA_VIEWS)
    fitted_calibration = calibration.fit(raw, labels)
    calibrated = calibration.apply(fitted_calibration, raw)
    coords, slides, patch_px = _coordinates(index, experiment)
    fitted_context, context_thresholds = None, None
    if context.has_coordinates(coords) and not experiment.data.tile:  # images that were cut have one label each
        fitted_context = context.fit(raw, coords, slides, labels, patch_px)
        refined = context.apply(fitted_context, raw, coords, slides, patch_px)
        context_thresholds = _thresholds(labels, refined)
    scale = model_scale(experiment, patches.index, images.shape[1])
    train_counts = runs.read_json(root / "preprocess" / "split.json")["counts"]["train"]
    draft = Card(
        intended_use="Research use only. Not for diagnosis.",
        classes=experiment.data.class_names,
        size=images.shape[1],
        microns_per_pixel=scale.mpp,
        image_size=scale.image_size,
        downsample=scale.downsample,
        reference_cnn_size=experiment.data.size,
        min_tissue=experiment.data.tile.min_tissue if experiment.data.tile else MIN_TISSUE_FRACTION,
        enhancement=Enhancement(**experiment.preprocess.model_dump(include=set(Enhancement.model_fields))),
        tta_views=TTA_VIEWS,
        calibration=fitted_calibration,
        thresholds=_thresholds(labels, calibrated),
        spatial_context=fitted_context,
        spatial_context_thresholds=context_thresholds,
        ood_threshold=np.inf,
        training_data={
            "experiment": experiment.name, "data": experiment.data.name,
            "networks": [derived.column_name(name, seed) for name, seed in members.items()],
            "patients": train_counts["patients"], "patches": train_counts["patches"],
        },
        metrics={},
        **_explanation_tests(experiment, root),
        sha256={},
    )  # fmt: skip
    reference_cnn = weights.load_model(out / "reference_cnn.keras")
    fitted_filter = quality_filter.load(out / "quality_filter.npz")
    plain = draft.model_copy(update={"enhancement": Enhancement()})  # the patches of the run are enhanced already
    fitted_model = Model(plain, engines.keras_engine(network, reference_cnn), fitted_filter, out)
    ood_scores = batches.map_in_batches(fitted_model.ood_scores, images)
    ood_threshold = float(np.quantile(ood_scores, KNOWN_QUANTILE))
    held_out = _held_out_metrics(experiment, patches, network, draft)
    return draft.model_copy(update={"ood_threshold": ood_threshold, "metrics": held_out})


def check_one_scale(experiment: Experiment, index: pd.DataFrame) -> None:
    """Check that all images, whose height and width in pixels `index` has, were resized by the same factor.

    Raises:
        InputError: If images of several sizes were resized to one, so that their scales differ.
    """
    side_lengths = index[["height", "width"]].min(axis=1).unique()
    if data.native_patch_px(experiment.data) is None and len(side_lengths) > 1:
        raise InputError(
            f"{experiment.name} was trained on images of several sizes, {side_lengths.min()} to {side_lengths.max()} "
            f"pixels a side, each resized to {experiment.data.size} pixels: their scales differ, so bcgan predict "
            "could not resize an image to the same scale. Cut them into patches of one size, and train on those."
        )


def model_scale(experiment: Experiment, index: pd.DataFrame, patch_size: int) -> ModelScale:
    """Return the scale of the training patches: central squares of the images, resized to `data.size`."""
    native = data.native_patch_px(experiment.data)
    sizes = index[["width", "height"]].drop_duplicates().to_numpy()
    downsample = float((native or sizes[0].min()) / experiment.data.size)
    mpp = data.microns_per_pixel(experiment.data)
    image_size = (native, native) if native else None
    if not native and len(sizes) == 1:
        image_size = tuple(map(int, sizes[0]))
    return ModelScale(patch_size, mpp and mpp * downsample, image_size, downsample)


def _explanation_tests(experiment: Experiment, root: Path) -> dict[str, Any]:
    """Return the card's `explanations` and `explained_network`, the classifier that the stage `evaluate` tested.

    A method passes if it beats a random map by deletion and by insertion: its mean lies outside the random map's
    interval.
    """
    path = root / "evaluate" / "explanations.json"
    if not path.exists():
        return {}
    results = runs.read_json(path)
    noise = results["random_map"]
    passed = {
        method: values["deletion"]["value"] < noise["deletion"]["low"]
        and values["insertion"]["value"] > noise["insertion"]["high"]
        for method, values in results.items()
        if isinstance(values, dict) and method != "random_map"
        and None not in (noise["deletion"]["low"], noise["insertion"]["high"])
    }  # fmt: skip
    network = f"{results['classifier']}, seed {results['seed']}, of {experiment.name}"
    return {"explanations": passed, "explained_network": network}


def _thresholds(labels: np.ndarray, probabilities: np.ndarray) -> Thresholds | ConfidenceThreshold:
    """Return the thresholds, selected on validation patches by calibrated probabilities, (n,) or (n, classes).

    The abstain range of two classes is from 95 % sensitivity to 95 % specificity. With more classes, the least
    confident patches get no label, as few as leave ACCURACY among the others, and at most half of all.
    """
    if probabilities.ndim == 2:
        confidence, is_right = probabilities.max(1), probabilities.argmax(1) == labels
        order = np.argsort(-confidence)
        accuracy = np.cumsum(is_right[order]) / np.arange(1, len(labels) + 1)
        accurate = np.flatnonzero(accuracy >= ACCURACY)  # numbers of labeled patches, less one, that reach it
        count = max(len(labels) // 2, accurate[-1] + 1 if len(accurate) else 0)
        return ConfidenceThreshold(min_confidence=float(confidence[order][count - 1]))
    points = metrics.operating_points(labels, probabilities)
    low, high = points["sensitivity_95"], float(np.quantile(probabilities[labels == 0], SPECIFICITY))
    middle = points["youden"]
    return Thresholds(malignant=middle, abstain_range=(min(low, middle), max(high, middle)))


def _held_out_metrics(
    experiment: Experiment, patches: store.Store, network: keras.Model, card: Card
) -> dict[str, dict[str, dict]]:
    """Return the metrics of the patients who are neither in the training nor in the validation set.

    Returns:
        {role: {metric: {value, low, high, seeds}}}, of each patch by itself; and, if coordinates are known, the same
        with spatial context, as `<role>_neighbours`.
    """
    by_role = {}
    for role, index in patches.index.groupby("role"):
        labels = index["label"].to_numpy()
        if role.startswith(("train", "validation")) or len(np.unique(labels)) < len(card.classes):
            continue
        images = patches.images.select(index.index)
        raw = predict_probabilities(network, images, TTA_VIEWS)
        scored = {role: ({0: calibration.apply(card.calibration, raw)}, {0: card.thresholds.limits[1]})}
        if card.spatial_context:
            refined = context.apply(card.spatial_context, raw, *_coordinates(index, experiment))
            scored[f"{role}_neighbours"] = {0: refined}, {0: card.spatial_context_thresholds.limits[1]}
        for name, predictions in scored.items():
            figures = intervals.metrics_with_intervals(
                labels, intervals.SeedPredictions(*predictions), index["patient"].to_numpy(), *experiment.bootstrap
            )
            by_role[name] = {metric: figures[metric] for metric in CARD_METRICS} | {"ece_calibrated": figures["ece"]}
    return by_role


def _coordinates(index: pd.DataFrame, experiment: Experiment) -> tuple[np.ndarray, np.ndarray, int]:
    """Return x and y of patches, (n, 2), their slides, (n,), and the side of a patch in the pixels of x and y.

    Args:
        index: Of some patches of a store that `check_one_scale` accepts.
    """
    slides = slide_names(index, experiment.data.classes)
    return index[["x", "y"]].to_numpy(), slides, data.coordinate_patch_px(experiment.data, index)
