import keras
import numpy as np
import pytest

from bcgan.errors import InputError, WorkError
from bcgan.models import weights
from bcgan.models.classifier import build_classifier
from bcgan.models.discriminator import discriminator
from tests.digest import digest


def variables(seed: int, shape=(2, 3)) -> list:
    return [keras.Variable(np.random.default_rng(seed).random(shape)) for _ in range(2)]


def test_round_trip(tmp_path):
    path, groups, restored = tmp_path / "c.npz", {"a": variables(0)}, {"a": variables(1)}
    assert weights.restore(path, groups) == 0
    weights.save(path, 7, groups)
    assert weights.restore(path, restored) == 7
    assert digest(restored["a"]) == digest(groups["a"])


def test_a_network_that_brings_code_is_refused_and_not_run(tmp_path):
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / "code.keras")
    (tmp_path / "text.keras").write_text("no network")
    for name in ("code.keras", "text.keras"):
        with pytest.raises(InputError, match=rf"{name} is no network that can be read safely"):
            weights.load_model(tmp_path / name)


def test_other_networks_are_refused(tmp_path):
    weights.save(tmp_path / "c.npz", 7, {"a": variables(0)})
    for groups in ({"a": variables(0, (3, 3))}, {"b": variables(0)}):
        with pytest.raises(InputError, match="has the weights of other networks"):
            weights.restore(tmp_path / "c.npz", groups)


def test_weights_that_are_no_number_are_not_written(tmp_path):
    path, groups = tmp_path / "c.npz", {"a": variables(0)}
    weights.save(path, 1, groups)
    groups["a"][1].assign(np.full((2, 3), np.nan))
    with pytest.raises(WorkError, match=r"c\.npz was not written: a weight is NaN or infinite"):
        weights.save(path, 2, groups)
    assert weights.restore(path, {"a": variables(1)}) == 1
    network = build_classifier("cnn", 32)
    network.set_weights([np.full_like(values, np.inf) for values in network.get_weights()])
    with pytest.raises(WorkError, match="NaN or infinite"):
        weights.save_model(network, tmp_path / "cnn.keras")
    assert not (tmp_path / "cnn.keras").exists()


def test_a_full_disk_leaves_the_last_good_file(tmp_path, monkeypatch):
    path, groups = tmp_path / "c.npz", {"a": variables(0)}
    weights.save(path, 1, groups)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(WorkError, match="No space left on device"):
        weights.save(path, 2, groups)
    assert weights.restore(path, groups) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["c.npz"]


def test_moving_average():
    slow, fast = [keras.Variable([0.0])], [keras.Variable([1.0])]
    weights.update_ema(slow, fast, 0.9)
    weights.update_ema(slow, fast, 0.9)
    assert float(slow[0][0]) == pytest.approx(0.19)


def test_half_precision_keeps_the_answers_and_halves_the_file(tmp_path):
    keras.utils.set_random_seed(0)
    network = build_classifier("gan_resnet", discriminator=discriminator(8))
    images = np.random.default_rng(0).random((4, 50, 50, 3), np.float32)
    weights.save_model(network, tmp_path / "whole.keras")
    weights.save_float16(network, tmp_path / "half.keras")
    assert (tmp_path / "half.keras").stat().st_size < 0.6 * (tmp_path / "whole.keras").stat().st_size
    assert len(list(tmp_path.iterdir())) == 2
    back = weights.cast_to_float32(weights.load_model(tmp_path / "half.keras"))
    assert {variable.dtype for variable in back.variables} == {"float32"}
    np.testing.assert_allclose(back(images, training=False), network(images, training=False), atol=0.01)
