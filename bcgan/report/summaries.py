"""The output of `make tables`: summaries of the GAN's networks and the ResNets; Table 1 compared with the paper."""

from collections.abc import Iterator
from pathlib import Path

from bcgan.models.discriminator import discriminator
from bcgan.models.gan_resnet import gan_resnet, resnet_features
from bcgan.models.generator import generator
from bcgan.models.projected_discriminator import imagenet_features, projected_discriminator, projected_features
from bcgan.models.resnet34 import resnet34
from bcgan.models.resnet50 import resnet50
from bcgan.models.resnet_table1 import resnet_table1
from bcgan.models.table1 import TOTALS, compare

WIDTH = 110
OTHER_SIZES = (96, 224)  # pixels, besides the 50 of Table 1


def write_summaries(out: str | None) -> Iterator[str]:
    """Yield the summaries as text; with `out`, also write each into a file in that folder.

    The networks are for patches of 50 pixels, as in the paper's Table 1. Those of the GAN follow for OTHER_SIZES.
    """
    gan_discriminator, frozen = discriminator(), imagenet_features(weights=False)
    networks = {
        "generator": generator(),
        "discriminator": gan_discriminator,
        "resnet_table1": resnet_table1(),
        "resnet34": resnet34(),
        "resnet50": resnet50(),
        "gan_resnet": gan_resnet(gan_discriminator),
        "gan_resnet_with_projected_discriminator": gan_resnet(
            gan_discriminator, further_maps=projected_features(frozen, projected_discriminator(frozen))
        ),
    }
    for size in OTHER_SIZES:
        larger_discriminator = discriminator(size=size)
        networks |= {
            f"generator_{size}": generator(size=size),
            f"discriminator_{size}": larger_discriminator,
            f"gan_resnet_{size}": gan_resnet(larger_discriminator, size),
        }
    networks["resnet_features"] = resnet_features(further_maps=frozen)
    for name, network in networks.items():
        # The generator has images as its output, the others as an input.
        size = next(tensor.shape[1] for tensor in (*network.inputs, *network.outputs) if len(tensor.shape) == 4)
        lines = [f"{name}, for patches of {size} pixels"]
        network.summary(line_length=WIDTH, print_fn=lambda text, lines=lines: lines.append(text))
        yield _write(out, f"{name}.txt", "\n".join(lines))
    table, totals = compare(networks["resnet_table1"])
    totals_text = "\n".join(f"{name}: {totals[name]:,} (the paper: {number:,})" for name, number in TOTALS.items())
    rows_text = f"{totals['rows_matching']} of the {totals['rows_listed']} listed rows agree, errata named."
    text = f"Table 1 against the paper\n\n{table.to_string(index=False, na_rep='')}\n\n{totals_text}\n{rows_text}"
    yield _write(out, "table1_comparison.txt", text)


def _write(out: str | None, name: str, text: str) -> str:
    """Return `text`; with `out`, also write it into a file in that folder."""
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        Path(out, name).write_text(text + "\n", "utf-8")
    return text
