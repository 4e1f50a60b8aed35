"""Write a classifier as TorchScript. Runs as a process of its own, in which Keras uses PyTorch:

    KERAS_BACKEND=torch python -m bcgan.predict.torch_module FOLDER

FOLDER has the files that `bcgan.predict.wsinfer` writes; torchscript_model.pt and results.npz are added.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch

from bcgan.classify.calibration import EPSILON
from bcgan.predict import torch_enhance, torch_files
from bcgan.slides import tissue

BATCH = 64
MIN_PROBABILITY = 1e-7  # of a class, so that its logarithm is finite


class PatchClassifier(torch.nn.Module):
    """Map patches to the logarithms of the probabilities of the classes, of no tissue and of out of distribution.

    It does what `bcgan.predict.model.Model.predict` does to a patch by itself. A softmax of its outputs gives the
    probabilities: a patch without tissue, and one that is out of distribution, has no other class.

    Args:
        folder: With the networks, the quality filter and the parameters.
    """

    def __init__(self, folder: Path):
        """Load the networks, and the numbers of the card and of the quality filter."""
        super().__init__()
        parameters = json.loads((folder / torch_files.PARAMETERS).read_text("utf-8"))
        with np.load(folder / torch_files.MATRICES) as matrices:
            self.network, self.features = (
                _load_network(folder / name, {key: torch.tensor(matrices[key]) for key in matrices})
                for name in (torch_files.NETWORK, torch_files.FEATURES)
            )
        with np.load(folder / torch_files.QUALITY_FILTER) as fitted:
            for name in ("means", "precisions", "limits"):
                self.register_buffer(name, torch.tensor(fitted[name], dtype=torch.float32))
        self.size: int = parameters["size"]
        self.num_views: int = parameters["tta_views"]
        self.min_tissue: float = parameters["min_tissue"]
        self.ood_threshold: float = parameters["ood_threshold"]
        self.blur: str = parameters["blur"]
        self.clahe: bool = parameters["clahe"]
        self.normalizes_stains: bool = parameters["stain_normalization"] == "macenko"
        for name in ("temperature", "shift"):
            self.register_buffer(name, torch.tensor(parameters[name], dtype=torch.float32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return log probabilities, float32 (n, classes + 2): of each class, of no tissue and of out of distribution.

        A patch of the last two kinds has MIN_PROBABILITY for every class.

        Args:
            images: RGB in [0, 1], float32 (n, 3, height, width), of any side: patches are resized by the mean over the
                area of each pixel, as slides are read.
        """
        levels = torch.round(resize_area(images, self.size).permute(0, 2, 3, 1) * 255)
        enhanced = torch_enhance.enhance(levels, self.blur, self.clahe)
        images = (torch_enhance.normalize_stains(enhanced) if self.normalizes_stains else enhanced) / 255
        views = torch.cat([_orient(images, index) for index in range(self.num_views)])  # one graph for all of them
        by_class = self._calibrate(self._probabilities(views).unflatten(0, (self.num_views, -1)).mean(0))
        colorless = is_colorless(levels)
        no_tissue = tissue_fraction(levels, colorless) < self.min_tissue
        is_foreign = ((self._ood_scores(images) > self.ood_threshold) | colorless) & ~no_tissue
        is_rejected = no_tissue | is_foreign
        columns = [by_class * (~is_rejected)[:, None], no_tissue[:, None], is_foreign[:, None]]
        return torch.cat([column.float() for column in columns], 1).clamp(min=MIN_PROBABILITY).log()

    def _probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Return the probability of each class, (n, classes), by the network."""
        logits = self.network(images, training=False)
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return torch.softmax(logits, 1)

    def _calibrate(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Calibrate probabilities, (n, classes): logits are divided by the temperature, and the shift is added."""
        logs = probabilities.clamp(EPSILON, 1 - EPSILON).log()
        if probabilities.shape[1] == 2:
            logit = (logs[:, 1:] - logs[:, :1]) / self.temperature + self.shift
            return torch.softmax(torch.cat([torch.zeros_like(logit), logit], 1), 1)
        return torch.softmax((logs - logs.mean(1, keepdim=True)) / self.temperature + self.shift, 1)

    def _ood_scores(self, images: torch.Tensor) -> torch.Tensor:
        """Return the distance ratio to the nearest class of real patches, (n,)."""
        difference = self.features(images, training=False)[None] - self.means[:, None]  # (classes, n, d)
        squared = ((difference @ self.precisions) * difference).sum(-1)
        return (squared / self.limits[:, None]).amin(0)


@torch.jit.script
def resize_area(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize images, (n, 3, height, width), to `size` pixels a side; each pixel is the mean over the area it covers."""
    for _ in range(2):  # rows, then columns
        old = images.shape[2]
        step = old / size
        starts = torch.arange(size, dtype=images.dtype, device=images.device)[:, None] * step
        pixels = torch.arange(old, dtype=images.dtype, device=images.device)
        covered = torch.minimum(pixels + 1, starts + step) - torch.maximum(pixels, starts)
        images = (covered.clamp(min=0) / step @ images).transpose(2, 3)
    return images


def tissue_fraction(levels: torch.Tensor, colorless: torch.Tensor) -> torch.Tensor:
    """Return the fraction of each patch that is tissue, as `bcgan.slides.tissue.tissue_fraction` does; float, (n,).

    Args:
        levels: Gray levels 0 to 255, float (n, height, width, 3).
        colorless: bool, (n,). What `is_colorless` returns.
    """
    background = _estimate_background(levels)[:, None, None]
    red, green, blue = (levels.clamp(min=1) / background).unbind(-1)
    stained = torch.maximum(red, blue) >= torch.maximum(tissue.STAIN_RATIO * green, green + tissue.MIN_STAIN)
    red_pen = (red - green > 0.4) & (blue - green < 0.1 * (red - green)) & (green < 0.4)
    stained = stained & (red >= tissue.MIN_RED_RATIO * green) & ~red_pen
    dark = (levels / background).amin(-1) < tissue.DARK_RATIO
    mask = torch.where(colorless[:, None, None], dark, stained) & (levels.amax(-1) >= tissue.MAX_UNSCANNED_LEVEL)
    return mask.float().mean((1, 2))


def is_colorless(levels: torch.Tensor) -> torch.Tensor:
    """Return whether each patch is gray apart from glass and unscanned area, as one without stain is; bool, (n,).

    Args:
        levels: Gray levels 0 to 255, float (n, height, width, 3).
    """
    darkest, brightest = levels.amin(-1), levels.amax(-1)
    visible = (darkest < tissue.MIN_GLASS_LEVEL) & (brightest >= tissue.MAX_UNSCANNED_LEVEL)
    spread = ((brightest - darkest) * visible).sum((1, 2))
    return visible.any(2).any(1) & (spread < tissue.MIN_COLOR_RANGE * visible.sum((1, 2)))


def _estimate_background(levels: torch.Tensor) -> torch.Tensor:
    """Return the color of empty glass in each patch, as `bcgan.slides.tissue.estimate_background` does; (n, 3)."""
    weights = torch.tensor([9798.0, 19235.0, 3735.0])  # OpenCV's, of which the sum is 2 to the power of 15
    gray = torch.floor(((levels * weights).sum(-1) + 2**14) / 2**15)[:, None]
    # The largest and the smallest gray level in the 5x5 pixels around each pixel.
    highest, lowest = (sign * torch.nn.functional.max_pool2d(sign * gray, 5, 1, 2)[:, 0] for sign in (1, -1))
    darkest, brightest = levels.amin(-1), levels.amax(-1)
    red, green, blue = (levels.clamp(min=1) / 255).unbind(-1)
    limit = torch.where(darkest >= tissue.MIN_TINTED_LEVEL, tissue.TINT_RATIO, tissue.STAIN_RATIO)
    is_pale = (brightest - darkest <= tissue.MAX_BACKGROUND_CHROMA) & (torch.maximum(red, blue) / green < limit)
    glass = (highest - lowest <= tissue.FLAT_RANGE) & (darkest >= tissue.MIN_BACKGROUND)
    is_empty = glass.float().mean((1, 2), keepdim=True) >= tissue.EMPTY_FRACTION
    glass = glass & (is_pale | is_empty)
    count = glass.sum((1, 2))
    # The median of the glass pixels of each patch: other pixels are infinite, so that they come last when sorted.
    values = torch.where(glass[..., None], levels, torch.full_like(levels, torch.inf)).flatten(1, 2).sort(1).values
    middle = torch.stack([(count - 1).clamp(min=0) // 2, count // 2], 1)[..., None].expand(-1, -1, 3)
    median = values.gather(1, middle).mean(1)
    num_pixels = levels.shape[1] * levels.shape[2]
    enough = count >= max(25, tissue.MIN_BACKGROUND_FRACTION * num_pixels)
    return torch.where(enough[:, None], median, torch.full_like(median, 255.0))


def _orient(images: torch.Tensor, index: int) -> torch.Tensor:
    """Return all patches, (n, height, width, 3), in orientation `index`, as `bcgan.data.views.dihedral_view` does."""
    if index & 4:
        images = images.transpose(1, 2)
    axes = [axis for bit, axis in ((1, 1), (2, 2)) if index & bit]
    return images.flip(axes) if axes else images


def _load_network(path: Path, matrices: dict[str, torch.Tensor]) -> keras.Model:
    """Load a Keras network, with PyTorch's backend, and prepare it for tracing.

    Two kinds of layers are replaced. Resizing layers multiply by the given matrices, so that they give TensorFlow's
    pixels. Batch normalizations of maps become one operation, which `torch.jit.freeze` folds into the convolution
    before it.

    Args:
        path: A .keras file.
        matrices: By `<old side>-<new side>-<interpolation>`, from `bcgan.predict.wsinfer.resizing_matrices`.
    """
    network = keras.models.load_model(path, compile=False)
    network.trainable = False
    for variable in network.variables:
        variable.value.requires_grad_(False)
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.Resizing):
            layer.call = _make_resize(layer, matrices)
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.input.ndim == 4:
            layer.call = _make_batch_norm(layer)
    return network


def _make_resize(layer: keras.layers.Resizing, matrices: dict[str, torch.Tensor]):
    """Return a replacement of a layer's `call`: a product with an interpolation matrix, (new, old), along each axis."""

    def resize(x, training=None):
        """Return the resized maps, (n, height, width, channels)."""
        rows, columns = (
            matrices[f"{old}-{new}-{layer.interpolation}"]
            for old, new in zip(x.shape[1:3], (layer.height, layer.width), strict=True)
        )
        return torch.einsum("nhwc,rh,qw->nrqc", x, rows, columns)

    return resize


def _make_batch_norm(layer: keras.layers.BatchNormalization):
    """Return a replacement of a layer's `call` for inference: one operation of PyTorch, which has channels second."""
    mean, variance = layer.moving_mean.value, layer.moving_variance.value
    scale = layer.gamma.value if layer.scale else None
    shift = layer.beta.value if layer.center else None

    def normalize(x, training=None, mask=None):
        x = x.permute(0, 3, 1, 2)
        return torch.nn.functional.batch_norm(x, mean, variance, scale, shift, eps=layer.epsilon).permute(0, 2, 3, 1)

    return normalize


def _simplify(graph: torch.Graph) -> None:
    """Remove what Keras adds around each convolution: copies to another memory layout, and back."""
    for node in graph.findAllNodes("aten::contiguous"):
        _replace(node, next(node.inputs()))
    for node in graph.findAllNodes("aten::permute"):
        source, axes = node.inputs()
        earlier = source.node()
        if earlier.kind() == "aten::permute":
            first, earlier_axes = earlier.inputs()
            if [earlier_axes.toIValue()[axis] for axis in axes.toIValue()] == [0, 1, 2, 3]:
                _replace(node, first)
    for node in graph.findAllNodes("aten::permute"):
        if not list(node.output().uses()):  # else convolutions seem to have a second reader, and are left as they are
            node.destroy()


def _follow_device(graph: torch.Graph) -> None:
    """Compute on the device of the images: tracing and freezing keep the device on which they were made.

    Constant tensors are moved to it in every call. Those without dimensions stay: operations take them from any device,
    and sizes are computed from them.
    """
    images = list(graph.inputs())[1]  # the first is the module itself
    with graph.insert_point_guard(next(graph.nodes())):
        device = graph.insert("prim::device", [images])
        none, false = graph.insertConstant(None), graph.insertConstant(False)
    for constant in graph.findAllNodes("prim::Constant"):
        value = constant.output()
        if isinstance(value.toIValue(), torch.device):
            value.replaceAllUsesWith(device)
        elif isinstance(value.toIValue(), torch.Tensor) and value.toIValue().ndim:
            moved = graph.create("aten::to", [value, device, none, false, false], 1).insertAfter(constant)
            moved.output().setType(value.type())
            value.replaceAllUsesWith(moved.output())
            moved.replaceInput(0, value)  # the line above replaced it too


def _replace(node: torch.Node, value: torch.Value) -> None:
    node.output().replaceAllUsesWith(value)
    node.destroy()


def _predict(module: Any, patches: np.ndarray) -> np.ndarray:
    """Return the probabilities of uint8 patches, (n, size, size, 3), by a softmax of the module's outputs."""
    tensors = torch.tensor(patches).permute(0, 3, 1, 2).float() / 255
    return torch.cat([torch.softmax(module(part), 1) for part in tensors.split(BATCH)]).numpy()


def main(folder: Path) -> None:
    """Write torchscript_model.pt, and what the written file gives to the patches."""
    patches = np.load(folder / torch_files.PATCHES)
    with torch.no_grad():
        example = torch.rand(2, 3, *patches.shape[1:3])
        traced = torch.jit.trace(PatchClassifier(folder).eval(), example, check_trace=False)
        frozen = torch.jit.freeze(traced)
        _simplify(frozen.graph)
        torch.jit.run_frozen_optimizations(frozen)
        _follow_device(frozen.graph)
        frozen.save(str(folder / torch_files.TORCHSCRIPT))
        module = torch.jit.load(str(folder / torch_files.TORCHSCRIPT))
        probabilities = _predict(module, patches)  # the first pass also optimizes the graph
        start_time = time.perf_counter()
        _predict(module, patches)
        seconds = (time.perf_counter() - start_time) / len(patches)
        np.savez(folder / torch_files.RESULTS, probabilities=probabilities, seconds=seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
