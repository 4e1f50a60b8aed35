"""Features of the published FID's network, from a graph in TensorFlow's form of 2015."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from bcgan import experiment, runs, stages
from bcgan.errors import InputError
from bcgan.evaluate import inception
from bcgan.gan import scores

SIDE = 8  # to which the graph of these tests resizes; the real one to 299


def add_node(graph, name: str, operation: str, inputs=(), **attributes) -> None:
    node = graph.node.add(name=name, op=operation, input=inputs)
    for key, value in attributes.items():
        target = node.attr[key]
        if isinstance(value, tf.DType):
            target.type = value.as_datatype_enum
        elif isinstance(value, bool):
            target.b = value
        elif isinstance(value, np.ndarray):
            target.tensor.CopyFrom(tf.make_tensor_proto(value))
        elif isinstance(value, list):
            target.list.i.extend(value)
        elif isinstance(value, float):
            target.f = value
        else:
            target.s = value.encode()


def write_graph(path, output: str = "pool_3") -> None:
    """Write a graph with the names and the operations of 2015: one is refused by functions of TensorFlow 2.

    Its features are twice the mean color of the resized image, less 128.
    """
    graph, real = graph_pb2.GraphDef(), tf.float32
    graph.versions.producer = 8
    constants = {
        "Cast": np.zeros((4, 4, 3), np.float32), "dim": np.array(0, np.int32), "size": np.array([SIDE, SIDE], np.int32),
        "mean": np.full(3, 128, np.float32), "variance": np.ones(3, np.float32), "beta": np.zeros(3, np.float32),
        "gamma": np.full(3, 2, np.float32),
    }  # fmt: skip
    for name, value in constants.items():
        add_node(graph, name, "Const", dtype=tf.as_dtype(value.dtype), value=value)
    add_node(graph, "ExpandDims", "ExpandDims", ["Cast", "dim"], T=real)
    add_node(graph, "ResizeBilinear", "ResizeBilinear", ["ExpandDims", "size"], T=real, align_corners=False)
    inputs = ["ResizeBilinear", "mean", "variance", "beta", "gamma"]
    settings = {"T": real, "variance_epsilon": 1e-7, "scale_after_normalization": True}
    add_node(graph, "bn", "BatchNormWithGlobalNormalization", inputs, **settings)
    window = {"ksize": [1, SIDE, SIDE, 1], "strides": [1, 1, 1, 1], "padding": "VALID"}
    add_node(graph, output, "AvgPool", ["bn"], T=real, **window)
    path.write_bytes(graph.SerializeToString())


def test_features_are_the_graphs_whatever_the_number_and_the_size_of_patches(tmp_path):
    write_graph(tmp_path / "graph.pb")
    extract = inception.make_feature_fn(tmp_path / "graph.pb")
    rng = np.random.default_rng(0)
    for count, side in ((1, SIDE), (70, SIDE), (33, 2 * SIDE)):
        patches = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        step = side // SIDE  # TensorFlow's bilinear resizing of 2015 takes the pixel at the corner
        expected = 2 * (patches[:, ::step, ::step].mean((1, 2)) - 128)
        np.testing.assert_allclose(extract(patches), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("content", [None, b"", b"no graph", "other names"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "graph.pb"
    if content == "other names":
        write_graph(path, "pool_7")
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"inception_graph: .*graph\.pb is not the Inception network of 2015-12-05"):
        inception.make_feature_fn(path)


def test_distances_by_it_are_in_the_scores_and_follow_the_file(tmp_path, finished):
    from bcgan.evaluate import synthetic
    from bcgan.preprocess import store

    path = tmp_path / "graph.pb"
    write_graph(path)
    loaded = experiment.load(str(finished / "tiny.yaml"), (f"evaluate.inception_graph={path}",))
    without = experiment.load(str(finished / "tiny.yaml"))
    root = finished / "runs/tiny"
    results = synthetic.evaluate(loaded, store.load(root / "preprocess"), root / "features", tmp_path, False)
    plain = runs.read_json(root / "evaluate/gan_scores.json")
    assert set(results) - set(plain) == {"kid_inception_2015", "fid_inception_2015"}
    assert {results[name]["network"] for name in ("kid_inception_2015", "fid_inception_2015")} == {"inception_2015"}
    assert results["fid_inception_2015"]["value"] > 0
    assert results["fid_inception_2015"]["samples"] == results["kid"]["samples"]
    stage = stages.STAGES[stages.NAMES.index("evaluate")]
    keys = [stages.stage_key(stage, without, root)[0], stages.stage_key(stage, loaded, root)[0]]
    path.write_bytes(path.read_bytes() + b"\x3a\x00")
    keys.append(stages.stage_key(stage, loaded, root)[0])
    assert len(set(keys)) == 3
    path.unlink()
    with pytest.raises(InputError, match="inception_graph: .*graph.pb is no file"):
        stages.stage_key(stage, loaded, root)


def test_the_distance_is_that_of_two_gaussians():
    """Of known means and covariances, in few dimensions."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200_000, 2)) * [1, 2]
    fake = rng.normal(size=(200_000, 2)) * [3, 2] + [1, 0]
    assert scores.fid(real, fake) == pytest.approx(1 + (3 - 1) ** 2, abs=0.1)
