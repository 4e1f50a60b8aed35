"""Test the explanations: deletion and insertion on held-out patches, and localization of known nuclei.

If a map ranks pixels well, the probability of the prediction falls fast as its highest pixels are removed, and rises
fast as they are shown alone (Petsiuk et al. 2018). On phantom patches of two classes, the pixels that support
malignancy should lie on malignant nuclei, which define the class. Random maps give the level of chance, and the same
methods on untrained networks what is not learnt. With more than two classes, one of them is explained against the rest.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy.special import expit

from bcgan import data, runs
from bcgan.classify.scoring import predict_probabilities
from bcgan.data.histology_phantom.histology_phantom_dataset_builder import KINDS
from bcgan.data.histology_phantom.tissue import held_out_patches
from bcgan.data.prepared import phantom_labels
from bcgan.data.views import center_crop
from bcgan.evaluate import intervals
from bcgan.experiment import Experiment
from bcgan.explain import saliency
from bcgan.models import discriminator, weights
from bcgan.models.classifier import build_for_run
from bcgan.models.discriminator import list_blocks
from bcgan.preprocess.store import Store, load_synthetic, resize_patches

CHANCE = "random_map"
PIXEL_FRACTIONS = np.linspace(0, 1, 11)  # of the pixels that are removed or shown
TOP_FRACTION = 0.05  # of the pixels, for the hit rate
MAX_EXAMPLES = 4  # patches of each class in the figure
NUM_PHANTOM_PATCHES = 96
NUM_UNTRAINED = 3  # networks with random weights, whose scores differ a lot
RESNET_LAYERS = ("stem_pool", "joint", "bottleneck1_add", "bottleneck2_add", "bottleneck4_add")
NUM_CHANNELS = 6  # of each layer in the figure of feature maps


def evaluate(experiment: Experiment, store: Store, root: Path, folder: Path) -> None:
    """Test the explanations of the proposed classifier's first seed, and write explanations.json and explanations.npz.

    The JSON file has the results by method: `deletion` and `insertion`, areas {value, low, high} with their `curve`
    over PIXEL_FRACTIONS, and on phantom patches those of `localization_scores`, also of untrained networks. The NPZ
    file has what the figures show: real and synthetic patches, uint8, their maps, and feature maps of two of them.
    """
    name, seed = experiment.proposed, experiment.classify.seeds_of(experiment.proposed)[0]
    label = experiment.explained_label
    network = saliency.explain_class(weights.load_model(root / "classify" / f"{name}-seed{seed}.keras"), label)
    rng = np.random.default_rng(experiment.seed)
    rows = rng.permutation(store.role_indices("test"))[: experiment.evaluate.num_explained_patches]
    images = center_crop(store.images[rows], experiment.classify.crop_size).astype(np.float32) / 255
    patients = store.index["patient"].to_numpy()[rows]
    methods = _applicable_methods(network)
    tested = methods | {CHANCE: lambda _, images: rng.random(images.shape[:3]).astype(np.float32)}
    results = {}
    for method, explain in tested.items():
        results[method] = _score_perturbations(network, images, explain(network, images), patients, experiment)
    if experiment.data.name == "histology_phantom" and _explains_malignant_nuclei(experiment):
        untrained = []
        for number in range(NUM_UNTRAINED):
            keras.utils.set_random_seed(experiment.seed + number)
            untrained.append(build_for_run(name, root, images.shape[1], experiment.classify.models[name]))
        for suffix, networks in (("", [network]), ("_untrained", untrained)):
            for method, measured in localization_scores(networks, tested, images.shape[1], experiment).items():
                results[method] |= {f"{name}{suffix}": estimate for name, estimate in measured.items()}
    counts = {"patches": len(rows), "patients": len(np.unique(patients))}
    described = {"classifier": name, "seed": seed, "class": experiment.data.class_names[label]}
    runs.write_json(folder / "explanations.json", {**described, **counts, **results})
    examples = _explain_examples(experiment, store, root, network, methods)
    gan_discriminator = weights.load_model(root / "gan" / "discriminator.keras")
    first_of_class = [int(np.flatnonzero(examples["labels"] == label)[0]) for label in range(experiment.num_classes)]
    for kind in ("real", "synthetic"):
        maps_by_layer = feature_maps(gan_discriminator, network, examples[f"{kind}_images"][first_of_class])
        examples |= {f"{kind}_features_{layer}": maps for layer, maps in maps_by_layer.items()}
    np.savez_compressed(folder / "explanations.npz", **examples)


def _explains_malignant_nuclei(experiment: Experiment) -> bool:
    """Return whether the classes are benign and malignant phantom tissue, and malignant is the explained one.

    Only then is it known which pixels support the explained class: those of the phantom's malignant nuclei.
    """
    kinds = phantom_labels(experiment.data.classes)
    return (
        experiment.num_classes == 2
        and KINDS[kinds[experiment.explained_label]] == "malignant"
        and "benign" in (KINDS[kind] for kind in kinds)
    )


def feature_maps(gan_discriminator: keras.Model, network: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return feature maps of the discriminator's blocks and of the classifier's RESNET_LAYERS, as far as it has them.

    Args:
        images: uint8, (n, side, side, 3), of the classifier's input size.

    Returns:
        {layer: float16, (NUM_CHANNELS or fewer, n, height, width)}: the channels that vary most over the patches, the
        most varying one first. Edges are ignored.
    """
    gan_images = resize_patches(images, gan_discriminator.inputs[0].shape[1]).astype(np.float32) / 255
    maps = discriminator.feature_maps(gan_discriminator)(gan_images)
    by_layer = dict(zip(list_blocks(gan_discriminator), maps, strict=True))
    inner = next((layer for layer in network.layers if isinstance(layer, keras.Model)), None)
    names = {layer.name for layer in inner.layers} if inner else set()
    layer_names = [name for name in RESNET_LAYERS if name in names]
    if layer_names:
        # The layers in front of the inner network, which may crop or resize, are applied first.
        x = images.astype(np.float32) / 255
        for layer in network.layers[1 : network.layers.index(inner)]:
            x = layer(x)
        maps = keras.Model(inner.input, [inner.get_layer(name).output for name in layer_names])(x, training=False)
        by_layer |= dict(zip(layer_names, maps, strict=True))
    return {name: _most_varying_channels(maps) for name, maps in by_layer.items()}


def _most_varying_channels(maps: keras.KerasTensor) -> np.ndarray:
    """Return the NUM_CHANNELS channels that vary most within a patch, as a mean over the patches, the largest first.

    Args:
        maps: float, (n, height, width, channels).

    Returns:
        float16, (NUM_CHANNELS or fewer, n, height, width).
    """
    channels = keras.ops.convert_to_numpy(keras.ops.cast(maps, "float32")).transpose(3, 0, 1, 2)
    variation = without_edges(channels).std((2, 3)).mean(1)
    return channels[np.argsort(variation)[::-1][:NUM_CHANNELS]].astype(np.float16)


def without_edges(maps: np.ndarray) -> np.ndarray:
    """Crop an eighth of the size from every edge of maps (..., height, width): layers respond to the padding there."""
    height, width = maps.shape[-2:]
    top, left = round(height / 8), round(width / 8)
    return maps[..., top : height - top, left : width - left]


def perturbation_curve(
    compute_logits: Callable[[np.ndarray], np.ndarray], images: np.ndarray, maps: np.ndarray, insert: bool = False
) -> np.ndarray:
    """Return the probability of the predicted class as pixels are removed, those that support it most first.

    Removed pixels are replaced by the patch's mean color.

    Args:
        compute_logits: From images to logits of the explained class, (n,).
        images: float32, (n, side, side, 3), in [0, 1].
        maps: float32, (n, side, side). The explanations, positive where a pixel supports the explained class.
        insert: Whether to show these pixels alone instead.

    Returns:
        float, (len(PIXEL_FRACTIONS), n).
    """
    baseline = compute_logits(images)
    support = maps * np.where(baseline > 0, 1, -1)[:, None, None]
    # The rank of each pixel of a patch, 0 for the one that supports the prediction most.
    ranks = support.reshape(len(maps), -1).argsort(1)[:, ::-1].argsort(1).reshape(maps.shape)
    mean, curve = images.mean((1, 2), keepdims=True), []
    for fraction in PIXEL_FRACTIONS:
        is_in_fraction = (ranks < fraction * maps[0].size)[..., None]
        changed = compute_logits(np.where(is_in_fraction != insert, mean, images).astype(np.float32))
        curve.append(expit(np.where(baseline > 0, changed, -changed)))
    return np.stack(curve)


def localization_scores(
    networks: list[keras.Model], methods: dict, size: int, experiment: Experiment
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return how well each method localizes malignant nuclei, on phantom patches of patients outside every split.

    top5_hit_rate: the share of the TOP_FRACTION highest pixels on malignant nuclei. energy_pointing_game: the share of
    the positive values on them (Wang et al. 2020), undefined for a map without positive values. From both, the share
    of all pixels on them is subtracted: 0 is chance.

    Args:
        networks: Whose scores are averaged; those without a defined map are left out.
        methods: Functions from the network and images to maps, by name.
        size: Side of a patch, pixels.

    Returns:
        {method: {score: {value, low, high}}}; value is `None` if no map is defined.
    """
    mpp = data.microns_per_pixel(experiment.data)
    images, masks, patients = phantom_patches(NUM_PHANTOM_PATCHES, size, experiment.seed, mpp)
    masks = masks.reshape(len(images), -1)
    by_method = {}
    for method, explain in methods.items():
        by_network = [_score_maps(explain(network, images).reshape(len(images), -1), masks) for network in networks]
        by_method[method] = {}
        for score in by_network[0]:
            values = np.stack([scores[score] for scores in by_network])
            is_defined = np.isfinite(values).any(1)
            values = values[is_defined] if is_defined.any() else values[:1]
            by_method[method][score] = intervals.mean_with_interval(values, patients, *experiment.bootstrap)
    return by_method


def _score_maps(maps: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of each patch's map, (n,), as `localization_scores` describes them.

    Args:
        maps: float, (n, pixels).
        masks: bool, (n, pixels).
    """
    count = max(1, round(TOP_FRACTION * maps.shape[1]))
    order = np.random.default_rng(0).permutation(maps.shape[1])  # equal values are not taken in the order of the pixels
    top = order[np.argsort(maps[:, order], axis=1, kind="stable")[:, -count:]]
    positive = maps.clip(0)
    with np.errstate(invalid="ignore"):
        energy = (positive * masks).sum(1) / positive.sum(1)
    scores = {"top5_hit_rate": np.take_along_axis(masks, top, 1).mean(1), "energy_pointing_game": energy}
    return {name: values - masks.mean(1) for name, values in scores.items()}


def phantom_patches(count: int, size: int, seed: int, mpp: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render malignant phantom patches, of patients outside every split, with masks of their malignant nuclei.

    Args:
        size: Side of a patch, pixels.
        mpp: Microns per pixel.

    Returns:
        Patches, float32 in [0, 1], (count, size, size, 3); masks of their malignant nuclei, bool, (count, size, size);
        and the numbers of their patients, (count,).
    """
    patches, patients = held_out_patches(count, size, KINDS.index("malignant"), seed, mpp=mpp)
    ys, xs = np.mgrid[:size, :size]
    masks = []
    for patch in patches:
        # One axis for nuclei, then two that broadcast against the grid of pixels.
        x, y, radius, is_malignant = patch.nuclei.T[:, :, None, None]
        masks.append((((xs - x) ** 2 + (ys - y) ** 2 <= radius**2) & (is_malignant > 0.5)).any(0))
    return np.stack([patch.image for patch in patches]).astype(np.float32) / 255, np.stack(masks), patients


def _applicable_methods(network: keras.Model) -> dict:
    """Return the explanation methods that work for the network, by name: Grad-CAM needs a large feature map."""
    methods = dict(saliency.METHODS)
    try:
        saliency.grad_cam(network, np.zeros((1, *network.input_shape[1:]), np.float32))
    except ValueError:
        del methods["grad_cam"]
    return methods


def _score_perturbations(network, images, maps, patients, experiment: Experiment) -> dict[str, Any]:
    """Measure deletion and insertion of pixels of `images`, float32 in [0, 1], (n, side, side, 3), in order of `maps`.

    Returns:
        {deletion, insertion: {value, low, high, curve}}. value is the mean area under the curves, and curve their mean
        height at PIXEL_FRACTIONS.
    """
    compute_logits, results = saliency.logits(network), {}
    for test in ("deletion", "insertion"):
        curves = perturbation_curve(compute_logits, images, maps, insert=test == "insertion")
        area = np.trapezoid(curves, PIXEL_FRACTIONS, axis=0)
        results[test] = intervals.mean_with_interval(area, patients, *experiment.bootstrap) | {
            "curve": curves.mean(1).tolist()
        }
    return results


def _explain_examples(
    experiment: Experiment, store: Store, root: Path, network: keras.Model, methods: dict
) -> dict[str, np.ndarray]:
    """Explain the patches of the report's figure: of each class the best predictions first, then the worst ones.

    There are as many real patches, of test patients, as synthetic ones, at most MAX_EXAMPLES of each class.

    Returns:
        labels, integers, (n,), and real_id, text, (n,). For <kind> real and synthetic: <kind>_images, uint8;
        <kind>_probability of the explained class, (n,); and <kind>_<method>, float32 maps, (n, side, side).
    """
    explained, num_classes = experiment.explained_label, experiment.num_classes
    rows = store.role_indices("test")
    labels = store.index["label"].to_numpy()[rows]
    crop = experiment.classify.crop_size
    synthetic, synthetic_labels = load_synthetic(root / "features", experiment.data.size, accepted_only=False)
    image_sets = {
        "real": (center_crop(store.images[rows], crop), labels),
        "synthetic": (center_crop(synthetic, crop), synthetic_labels),
    }
    available = np.stack([np.bincount(set_labels, minlength=num_classes) for _, set_labels in image_sets.values()])
    counts = np.minimum(MAX_EXAMPLES, available.min(0))  # of each class
    arrays, selected = {}, {}
    for kind, (images, set_labels) in image_sets.items():
        errors = np.abs(predict_probabilities(network, images, 1) - (set_labels == explained))
        selected[kind] = np.concatenate(
            [_best_and_worst(errors, set_labels == label, counts[label]) for label in range(num_classes)]
        )
        arrays[f"{kind}_images"] = images = images[selected[kind]]
        arrays[f"{kind}_probability"] = predict_probabilities(network, images, 1)
        for method, explain in methods.items():
            arrays[f"{kind}_{method}"] = explain(network, images.astype(np.float32) / 255)
    arrays["real_id"] = store.index["id"].to_numpy(str)[rows[selected["real"]]]
    arrays["labels"] = np.repeat(np.arange(num_classes), counts)
    return arrays


def _best_and_worst(errors: np.ndarray, is_class: np.ndarray, count: int) -> np.ndarray:
    """Return row numbers of `count` patches of a class: half with the smallest errors, then those with the largest."""
    order = np.flatnonzero(is_class)[np.argsort(errors[is_class])]
    return np.concatenate([order[: count // 2], order[::-1][: count - count // 2]])
