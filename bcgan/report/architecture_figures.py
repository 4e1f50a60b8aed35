"""The paper's Figs. 3 to 6, drawn from the built networks: shapes and numbers of parameters are those of the models."""

import keras
import pandas as pd
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from bcgan.classes import capitalize, class_text
from bcgan.models.discriminator import discriminator, list_blocks
from bcgan.models.gan_resnet import gan_resnet, joined_block
from bcgan.models.generator import generator
from bcgan.models.projected_discriminator import (
    imagenet_features,
    projected_discriminator,
    projected_features,
    simclr_features,
)
from bcgan.models.resnet_table1 import resnet_table1
from bcgan.report import style
from bcgan.report.run import Run
from bcgan.report.style import ReportFigure
from bcgan.report.wording import EXTRA_MAPS, MAX_LISTED_CLASSES
from bcgan.settings import Classifier

COLORS = {
    "generator": style.SYNTHETIC,
    "discriminator": style.DISCRIMINATOR,
    "resnet": style.CLASSIFIER_COLORS["resnet_table1"],
    "projected_discriminator": style.CLASSIFIER_COLORS["efficientnet_lite0"],  # whose frozen layers it uses
    "joined": style.CLASSIFIER_COLORS["gan_resnet"],
    "data": "#DDDDDD",
}
VECTOR_HEIGHT = 0.1  # of a vector's box; that of a patch is 1
# Titles of blocks, by the first part of their layers' names.
TITLES = {
    "image": "patch", "stem": "stem", "three": "three\nchannels", "upsample": "enlarged", "average": "pooled",
    "flatten": "flat", "dense": "units", "realness": "realness", "label": "label\nembedding", "noise": "noise,\nlabel",
    "seed": "seed", "last": "last", "colours": "colours", "code": "code", "joint": "joint",
    "features": "maps above,\ngated",
}  # fmt: skip


def blocks(network: keras.Model) -> pd.DataFrame:
    """Return a network's blocks: layers whose names have the same first part, up to the underscore.

    Returns:
        A row for each block, in the order of its first layer: block, its name; output, the shape of its last layer
        without the batch, a tuple; and parameters, a number.
    """
    rows: dict[str, dict] = {}
    for layer in network.layers:
        name = layer.name.split("_")[0]
        shape = () if isinstance(layer.output, list) else tuple(layer.output.shape[1:])
        row = rows.setdefault(name, {"block": name, "output": shape, "parameters": 0})
        row["output"] = shape or row["output"]
        row["parameters"] += layer.count_params()
    return pd.DataFrame(rows.values())


def system(run: Run) -> ReportFigure:
    """Draw how the GAN and the classifier work together: the paper's Fig. 3."""
    classifier_settings = run.experiment.classify.models.get("gan_resnet", Classifier())
    extra_maps = EXTRA_MAPS.get(classifier_settings.extra_features, "").removesuffix(" maps")
    joined_maps = f"; {extra_maps}".replace("projected ", "projected\n") if extra_maps else ""
    size = run.experiment.data.size
    gan_discriminator = discriminator(size=size)
    joined_network = gan_resnet(gan_discriminator, size)
    maps = "x".join(map(str, gan_discriminator.get_layer(joined_block(gan_discriminator)).output.shape[1:]))
    units = joined_network.output_shape[-1]
    state = f"frozen{joined_maps}{', fine-tuned' if classifier_settings.finetune_extra_features else ''}"
    figure, axes = style.plt.subplots(figsize=(10, 4.2))
    axes.axis("off")
    projected = (
        ", and one\non ImageNet features"
        if run.experiment.gan.projected_discriminator_weight
        else ":\nreal or synthetic"
    )
    boxes = {
        "patches": (0.0, 1.0, f"Training patients'\npatches, {size}x{size}x3", "data"),
        "generator": (2.6, 3.4, "Generator\nnoise, label to patch", "generator"),
        "synthetic": (5.2, 3.4, "Synthetic patches,\nfiltered", "data"),
        "discriminator": (2.6, 2.2, f"Discriminator{projected}", "discriminator"),
        "maps": (5.2, 2.2, f"Its maps, {maps},\n{state}", "discriminator"),
        "resnet": (7.8, 2.2, f"Table 1's ResNet,\njoined, to {units:,} units", "joined"),
        "call": (10.4, 2.2, _head_text(run.experiment.data.class_names), "data"),
    }
    for x, y, text, color in boxes.values():
        _draw_box(axes, x, y, text, COLORS[color])
    links = [("patches", "discriminator"), ("generator", "discriminator"), ("generator", "synthetic"),
             ("discriminator", "maps"), ("maps", "resnet"), ("patches", "resnet"), ("resnet", "call")]  # fmt: skip
    links += [("synthetic", "resnet")] if classifier_settings.uses_synthetic else []
    for start, end in links:
        _draw_link(axes, boxes[start][:2], boxes[end][:2])
    axes.set(xlim=(-0.1, 12.3), ylim=(0.2, 4.4))
    numbers = pd.DataFrame(links, columns=["from", "to"])
    return ReportFigure(figure, numbers, "System architecture (the paper's Fig. 3)", (
        "What runs: the GAN learns the training patients' patches; its discriminator's maps join the ResNet"
        f"{', whose training its synthetic patches enrich' if classifier_settings.uses_synthetic else ''}; "
        f"{'a binary' if len(run.experiment.data.class_names) == 2 else 'a'} head behind the paper's 1,000 units makes "
        "the call."
        + (" The second discriminator is not in the paper."
           if run.experiment.gan.projected_discriminator_weight else "")
    ))  # fmt: skip


def _head_text(class_names: tuple[str, ...]) -> str:
    """Return the text in the box of the classifier's head."""
    if len(class_names) > MAX_LISTED_CLASSES:
        return f"Head:\none of {len(class_names)} classes"
    title = "Binary head" if len(class_names) == 2 else "Head"
    *others, last = (class_text(name) for name in class_names)
    line_break = "\n" if len(others) > 1 else " "
    return f"{title}:\n{', '.join(others)}{line_break}or {last}"


def gan(run: Run) -> ReportFigure:
    """Draw the blocks of the generator and the discriminator: the paper's Fig. 4."""
    settings, size, num_classes = run.experiment.gan, run.experiment.data.size, len(run.experiment.data.class_names)
    gan_discriminator = discriminator(settings.base_channels, num_classes, settings.spectral_norm, size)
    generator_blocks = blocks(generator(settings.latent_dim, settings.base_channels, num_classes, size))
    discriminator_blocks = blocks(gan_discriminator)
    is_drawn = generator_blocks["block"].str.match("noise|code|seed|grow|last|colours|image")
    generator_blocks = generator_blocks[generator_blocks["output"].map(bool) & is_drawn]
    discriminator_blocks = discriminator_blocks[
        discriminator_blocks["block"].str.match("image|stem|block|realness|logit")
    ]
    figure = style.plt.figure(figsize=(10, 5.4))
    for row, (network_blocks, name) in enumerate(
        ((generator_blocks, "generator"), (discriminator_blocks, "discriminator"))
    ):
        axes = figure.add_subplot(2, 1, row + 1)
        _draw_blocks(axes, network_blocks, COLORS[name])
        axes.set_title(f"{name.capitalize()}: {network_blocks['parameters'].sum():,} parameters in these blocks")
    table = pd.concat(
        [generator_blocks.assign(network="generator"), discriminator_blocks.assign(network="discriminator")]
    )
    return ReportFigure(figure, _shapes_as_text(table),
        "The GAN (the paper's Fig. 4)", (
        "Blocks of the two networks as this run built them, with their output shapes and parameters; boxes are as high "
        "as their maps, vectors thin. "
        + ("Not drawn: the projected discriminator, on EfficientNet-Lite0's frozen maps. "
           if settings.projected_discriminator_weight else "") +
        f"The maps {', '.join(list_blocks(gan_discriminator))} of the discriminator are what later stages read."
    ))  # fmt: skip


def resnet(_run: Run) -> ReportFigure:
    """Draw the blocks of Table 1's ResNet: the paper's Fig. 5."""
    network_blocks = blocks(resnet_table1())
    figure, axes = style.plt.subplots(figsize=(10, 3.2))
    _draw_blocks(axes, network_blocks, COLORS["resnet"])
    axes.set_title(f"{network_blocks['parameters'].sum():,} parameters, as the paper's Table 1 has them")
    return ReportFigure(figure, _shapes_as_text(network_blocks), "The ResNet's features (the paper's Fig. 5)", (
        "Table 1's bottleneck ResNet, from patch to 1,000 units; each block with its output shape and parameters. A "
        "bottleneck is 1x1, 3x3 and 1x1 convolutions beside a shortcut without parameters."
    ))  # fmt: skip


def integration(run: Run) -> ReportFigure:
    """Draw the discriminator's maps joining the ResNet: the paper's Fig. 6."""
    classifier_settings = run.experiment.classify.models.get("gan_resnet", Classifier())
    size = run.experiment.data.size
    gan_discriminator = discriminator(run.experiment.gan.base_channels, size=size)
    joined, all_blocks = joined_block(gan_discriminator), list_blocks(gan_discriminator)
    further_maps = _build_extra_features(classifier_settings, size)
    joined_network = gan_resnet(gan_discriminator, size, further_maps, classifier_settings.multi_depth)
    discriminator_blocks = blocks(gan_discriminator)
    used_blocks = ["image", "stem", *all_blocks[: all_blocks.index(joined) + 1]]
    discriminator_blocks = discriminator_blocks[discriminator_blocks["block"].isin(used_blocks)]
    joined_blocks = blocks(joined_network)
    other_networks = joined_blocks["block"].isin(["discriminator", "image", "imagenet", "projected", "simclr"])
    joined_blocks = joined_blocks[~other_networks & ~joined_blocks["block"].str.startswith("depth")]
    is_gate, is_stem = joined_blocks["block"] == "features", joined_blocks["block"] == "stem"
    ordered_blocks = pd.concat([joined_blocks[is_stem], joined_blocks[is_gate], joined_blocks[~is_gate & ~is_stem]])
    rows = [
        (discriminator_blocks, "discriminator", f"The discriminator, frozen, up to its map {joined}"),
        (ordered_blocks, "joined", "Table 1's ResNet, joined behind its stem"),
    ]  # fmt: skip
    if further_maps:
        maps = capitalize(EXTRA_MAPS[classifier_settings.extra_features])
        state = "fine-tuned" if classifier_settings.finetune_extra_features else "frozen"
        rows.insert(1, (_map_blocks(further_maps), "projected_discriminator", f"{maps}, {state}: all three join"))
    figure = style.plt.figure(figsize=(10, 2.7 * len(rows)))
    for row, (network_blocks, name, title) in enumerate(rows):
        axes = figure.add_subplot(len(rows), 1, row + 1)
        _draw_blocks(axes, network_blocks, COLORS[name], side_block="features")
        axes.set_title(f"{title}: {network_blocks['parameters'].sum():,} parameters in these blocks")
    numbers = [network_blocks.assign(network=name) for network_blocks, name, _ in rows]
    return ReportFigure(figure, _shapes_as_text(pd.concat(numbers)), "GAN and ResNet joined (the paper's Fig. 6)", (
        f"The discriminator's map {joined} joins the ResNet behind its stem: it is projected to as many channels "
        "and added through a gate that starts at zero, so that at the start the network is Table 1's alone. "
        + ("Three maps of the projected discriminator, on EfficientNet-Lite0, resized to that size, join too. "
           if classifier_settings.extra_features == "projected_discriminator" else "")
    ).strip())  # fmt: skip


def _build_extra_features(classifier_settings: Classifier, size: int) -> keras.Model | None:
    """Build the network whose maps also join, with random weights: only its shapes are used. `None` if none joins."""
    if classifier_settings.extra_features == "none":
        return None
    if classifier_settings.extra_features == "simclr":
        return simclr_features(size)
    frozen = imagenet_features(size, weights=False)
    if classifier_settings.extra_features == "projected_discriminator":
        return projected_features(frozen, projected_discriminator(frozen))
    return frozen


def _map_blocks(network: keras.Model) -> pd.DataFrame:
    """Return the patch and each map that joins, a row each, with the columns of `blocks`.

    Parameters are those that a map needs beyond the maps before it: layers of the frozen network up to it, and its
    head.
    """
    frozen = imagenet_features(network.input.shape[1], weights=False)
    submodels = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    rows, previous_count = [("image", tuple(network.input.shape[1:]), 0)], 0
    for index, output in enumerate(network.outputs, 1):
        count = keras.Model(frozen.input, frozen.outputs[:index]).count_params()
        heads = [layer for model in submodels for layer in model.layers if layer.name.endswith(f"{index}_conv")]
        parameters = count - previous_count + sum(layer.count_params() for layer in heads)
        rows.append((f"map{index}", tuple(output.shape[1:]), parameters))
        previous_count = count
    return pd.DataFrame(rows, columns=["block", "output", "parameters"])


def _draw_box(axes: style.plt.Axes, x: float, y: float, text: str, color: str) -> None:
    """Draw a rounded box, 1.8 wide and 0.9 high, with text; (x, y) is the middle of its left edge."""
    axes.add_patch(
        FancyBboxPatch((x, y - 0.45), 1.8, 0.9, boxstyle="round,pad=0.05", facecolor=color, edgecolor="none")
    )
    axes.text(x + 0.9, y, text, ha="center", va="center", fontsize=8)


def _draw_link(axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow between two boxes, given by their left ends: from the right or, within a column, up or down."""
    half_height = 0.5 * ((start[1] > end[1]) - (start[1] < end[1]))  # 0 if the boxes are level, negative upwards
    tail = (start[0] + 0.9, start[1] - half_height) if start[0] == end[0] else (start[0] + 1.85, start[1])
    tip = (end[0] + 0.9, end[1] + half_height) if half_height else (end[0] - 0.05, end[1])
    axes.add_patch(
        FancyArrowPatch(tail, tip, arrowstyle="-|>", mutation_scale=11, color=style.MUTED, shrinkA=0, shrinkB=0)
    )


def _draw_blocks(axes, network_blocks: pd.DataFrame, color: str, side_block: str = "") -> None:
    """Draw a row of boxes, as high as their maps, with the name above and the shape and parameters below.

    Args:
        network_blocks: From `blocks`.
        side_block: The block whose input comes from the row above; the block before it is connected past it.
    """
    axes.axis("off")
    patch_height = max(shape[0] for shape in network_blocks["output"] if len(shape) == 3)
    for x, row in enumerate(network_blocks.itertuples()):
        height = 0.15 + 0.85 * row.output[0] / patch_height if len(row.output) == 3 else VECTOR_HEIGHT
        axes.add_patch(Rectangle((x - 0.28, -height / 2), 0.56, height, facecolor=color, edgecolor=style.INK, lw=0.6))
        shape = "x".join(map(str, row.output)) or "scalar"
        fontsize = 8 if len(network_blocks) < 11 else 7
        axes.text(x, 0.58, _block_title(row.block), ha="center", va="bottom", fontsize=fontsize)
        axes.text(x, -0.58, f"{shape}\n{row.parameters:,}", ha="center", va="top", fontsize=7, color=style.MUTED)
        if row.block == side_block:
            _draw_arrow(axes, (x, 0.55), (x, height / 2))
            _draw_arrow(axes, (x - 0.72, -0.1), (x + 0.7, -0.1), "arc3,rad=0.25")
        elif x:
            _draw_arrow(axes, (x - 0.7, 0), (x - 0.3, 0))
    axes.set(xlim=(-0.6, max(len(network_blocks), 8) - 0.4), ylim=(-0.95, 0.95))


def _draw_arrow(axes, start: tuple[float, float], end: tuple[float, float], curve: str = "arc3") -> None:
    """Draw a thin arrow between blocks."""
    options = {"arrowstyle": "-|>", "mutation_scale": 8, "color": style.MUTED, "connectionstyle": curve}
    axes.add_patch(FancyArrowPatch(start, end, **options))


def _block_title(block: str) -> str:
    """Return a block's title: from TITLES, or its name with the number apart, such as `block 1`."""
    name = block.rstrip("0123456789")
    return TITLES.get(block, f"{name} {block[len(name) :]}".strip())


def _shapes_as_text(network_blocks: pd.DataFrame) -> pd.DataFrame:
    """Return the table with output shapes as text, such as `50x50x3`."""
    return network_blocks.assign(output=network_blocks["output"].map(lambda shape: "x".join(map(str, shape))))
