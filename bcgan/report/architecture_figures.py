"""The paper's Figs. 3 to 6, drawn from the networks themselves: shapes and parameters are read off the models."""

import keras
import pandas as pd
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from bcgan.models.discriminator import BLOCKS, discriminator
from bcgan.models.gan_resnet import JOINED_BLOCK, gan_resnet
from bcgan.models.generator import generator
from bcgan.models.projected_discriminator import frozen_features, projected_discriminator, projected_features
from bcgan.models.resnet_table1 import resnet_table1
from bcgan.report import style
from bcgan.report.run import Run
from bcgan.report.style import Drawn
from bcgan.settings import Classifier

COLOURS = {
    "generator": style.SYNTHETIC,
    "discriminator": style.DISCRIMINATOR,
    "resnet": style.CLASSIFIER_COLOURS["resnet_table1"],
    "projected_discriminator": style.CLASSIFIER_COLOURS["efficientnet_lite0"],  # whose layers it sees with
    "joined": style.CLASSIFIER_COLOURS["gan_resnet"],
    "data": "#DDDDDD",
}
THIN = 0.1  # height of a vector's box, where a map of 50 pixels has 1
# What a block is called where its layers' names begin with this.
TITLES = {
    "image": "patch", "stem": "stem", "three": "three\nchannels", "upsample": "enlarged", "average": "pooled",
    "flatten": "flat", "dense": "units", "realness": "realness", "label": "label\nembedding", "noise": "noise,\nlabel",
    "seed": "seed", "last": "last", "colours": "colours", "code": "code", "joint": "joint",
    "features": "maps above,\ngated",
}  # fmt: skip


def blocks(network: keras.Model) -> pd.DataFrame:
    """A network's layers, those whose names begin alike taken together: block, output (of the last one), parameters."""
    rows: dict[str, dict] = {}
    for layer in network.layers:
        name = layer.name.split("_")[0]
        shape = tuple(side for side in layer.output.shape[1:]) if not isinstance(layer.output, list) else ()
        row = rows.setdefault(name, {"block": name, "output": shape, "parameters": 0})
        row["output"] = shape or row["output"]
        row["parameters"] += layer.count_params()
    return pd.DataFrame(rows.values())


def system(run: Run) -> Drawn:
    classifier_settings = run.experiment.classify.models.get("gan_resnet", Classifier())
    joined_maps = {
        "none": "",
        "projected_discriminator": "; the projected\ndiscriminator's",
        "imagenet": "; ImageNet's",
    }[classifier_settings.extra_features]
    gan_discriminator, joined_network = discriminator(), gan_resnet(discriminator())
    maps = "x".join(map(str, gan_discriminator.get_layer(JOINED_BLOCK).output.shape[1:]))
    units = joined_network.output_shape[-1]
    state = f"frozen{joined_maps}{', fine-tuned' if classifier_settings.finetune_extra_features else ''}"
    figure, axes = style.plt.subplots(figsize=(10, 4.2))
    axes.axis("off")
    second = (
        ", and one\non ImageNet features"
        if run.experiment.gan.projected_discriminator_weight
        else ":\nreal or synthetic"
    )
    places = {
        "patches": (0.0, 1.0, "Training patients'\npatches, 50x50x3", "data"),
        "generator": (2.6, 3.4, "Generator\nnoise, label to patch", "generator"),
        "synthetic": (5.2, 3.4, "Synthetic patches,\nfiltered", "data"),
        "discriminator": (2.6, 2.2, f"Discriminator{second}", "discriminator"),
        "maps": (5.2, 2.2, f"Its maps, {maps},\n{state}", "discriminator"),
        "resnet": (7.8, 2.2, f"Table 1's ResNet,\njoined, to {units:,} units", "joined"),
        "call": (10.4, 2.2, "Binary head:\nbenign or malignant", "data"),
    }
    for x, y, text, colour in places.values():
        _box(axes, x, y, text, COLOURS[colour])
    links = [("patches", "discriminator"), ("generator", "discriminator"), ("generator", "synthetic"),
             ("discriminator", "maps"), ("synthetic", "resnet"), ("maps", "resnet"), ("patches", "resnet"),
             ("resnet", "call")]  # fmt: skip
    for start, end in links:
        _link(axes, places[start][:2], places[end][:2])
    axes.set(xlim=(-0.1, 12.3), ylim=(0.2, 4.4))
    numbers = pd.DataFrame(links, columns=["from", "to"])
    return Drawn(figure, numbers, "System architecture (the paper's Fig. 3)", (
        "What runs: the GAN learns the training patients' patches; its discriminator's maps join the ResNet, whose "
        "training its synthetic patches enrich; a binary head behind the paper's 1,000 units makes the call."
        + (" The second discriminator is not in the paper."
           if run.experiment.gan.projected_discriminator_weight else "")
    ))  # fmt: skip


def gan(run: Run) -> Drawn:
    settings = run.experiment.gan
    make = blocks(generator(settings.latent_dim, settings.base_channels))
    discriminator_blocks = blocks(discriminator(settings.base_channels, spectral=settings.spectral_norm))
    make = make[make["output"].map(bool) & make["block"].str.match("noise|code|seed|grow|last|colours|image")]
    discriminator_blocks = discriminator_blocks[
        discriminator_blocks["block"].str.match("image|stem|block|realness|logit")
    ]
    figure = style.plt.figure(figsize=(10, 5.4))
    for place, (part, title, colour) in enumerate(
        ((make, "Generator", "generator"), (discriminator_blocks, "Discriminator", "discriminator"))
    ):
        axes = figure.add_subplot(2, 1, place + 1)
        _draw_blocks(axes, part, COLOURS[colour])
        axes.set_title(f"{title}: {part['parameters'].sum():,} parameters in these blocks")
    table = pd.concat([make.assign(network="generator"), discriminator_blocks.assign(network="discriminator")])
    return Drawn(figure, _shapes_as_text(table),
        "The GAN (the paper's Fig. 4)", (
        "Blocks of the two networks as this run built them, with their output shapes and parameters; boxes are as high "
        "as their maps, vectors thin. "
        + ("Not drawn: the projected discriminator, on EfficientNet-Lite0's frozen maps. "
           if settings.projected_discriminator_weight else "") +
        f"The maps {', '.join(BLOCKS)} of the discriminator are what later stages read."
    ))  # fmt: skip


def resnet(_run: Run) -> Drawn:
    part = blocks(resnet_table1())
    figure, axes = style.plt.subplots(figsize=(10, 3.2))
    _draw_blocks(axes, part, COLOURS["resnet"])
    axes.set_title(f"{part['parameters'].sum():,} parameters, as the paper's Table 1 has them")
    return Drawn(figure, _shapes_as_text(part), "The ResNet's features (the paper's Fig. 5)", (
        "Table 1's bottleneck ResNet, from patch to 1,000 units; each block with its output shape and parameters. A "
        "bottleneck is 1x1, 3x3 and 1x1 convolutions beside a shortcut without parameters."
    ))  # fmt: skip


def integration(run: Run) -> Drawn:
    classifier_settings = run.experiment.classify.models.get("gan_resnet", Classifier())
    gan_discriminator, further_maps = (
        discriminator(run.experiment.gan.base_channels),
        _extra_features(classifier_settings),
    )
    part, joined_network = blocks(gan_discriminator), gan_resnet(gan_discriminator, further_maps=further_maps)
    part = part[part["block"].isin(["image", "stem", *BLOCKS[: BLOCKS.index(JOINED_BLOCK) + 1]])]
    merged = blocks(joined_network)
    merged = merged[~merged["block"].isin(["discriminator", "image", "imagenet", "projected"])]
    gate, stem = merged["block"] == "features", merged["block"] == "stem"
    order = [stem, gate, ~gate & ~stem]
    rows = [
        (part, "discriminator", f"The discriminator, frozen, up to its map {JOINED_BLOCK}"),
        (pd.concat([merged[kind] for kind in order]), "joined", (
            f"Table 1's ResNet, joined behind its stem: {joined_network.count_params():,} parameters with all that "
            "joins")),
    ]  # fmt: skip
    if further_maps:
        projected = classifier_settings.extra_features == "projected_discriminator"
        maps = "The projected discriminator's maps" if projected else "ImageNet's maps"
        state = "fine-tuned" if classifier_settings.finetune_extra_features else "frozen"
        rows.insert(1, (_depths(further_maps), "projected_discriminator", f"{maps}, {state}: all three join"))
    figure = style.plt.figure(figsize=(10, 2.7 * len(rows)))
    for number, (chain, colour, title) in enumerate(rows):
        axes = figure.add_subplot(len(rows), 1, number + 1)
        _draw_blocks(axes, chain, COLOURS[colour], from_above="features")
        axes.set_title(title)
    numbers = [chain.assign(network=colour) for chain, colour, _ in rows]
    return Drawn(figure, _shapes_as_text(pd.concat(numbers)), "GAN and ResNet joined (the paper's Fig. 6)", (
        f"The discriminator's map {JOINED_BLOCK} joins the ResNet behind its stem: it is projected to as many channels "
        "and added through a gate that starts at zero, so that at the start the network is Table 1's alone. "
        + ("Three maps of the projected discriminator, on EfficientNet-Lite0, resized to that size, join too. "
           if classifier_settings.extra_features == "projected_discriminator" else "")
    ).strip())  # fmt: skip


def _extra_features(classifier_settings: Classifier) -> keras.Model | None:
    """Build the further maps that join, with random weights: only their shapes are read."""
    if classifier_settings.extra_features == "none":
        return None
    frozen = frozen_features(weights=False)
    return (
        projected_features(frozen, projected_discriminator(frozen))
        if classifier_settings.extra_features == "projected_discriminator"
        else frozen
    )


def _depths(network: keras.Model) -> pd.DataFrame:
    """The patch and each map that joins: block, output, and the parameters that the map before it does not need."""
    frozen = frozen_features(weights=False)
    inside = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    rows, before = [("image", tuple(network.input.shape[1:]), 0)], 0
    for number, output in enumerate(network.outputs, 1):
        count = keras.Model(frozen.input, frozen.outputs[:number]).count_params()
        heads = [layer for model in inside for layer in model.layers if layer.name.endswith(f"{number}_conv")]
        parameters = count - before + sum(layer.count_params() for layer in heads)
        rows.append((f"map{number}", tuple(output.shape[1:]), parameters))
        before = count
    return pd.DataFrame(rows, columns=["block", "output", "parameters"])


def _box(axes, x: float, y: float, text: str, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch((x, y - 0.45), 1.8, 0.9, boxstyle="round,pad=0.05", facecolor=colour, edgecolor="none")
    )
    axes.text(x + 0.9, y, text, ha="center", va="center", fontsize=8)


def _link(axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow out of a box's side, or below one that stands above the other, into the next one's nearest side."""
    down = 0.5 * ((start[1] > end[1]) - (start[1] < end[1]))  # half a box, where they are not level
    left = (start[0] + 0.9, start[1] - down) if start[0] == end[0] else (start[0] + 1.85, start[1])
    ends = left, (end[0] + 0.9, end[1] + down) if down else (end[0] - 0.05, end[1])
    axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=11, color=style.MUTED, shrinkA=0, shrinkB=0))


def _draw_blocks(axes, part: pd.DataFrame, colour: str, from_above: str = "") -> None:
    """A row of boxes, as high as their maps, each with its name above and its shape and parameters below. What the
    block `from_above` takes comes from another row, and what is before it goes on around it."""
    axes.axis("off")
    for place, row in enumerate(part.itertuples()):
        height = 0.15 + 0.85 * row.output[0] / 50 if len(row.output) == 3 else THIN
        axes.add_patch(
            Rectangle((place - 0.28, -height / 2), 0.56, height, facecolor=colour, edgecolor=style.INK, lw=0.6)
        )
        shape = "x".join(map(str, row.output)) or "scalar"
        axes.text(place, 0.58, _title(row.block), ha="center", va="bottom", fontsize=8 if len(part) < 11 else 7)
        axes.text(place, -0.58, f"{shape}\n{row.parameters:,}", ha="center", va="top", fontsize=7, color=style.MUTED)
        if row.block == from_above:
            _arrow(axes, (place, 0.55), (place, height / 2))
            _arrow(axes, (place - 0.72, -0.1), (place + 0.7, -0.1), "arc3,rad=0.25")
        elif place:
            _arrow(axes, (place - 0.7, 0), (place - 0.3, 0))
    axes.set(xlim=(-0.6, max(len(part), 8) - 0.4), ylim=(-0.95, 0.95))


def _arrow(axes, start: tuple[float, float], end: tuple[float, float], curve: str = "arc3") -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 8, "color": style.MUTED, "connectionstyle": curve}
    axes.add_patch(FancyArrowPatch(start, end, **look))


def _title(block: str) -> str:
    name = block.rstrip("0123456789")
    return TITLES.get(block, f"{name} {block[len(name) :]}".strip())


def _shapes_as_text(part: pd.DataFrame) -> pd.DataFrame:
    return part.assign(output=part["output"].map(lambda shape: "x".join(map(str, shape))))
