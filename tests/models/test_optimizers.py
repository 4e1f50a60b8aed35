"""Adam and AdamW with one kernel per update give the weights and moments of Keras's optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bcgan.models import optimizers

SHAPES = ((3, 4), (4,))


def train(make_optimizer, sparse: bool = False) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Return the weights after ten steps on the same gradients, and the optimizer's variables by path."""
    rng = np.random.default_rng(0)
    weights = [
        keras.Variable(rng.standard_normal(shape, np.float32), name=f"w{index}") for index, shape in enumerate(SHAPES)
    ]
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 12, warmup_target=0.2, warmup_steps=2)
    optimizer = make_optimizer(schedule)
    optimizer.build(weights)
    if not sparse:
        optimizer.exclude_from_weight_decay(weights[1:])

    @tf.function
    def step(first, second):
        """Apply gradients; the first one is sparse if the test says so."""
        if sparse:
            first = tf.IndexedSlices(first[:2], tf.constant([0, 2]), first.shape)
        optimizer.apply([first, second], weights)

    for _ in range(10):
        step(*(tf.constant(rng.standard_normal(shape), tf.float32) for shape in SHAPES))
    return [weight.numpy() for weight in weights], {value.path: value.numpy() for value in optimizer.variables}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("name", "options"), [
    ("Adam", {"beta_1": 0.0, "beta_2": 0.99}), ("Adam", {"weight_decay": 0.05}), ("Adam", {"amsgrad": True}),
    ("AdamW", {"weight_decay": 0.1}),
])  # fmt: skip
def test_weights_and_moments_are_those_of_keras(name, options, sparse):
    (weights, variables), (expected, expected_variables) = (
        train(lambda schedule, source=source: getattr(source, name)(schedule, **options), sparse)
        for source in (optimizers, keras.optimizers)
    )
    for value, expected_value in zip(weights, expected, strict=True):
        # 1 - beta_2 is rounded before the kernel multiplies by it, which changes an update by a fraction of 2e-5.
        np.testing.assert_allclose(value, expected_value, rtol=1e-4, atol=1e-4)
    names, expected_names = ([path.split("/")[-1] for path in paths] for paths in (variables, expected_variables))
    assert names == expected_names
    for value, expected_value in zip(variables.values(), expected_variables.values(), strict=True):
        np.testing.assert_allclose(value, expected_value, rtol=1e-4, atol=1e-6)


def test_one_kernel_updates_a_variable():
    weight = keras.Variable(np.ones(3, np.float32))
    optimizer = optimizers.AdamW(0.1)
    optimizer.build([weight])
    step = tf.function(lambda gradient: optimizer.apply([gradient], [weight]))
    graph = step.get_concrete_function(tf.TensorSpec((3,))).graph
    names = [operation.type for operation in graph.get_operations()]
    assert names.count("ResourceApplyAdam") == names.count("ResourceApplyGradientDescent") == 1
