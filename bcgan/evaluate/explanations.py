"""Are the explanations right? Deletion and insertion on held-out patches; on procedural tissue, the known nuclei.

A map that ranks pixels well destroys the decision fast when its first pixels are wiped out, and rebuilds it fast when
they alone are shown (Petsiuk et al. 2018). Where the truth is known, the pixels that support malignancy should
lie on what makes the class: the malignant nuclei. A map of noise, and the same methods on an untrained network, say
what chance gives.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy.special import expit

from bcgan import runs
from bcgan.classify.scoring import probabilities
from bcgan.data.histology_phantom.tissue import outside
from bcgan.data.records import CLASSES
from bcgan.data.views import central
from bcgan.evaluate import intervals
from bcgan.experiment import Experiment
from bcgan.explain import saliency
from bcgan.models import discriminator, weights
from bcgan.models.classifier import of_run
from bcgan.models.discriminator import BLOCKS
from bcgan.preprocess.store import GAN_SIZE, Store, at_size, load_synthetic

CHANCE = "random_map"
LEVELS = np.linspace(0, 1, 11)  # shares of the pixels wiped out or shown
TOP = 0.05  # share of the pixels that support malignancy
MAX_EXAMPLES = 4  # patches a class for the figure
TRUTHS = 96  # phantom patches whose nuclei are known
RESNET_LAYERS = ("stem_pool", "joint", "bottleneck1_add", "bottleneck2_add", "bottleneck4_add")
CHANNELS = 6  # of each layer in the figure of feature maps


def evaluate(experiment: Experiment, store: Store, root: Path, folder: Path) -> None:
    """Write explanations.json ({method: {deletion, insertion, pointing, evidence, and the latter two of an untrained
    network}}, each {value, low, high}, the first two with their curve over LEVELS) and explanations.npz (for the
    figures: real_ and synthetic_ patches, uint8, and a map a method; feature maps of two of them) of the proposed
    classifier's first seed."""
    name, seed = experiment.proposed, experiment.classify.seeds[0]
    network = weights.load_model(root / "classify" / f"{name}-seed{seed}.keras")
    rng = np.random.default_rng(experiment.seed)
    rows = rng.permutation(store.rows("test"))[: experiment.evaluate.num_explained_patches]
    images = central(store.images[rows], experiment.classify.crop_size).astype(np.float32) / 255
    patients = store.index["patient"].to_numpy()[rows]
    methods = _methods(network)
    tested = methods | {CHANCE: lambda _, images: rng.random(images.shape[:3]).astype(np.float32)}
    results = {
        method: _curves(network, images, explain(network, images), patients, experiment)
        for method, explain in tested.items()
    }
    if experiment.data.name == "histology_phantom":
        keras.utils.set_random_seed(experiment.seed)
        untrained = of_run(name, root, images.shape[1], experiment.classify.models[name])
        for suffix, tested_network in (("", network), ("_untrained", untrained)):
            for method, measured in pointing(tested_network, tested, images.shape[1], experiment).items():
                results[method] |= {f"{kind}{suffix}": value for kind, value in measured.items()}
    counts = {"patches": len(rows), "patients": len(np.unique(patients))}
    runs.write_json(folder / "explanations.json", {"classifier": name, "seed": seed, **counts, **results})
    examples = _examples(experiment, store, root, network, methods)
    gan_discriminator = weights.load_model(root / "gan" / "discriminator.keras")
    first = [int(np.flatnonzero(examples["labels"] == label)[0]) for label in (0, 1)]
    for kind in ("real", "synthetic"):
        two = examples[f"{kind}_images"][first]
        examples |= {
            f"{kind}_features_{layer}": maps for layer, maps in feature_maps(gan_discriminator, network, two).items()
        }
    np.savez_compressed(folder / "explanations.npz", **examples)


def feature_maps(gan_discriminator: keras.Model, network: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Maps of the discriminator's blocks and, where the classifier holds Table 1's layers, of those.

    Args:
        images: uint8, (n, side, side, 3), of the classifier's side.

    Returns:
        {layer: float16, (CHANNELS or fewer, n, height, width)}, the channels that vary most over the patches, away
        from their edges, first.
    """
    at_gan_size = at_size(images, GAN_SIZE).astype(np.float32) / 255
    by_layer = dict(zip(BLOCKS, discriminator.feature_maps(gan_discriminator)(at_gan_size), strict=True))
    inner = next((layer for layer in network.layers if isinstance(layer, keras.Model)), None)
    names = {layer.name for layer in inner.layers} if inner else set()
    if tapped := [name for name in RESNET_LAYERS if name in names]:
        x = images.astype(np.float32) / 255
        for layer in network.layers[1 : network.layers.index(inner)]:
            x = layer(x)
        maps = keras.Model(inner.input, [inner.get_layer(name).output for name in tapped])(x, training=False)
        by_layer |= dict(zip(tapped, maps, strict=True))
    return {name: _liveliest(maps) for name, maps in by_layer.items()}


def _liveliest(maps: keras.KerasTensor) -> np.ndarray:
    maps = keras.ops.convert_to_numpy(keras.ops.cast(maps, "float32"))
    maps = maps.transpose(3, 0, 1, 2)
    return maps[np.argsort(without_edges(maps).std((2, 3)).mean(1))[::-1][:CHANNELS]].astype(np.float16)


def without_edges(maps: np.ndarray) -> np.ndarray:
    """Maps (..., height, width) without an eighth of their side at every edge, where a layer answers to its padding."""
    edges = [round(side / 8) for side in maps.shape[-2:]]
    return maps[(..., *(slice(edge, side - edge) for edge, side in zip(edges, maps.shape[-2:], strict=True)))]


def deletion(run, images: np.ndarray, maps: np.ndarray, insert: bool = False) -> np.ndarray:
    """Probability of the class that was called, at LEVELS of pixels replaced by the mean colour, those that speak most
    for the call first; or, with `insert`, of pixels shown on the mean colour. float, (levels, n)."""
    baseline = run(images)
    signed = maps * np.where(baseline > 0, 1, -1)[:, None, None]
    ranks = signed.reshape(len(maps), -1).argsort(1)[:, ::-1].argsort(1).reshape(maps.shape)
    mean, curve = images.mean((1, 2), keepdims=True), []
    for level in LEVELS:
        first = (ranks < level * maps[0].size)[..., None]
        changed = run(np.where(first != insert, mean, images).astype(np.float32))
        curve.append(expit(np.where(baseline > 0, changed, -changed)))
    return np.stack(curve)


def pointing(
    network: keras.Model, methods: dict, size: int, experiment: Experiment
) -> dict[str, dict[str, dict[str, float | None]]]:
    """{method: {pointing, evidence}} on phantom patches of patients that no split has: the share of the TOP pixels, and
    of all that supports malignancy, that lies on malignant nuclei, less the share of all pixels that do; 0 is chance.
    """
    images, masks, patients = truths(TRUTHS, size, experiment.seed)
    by_method = {}
    for method, explain in methods.items():
        maps = explain(network, images).reshape(len(images), -1)
        count = max(1, round(TOP * maps.shape[1]))
        top = np.argsort(maps, axis=1)[:, -count:]
        flat = masks.reshape(len(images), -1)
        supporting = maps.clip(0)
        shares = {
            "top5_hit_rate": np.take_along_axis(flat, top, 1).mean(1),
            "energy_pointing_game": (supporting * flat).sum(1)
            / np.maximum(supporting.sum(1), np.finfo(np.float32).tiny),
        }
        by_method[method] = {
            kind: _mean(values - flat.mean(1), patients, experiment) for kind, values in shares.items()
        }
    return by_method


def truths(number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Malignant phantom patches, float32 in [0, 1]; where their malignant nuclei lie, bool; and their patients."""
    patches, patients = outside(number, size, CLASSES.index("malignant"), seed)
    ys, xs = np.mgrid[:size, :size]
    masks = []
    for patch in patches:
        x, y, radius, malignant = patch.nuclei.T[:, :, None, None]
        masks.append((((xs - x) ** 2 + (ys - y) ** 2 <= radius**2) & (malignant > 0.5)).any(0))
    return np.stack([patch.image for patch in patches]).astype(np.float32) / 255, np.stack(masks), patients


def _methods(network: keras.Model) -> dict:
    """Those that the network allows: Grad-CAM needs a map."""
    methods = dict(saliency.METHODS)
    try:
        saliency.grad_cam(network, np.zeros((1, *network.input_shape[1:]), np.float32))
    except ValueError:
        del methods["grad_cam"]
    return methods


def _curves(network, images, maps, patients, experiment: Experiment) -> dict[str, Any]:
    run, measures = saliency.logits(network), {}
    for kind in ("deletion", "insertion"):
        curves = deletion(run, images, maps, insert=kind == "insertion")
        area = np.trapezoid(curves, LEVELS, axis=0)
        measures[kind] = _mean(area, patients, experiment) | {"curve": curves.mean(1).tolist()}
    return measures


def _mean(values: np.ndarray, patients: np.ndarray, experiment: Experiment) -> dict[str, float | None]:
    settings = experiment.evaluate
    return intervals.of_mean(values, patients, settings.bootstrap_samples, settings.confidence_level, experiment.seed)


def _examples(experiment: Experiment, store: Store, root: Path, network, methods: dict) -> dict[str, np.ndarray]:
    """Test patches and synthetic ones, of each class the best calls, then the worst, with their maps."""
    rows = store.rows("test")
    labels = store.index["label"].to_numpy()[rows]
    crop = experiment.classify.crop_size
    synthetic, synthetic_labels = load_synthetic(root / "features", experiment.data.size, selected=False)
    image_sets = {
        "real": (central(store.images[rows], crop), labels),
        "synthetic": (central(synthetic, crop), synthetic_labels),
    }
    counts = [
        min(MAX_EXAMPLES, *((set_labels == label).sum() for _, set_labels in image_sets.values())) for label in (0, 1)
    ]
    arrays, chosen = {}, {}
    for kind, (images, set_labels) in image_sets.items():
        wrong = np.abs(probabilities(network, images, 1) - set_labels)
        chosen[kind] = np.concatenate([_best_and_worst(wrong, set_labels == label, counts[label]) for label in (0, 1)])
        arrays[f"{kind}_images"] = images = images[chosen[kind]]
        arrays[f"{kind}_probability"] = probabilities(network, images, 1)
        for method, explain in methods.items():
            arrays[f"{kind}_{method}"] = explain(network, images.astype(np.float32) / 255)
    arrays["real_id"] = store.index["id"].to_numpy(str)[rows[chosen["real"]]]
    arrays["labels"] = np.repeat([0, 1], counts)
    return arrays


def _best_and_worst(wrong: np.ndarray, of_class: np.ndarray, number: int) -> np.ndarray:
    """Positions of a class's calls: the best half of `number`, the best first, then the worst, the worst first."""
    order = np.flatnonzero(of_class)[np.argsort(wrong[of_class])]
    return np.concatenate([order[: number // 2], order[::-1][: number - number // 2]])
