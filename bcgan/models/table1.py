"""Compare the paper's Table 1 with the network, row by row.

The listed rows do not add up to the listed totals; one regular network has all of them (docs/explanation/paper.md).
Rows without numbers, the input and the activations, are not compared.
"""

from typing import NamedTuple

import keras
import pandas as pd

from bcgan.models.resnet_table1 import resnet_table1


class Row(NamedTuple):
    """A row of Table 1, or of the network's summary."""

    layer: str  # name of the layer
    kind: str  # Keras class of the layer
    output: str  # output shape without the batch
    parameters: int  # number of parameters


TOTALS = {"parameters": 308_323, "trainable": 307_171, "non_trainable": 1_152}
LISTED = (
    Row("stem_conv", "Conv2D", "25, 25, 64", 9_472),
    Row("stem_bn", "BatchNormalization", "25, 25, 64", 256),
    Row("stem_pool", "MaxPooling2D", "13, 13, 64", 0),
    Row("bottleneck1_conv1", "Conv2D", "13, 13, 64", 4_160),
    Row("bottleneck1_bn1", "BatchNormalization", "13, 13, 64", 256),
    Row("bottleneck1_conv2", "Conv2D", "13, 13, 64", 36_928),
    Row("bottleneck1_bn2", "BatchNormalization", "13, 13, 64", 256),
    Row("three_channels", "Conv2D", "26, 26, 3", 771),
    Row("average_pool", "AveragePooling2D", "3, 3, 3", 0),
    Row("flatten", "Flatten", "27", 0),
    Row("dense", "Dense", "1800", 28_000),
)
ERRATA = {"dense": "28,000 = 1,000 x (27 + 1): the paper prints 1800 units, 28,000 parameters mean 1,000"}


def summary_rows(network: keras.Model) -> list[Row]:
    """Return one row for every layer of the network."""
    rows = []
    for layer in network.layers:
        shape = ", ".join(map(str, layer.output.shape[1:]))
        rows.append(Row(layer.name, type(layer).__name__, shape, layer.count_params()))
    return rows


def compare(network: keras.Model | None = None) -> tuple[pd.DataFrame, dict[str, int]]:
    """Compare the network with Table 1.

    Returns:
        A table with one row per layer: layer, kind, output, parameters, paper_output, paper_parameters and verdict
        (`match`, `erratum: ...`, `differs`, `the paper omits it` or `no numbers, not compared`); and the totals
        parameters, trainable, non_trainable, rows_matching (with errata, whose parameters agree) and rows_listed.
    """
    network = network or resnet_table1()
    listed = {row.layer: row for row in LISTED}
    rows = []
    for row in summary_rows(network):
        paper = listed.get(row.layer)
        verdict = "no numbers, not compared" if row.kind in ("InputLayer", "ReLU") else "the paper omits it"
        if paper is not None:
            verdict = "match" if paper == row else "differs"
            if row.layer in ERRATA and paper[1::2] == row[1::2]:
                verdict = f"erratum: {ERRATA[row.layer]}"
        paper_numbers = (paper.output, paper.parameters) if paper else ("", None)
        rows.append((*row, *paper_numbers, verdict))
    columns = ["layer", "kind", "output", "parameters", "paper_output", "paper_parameters", "verdict"]
    table = pd.DataFrame(rows, columns=columns).astype({"paper_parameters": "Int64"})
    trainable = sum(int(keras.ops.size(weight)) for weight in network.trainable_weights)
    totals = {
        "parameters": network.count_params(),
        "trainable": trainable,
        "non_trainable": network.count_params() - trainable,
        "rows_matching": int(table["verdict"].str.match("match|erratum").sum()),
        "rows_listed": len(LISTED),
    }
    return table, totals
