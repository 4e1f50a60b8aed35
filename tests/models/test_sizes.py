"""The GAN's networks at every size of a patch: the rule for their maps, which gives the paper's at 50 pixels."""

import numpy as np
import pytest

from bcgan.models.discriminator import discriminator, list_blocks
from bcgan.models.gan_resnet import gan_only, gan_resnet, joined_block
from bcgan.models.generator import generator
from bcgan.models.translator import translator
from bcgan.sizes import MAX_SIZE, MIN_SIZE, map_channels, map_sizes

SIZES = (32, 47, 50, 96, 128, 225)


def test_at_50_pixels_the_rule_gives_the_papers_networks():
    assert map_sizes(50) == (25, 13, 7, 4)
    assert map_channels(50, 32) == (32, 64, 128, 256)
    assert [(network().count_params()) for network in (generator, discriminator, translator)] == [
        1_345_827, 698_513, 583_682,
    ]  # fmt: skip
    assert gan_resnet(discriminator()).count_params() == 354_179
    assert joined_block(discriminator()) == "block2"


@pytest.mark.parametrize("size", range(MIN_SIZE, MAX_SIZE + 1))
def test_maps_are_halved_to_4_to_6_pixels_and_channels_doubled(size):
    map_sides, channels = map_sizes(size), map_channels(size, 32)
    assert 4 <= map_sides[-1] <= 6
    for larger, smaller in zip((size, *map_sides), map_sides, strict=False):
        assert smaller == (larger + 1) // 2
    assert channels[-1] == 256
    assert min(channels) >= 16
    for larger, smaller in zip(channels[1:], channels, strict=False):
        assert larger in (smaller, 2 * smaller)


@pytest.mark.parametrize("size", [MIN_SIZE - 1, MAX_SIZE + 1, 0])
def test_a_size_without_a_rule_is_refused(size):
    with pytest.raises(ValueError, match=f"size must be from 32 to 256 pixels. Received: size={size}"):
        map_sizes(size)


@pytest.mark.parametrize("size", SIZES)
def test_networks_take_and_make_patches_of_that_size(size):
    rng, labels = np.random.default_rng(size), np.array([0, 1], np.int32)
    make, gan_discriminator = generator(latent=8, width=4, size=size), discriminator(width=4, size=size)
    noise = rng.standard_normal((2, 8), np.float32), labels, rng.standard_normal((2, size, size, 1), np.float32)
    images = np.asarray(make(noise))
    assert images.shape == (2, size, size, 3)
    assert gan_discriminator([images, labels]).shape == (2, 1)
    assert [gan_discriminator.get_layer(block).output.shape[1] for block in list_blocks(gan_discriminator)] == list(
        map_sizes(size)
    )
    np.testing.assert_allclose(translator(4, size=size)(images), images, atol=1 / 255)  # untrained: unchanged
    assert gan_resnet(gan_discriminator, size)(images).shape == (2, 1000)
    assert gan_only(gan_discriminator, size)(images).shape == (2, sum(map_channels(size, 4)))


@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_of_the_noise_reaches_a_pixel_of_its_own(size):
    """Pixel noise is added to maps of every size but the first; no row or column of it is left out or shifted."""
    make = generator(latent=8, width=4, size=size)
    rng = np.random.default_rng(0)
    noise, label = rng.standard_normal((1, 8), np.float32), np.array([0], np.int32)
    silent = np.zeros((1, size, size, 1), np.float32)
    for row, column in ((0, 0), (size - 1, size - 1), (size // 2, size // 3)):
        loud = silent.copy()
        loud[0, row, column] = 100
        changed = np.abs(make([noise, label, loud]) - make([noise, label, silent]))[0].max(-1)
        assert changed[row, column] > 0


@pytest.mark.parametrize("size", SIZES)
def test_the_joined_map_has_the_size_of_the_stems(size):
    gan_discriminator = discriminator(width=4, size=size)
    network = gan_resnet(gan_discriminator, size)
    stem = network.get_layer("stem_pool").output.shape[1]
    assert gan_discriminator.get_layer(joined_block(gan_discriminator)).output.shape[1] == stem
    assert not any(layer.name.startswith("features_resized") for layer in network.layers)
