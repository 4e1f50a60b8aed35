"""The networks that bcgan's speed is compared with have the parameters of bcgan's own."""

import keras
import numpy as np
import pytest

from bcgan.bench import subjects

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -r requirements-bench.txt")


@pytest.mark.parametrize("name", ["resnet_table1", *subjects.LARGER_INPUTS])
def test_a_network_in_pytorch_has_as_many_trained_parameters_as_in_keras(name):
    from bcgan.bench import pytorch_networks

    size = subjects.LARGER_INPUTS.get(name, 50)
    network = subjects._classifier(name, size)
    other = pytorch_networks.build(torch, name).train()
    counts = [sum(int(np.prod(value.shape)) for value in values) for values in (
        network.trainable_variables, [value for value in other.parameters() if value.requires_grad],
    )]  # fmt: skip
    assert counts[0] == counts[1]
    images = subjects.draw_patches(2, size)[0] / np.float32(255)
    assert network(images).shape == other(torch.from_numpy(images).permute(0, 3, 1, 2)).shape == (2, 1)
    keras.backend.clear_session()
