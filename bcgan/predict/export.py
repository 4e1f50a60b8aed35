"""`bcgan export`: a finished run's classifier as a folder that `bcgan predict` reads."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from bcgan import data, machine, progress, runs
from bcgan.artifacts import MANIFEST, Cache
from bcgan.classify import calibration, context
from bcgan.classify.scoring import probabilities
from bcgan.classify.train import Patches, Recipe, TrainingData, train
from bcgan.data.records import CLASSES
from bcgan.data.views import central
from bcgan.errors import InputError
from bcgan.evaluate import derived, intervals, metrics
from bcgan.experiment import Experiment
from bcgan.gan import quality_filter
from bcgan.models import weights
from bcgan.models.classifier import of_run
from bcgan.predict import engines, formats
from bcgan.predict.model import CARD, FILES, Card, Model, Predictions, Thresholds
from bcgan.preprocess import store
from bcgan.settings import Preprocess
from bcgan.slides.coordinates import slide_names
from bcgan.slides.scale import ModelScale
from bcgan.variation import differences

SPECIFICITY = 0.95  # on validation patients, above whose threshold a patch is called malignant; so for sensitivity
OUTLIER = 0.995  # share of validation patches that are taken for tissue of the kind that was trained on
VIEWS = 8
MOST_OTHER = 0.01  # share of validation patches that LiteRT may give another verdict, at the edges of two
FIGURES = ("roc_auc", "balanced_accuracy", "sensitivity", "specificity", "f1")


def export(experiment: Experiment, root: Path, out: Path, everyone: bool = False) -> Card:
    """Write the networks, joined into one and in half precision and compressed, and the card, when all are whole.

    Of each member of `evaluate.ensemble_models` (by default the proposed classifier) the training with the best
    validation ROC AUC is taken. Calibration, thresholds, neighbours' weights and the limit of what is known come
    from the validation patients, by the exported network itself; its figures are those of the held-out patients.

    Args:
        everyone: bool. Train the members anew, on the patients of every role and for as many epochs, once the figures
            are final; calibration, thresholds and figures stay those of the networks that have not seen the held-out
            patients. A kill costs the epoch; the networks wait in runs/<experiment>/export for as long as
            runs/<experiment>/classify is what it was.

    Raises:
        InputError: the folder holds something else, or the run's patches were changed or brought to a size before it
            learnt from them, which `bcgan predict` does not do.
    """
    plain = Preprocess(audit=experiment.preprocess.audit)
    if changed := differences(experiment.replace(preprocess=plain), experiment):
        raise InputError(
            f"{experiment.name} was trained on patches prepared with {', '.join(changed)}, and bcgan predict prepares "
            "none. Export a run with preprocess.* as it is by default."
        )
    _check_one_scale(experiment, store.load(root / "preprocess").index)
    part = out / ".part"
    ours = {part.name, *FILES, *engines.LITERT_FILES}  # without a card: of an export that was stopped
    if out.exists() and {path.name for path in out.iterdir()} - ours and not (out / CARD).exists():
        raise InputError(f"{out} holds other files. Choose an empty folder with --out.")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    table = pd.read_csv(
        root / "evaluate" / "probabilities.csv", dtype={"patient": str, "id": str}, keep_default_na=False
    )
    chosen = {name: _best(table, name) for name in experiment.members}
    networks = [weights.load_model(root / "classify" / f"{derived.column(*member)}.keras") for member in chosen.items()]
    final = part / "classifier.keras"
    weights.save_small(join(networks), final)
    for name in FILES[1:]:
        shutil.copy(root / "features" / name, part)
    card = _card(experiment, root, part, chosen)
    if everyone:
        with runs.lock(root):
            networks, count = _train_on_all_patients(experiment, root, chosen)
        weights.save_small(join(networks), final)
        card = card.model_copy(update={"training_data": card.training_data | count})
    card = card_with_litert(card, part, _validation(experiment, root))
    (part / CARD).write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
    # Without a card it is no model, until it is a whole one again; what is of the old one goes with it.
    for path in (out / name for name in (CARD, *engines.LITERT_FILES, *formats.KINDS.values(), formats.TABLE)):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in sorted(part.iterdir(), key=lambda path: path.name == CARD):
        path.replace(out / path.name)
    part.rmdir()
    return card


def card_with_litert(card: Card, folder: Path, images: np.ndarray) -> Card:
    """The card with every file's SHA-256. LiteRT's files are among them where, on these patches, every runtime that is
    installed says by them what Keras says: no probability off by more than FAITHFUL, hardly a verdict another."""
    write_litert(folder)
    both = (*FILES, *engines.LITERT_FILES)
    digests = {name: runs.hash_file(folder / name) for name in both}
    chosen = quality_filter.load(folder / "quality_filter.npz")

    def predict(engine: str) -> Predictions:
        return Model(card, engines.choose(engine, folder, digests), chosen, folder).predict(images)

    expected = predict("keras")
    deviations = [_apart(predict(engine), expected) for engine in filter(engines.installed, engines.RUNTIMES)]
    max_deviation, num_changed = (
        (max(values) for values in zip(*deviations, strict=True)) if deviations else (np.inf, 0)
    )
    if not _faithful(max_deviation, num_changed, images):
        progress.log.warning(
            "export: LiteRT's files are off by up to %.3f, give %d of %d patches another verdict and are left out; "
            "Keras will run the network", max_deviation, num_changed, len(images),
        )  # fmt: skip
        for name in engines.LITERT_FILES:
            (folder / name).unlink()
        return card.model_copy(update={"sha256": {name: digests[name] for name in FILES}, "litert_max_abs_error": None})
    return card.model_copy(update={"sha256": digests, "litert_max_abs_error": max_deviation})


def _apart(candidate: Predictions, expected: Predictions) -> tuple[float, int]:
    """The largest difference of a probability, and how many verdicts are others."""
    difference = np.nanmax(np.abs(candidate.probability - expected.probability), initial=0)
    return float(difference), int((candidate.verdict != expected.verdict).sum())


def _faithful(max_deviation: float, num_changed: int, images: np.ndarray) -> bool:
    return max_deviation <= formats.FAITHFUL and num_changed <= max(1, MOST_OTHER * len(images))


def _validation(experiment: Experiment, root: Path) -> np.ndarray:
    patches = store.load(root / "preprocess")
    return np.ascontiguousarray(central(patches.images[patches.rows("validation")], experiment.classify.crop_size))


def write_litert(folder: Path) -> None:
    """Write the folder's classifier and reference CNN, up to its head, for LiteRT."""
    network, reference_cnn = (weights.load_model(folder / f"{name}.keras") for name in engines.NETWORKS)
    features = keras.Model(reference_cnn.inputs, reference_cnn.get_layer("logit").input, name="features")
    for model, name in zip((network, features), engines.LITERT_FILES, strict=True):
        formats.write_litert(model, folder / name, half=True)


def join(networks: list[keras.Model]) -> keras.Model:
    """One network from an image in [0, 1] to the mean of the networks' logits."""
    image = keras.Input(networks[0].input_shape[1:], name="image")
    for number, network in enumerate(networks):
        network.name = f"member{number}_{network.name}"
    logits = [network(image) for network in networks]
    logit = keras.layers.Average(dtype="float32", name="logit")(logits) if len(logits) > 1 else logits[0]
    return keras.Model(image, logit, name="classifier")


def _train_on_all_patients(
    experiment: Experiment, root: Path, chosen: dict[str, int]
) -> tuple[list[keras.Model], dict[str, int | str]]:
    """Return the members trained on the patients of every role, and the card's counts of those."""
    xla = machine.start(experiment)
    patches, settings, cache = store.load(root / "preprocess"), experiment.classify, Cache(root, "export")
    inputs = {"classify": runs.read_json(root / "classify" / MANIFEST)["key"]}
    real = Patches(patches.images, patches.index["label"].to_numpy())

    def build(name: str, seed: int, folder: Path) -> None:
        model = settings.models[name]
        keras.utils.set_random_seed(seed)
        network = of_run(name, root, settings.crop_size or experiment.data.size, model)
        synthetic = None
        if model.uses_synthetic:
            loaded = store.load_synthetic(root / "features", experiment.data.size, model.filter_synthetic)
            synthetic = Patches(*loaded)
        path = folder / f"{derived.column(name, seed)}.keras"
        train(network, TrainingData(real, synthetic), Recipe(settings, model, seed, xla), path)

    networks = []
    for name, seed in chosen.items():
        column = derived.column(name, seed)
        folder = cache.get_or_build(column, {"all_patients": True}, inputs, partial(build, name, seed))
        networks.append(weights.load_model(folder / f"{column}.keras"))
    count = {"patients": int(patches.index["patient"].nunique()), "patches": len(patches.index)}
    return networks, count | {"calibrated": "on networks that had not seen the held-out patients"}


def _best(table: pd.DataFrame, name: str) -> int:
    rows = table[table["role"] == "validation"]
    return max(
        derived.classifiers(table)[name],
        key=lambda seed: roc_auc_score(rows["label"], rows[derived.column(name, seed)]),
    )


def _card(experiment: Experiment, root: Path, out: Path, chosen: dict[str, int]) -> Card:
    patches = store.load(root / "preprocess")
    rows = patches.rows("validation")
    index, images = patches.index.iloc[rows], central(patches.images[rows], experiment.classify.crop_size)
    labels = index["label"].to_numpy()
    network = weights.in_float32(weights.load_model(out / "classifier.keras"))
    raw = probabilities(network, images, VIEWS)
    fitted = calibration.fit(raw, labels)
    after = calibration.apply(fitted, raw)
    (places, slides, side), near, near_thresholds = _places(index, experiment), None, None
    if context.known(places):
        near = context.fit(raw, places, slides, labels, side)
        near_thresholds = _thresholds(labels, context.refine(near, raw, places, slides, side))
    scale = _scale(experiment, patches.index, images.shape[1])
    draft = Card(
        intended_use="Research use only. Not for diagnosis.",
        classes=CLASSES,
        size=images.shape[1],
        microns_per_pixel=scale.mpp,
        image_size=scale.image_size,
        downsample=scale.downsample,
        tta_views=VIEWS,
        calibration=fitted,
        thresholds=_thresholds(labels, after),
        spatial_context=near,
        spatial_context_thresholds=near_thresholds,
        ood_threshold=np.inf,
        training_data={
            "experiment": experiment.name, "data": experiment.data.name,
            "networks": [derived.column(*member) for member in chosen.items()],
            **{key: runs.read_json(root / "preprocess" / "split.json")["counts"]["train"][key]
               for key in ("patients", "patches")},
        },
        metrics={},
        **_explanation_tests(experiment, root),
        sha256={},
    )  # fmt: skip
    reference_cnn, fitted_filter = (
        weights.load_model(out / "reference_cnn.keras"),
        quality_filter.load(out / "quality_filter.npz"),
    )
    strange = Model(draft, engines.of_keras(network, reference_cnn), fitted_filter, out).strangeness(images)
    figures = _figures(experiment, patches, network, draft)
    return draft.model_copy(update={"ood_threshold": float(np.quantile(strange, OUTLIER)), "metrics": figures})


def _check_one_scale(experiment: Experiment, index: pd.DataFrame) -> None:
    """Raise InputError where images of several sizes were brought to one, each at another scale."""
    side_lengths = index[["height", "width"]].min(axis=1).unique()
    if data.native_size(experiment.data) is None and len(side_lengths) > 1:
        raise InputError(
            f"{experiment.name} was trained on images of several sizes, {side_lengths.min()} to {side_lengths.max()} "
            f"pixels a side, each brought to {experiment.data.size} pixels: that is no scale that bcgan predict could "
            "bring an image to. Cut them into patches of one size, and train on those."
        )


def _scale(experiment: Experiment, index: pd.DataFrame, patch_size: int) -> ModelScale:
    """At what scale the exported model sees images: each was cut to its central square and brought to `data.size`."""
    native = data.native_size(experiment.data)
    sizes = index[["width", "height"]].drop_duplicates().to_numpy()
    downsample = float((native or sizes[0].min()) / experiment.data.size)
    mpp = data.microns_per_pixel(experiment.data)
    image_size = (native, native) if native else tuple(map(int, sizes[0])) if len(sizes) == 1 else None
    return ModelScale(patch_size, mpp and mpp * downsample, image_size, downsample)


def _explanation_tests(experiment: Experiment, root: Path) -> dict[str, Any]:
    """Return the card's `explanations` and `explained_network`, the classifier that the stage evaluate tested.

    A method passes if it beats a map of noise by deletion and by insertion: its mean lies beyond the noise's interval.
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


def _thresholds(labels: np.ndarray, probabilities: np.ndarray) -> Thresholds:
    """Thresholds from validation patients; between that of 95 % sensitivity and that of 95 % specificity, no call."""
    points = metrics.operating_points(labels, probabilities)
    low, high = points["sensitivity_95"], float(np.quantile(probabilities[labels == 0], SPECIFICITY))
    middle = points["youden"]
    return Thresholds(malignant=middle, abstain_range=(min(low, middle), max(high, middle)))


def _figures(
    experiment: Experiment, patches: store.Store, network: keras.Model, card: Card
) -> dict[str, dict[str, dict]]:
    """{role: {metric: {value, low, high, seeds}}} of the patients who neither trained nor chose, each patch alone, and
    <role>_neighbours, among its neighbours, where places are known."""
    by_role, settings = {}, experiment.evaluate
    for role, index in patches.index.groupby("role"):
        labels = index["label"].to_numpy()
        if role.startswith(("train", "validation")) or len(np.unique(labels)) < 2:
            continue
        images = central(patches.images[index.index], experiment.classify.crop_size)
        raw = probabilities(network, images, VIEWS)
        scored = {role: ({0: calibration.apply(card.calibration, raw)}, {0: card.thresholds.malignant})}
        if card.spatial_context:
            near = context.refine(card.spatial_context, raw, *_places(index, experiment))
            scored[f"{role}_neighbours"] = {0: near}, {0: card.spatial_context_thresholds.malignant}
        for name, predictions in scored.items():
            figures = intervals.with_intervals(
                labels, intervals.Scored(*predictions), index["patient"].to_numpy(),
                settings.bootstrap_samples, settings.confidence_level, experiment.seed,
            )  # fmt: skip
            by_role[name] = {metric: figures[metric] for metric in FIGURES} | {"ece_calibrated": figures["ece"]}
    return by_role


def _places(index: pd.DataFrame, experiment: Experiment) -> tuple[np.ndarray, np.ndarray, int]:
    """Of patches: their places, their slides, and their side, as `bcgan.classify.context` wants them."""
    return index[["x", "y"]].to_numpy(), np.array(slide_names(index["id"])), data.side(experiment.data)
