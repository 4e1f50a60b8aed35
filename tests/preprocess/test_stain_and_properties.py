import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops

from bcgan.data.histology_phantom.canvas import patient_style
from bcgan.data.histology_phantom.tissue import render_patch
from bcgan.preprocess import properties, stain


def patches(seed: int, number: int = 24) -> list:
    rng = np.random.default_rng(seed)
    style = patient_style(rng)
    return [render_patch(style, i % 2, rng) for i in range(number)]


def test_normalised_patients_are_closer_in_colour():
    before = [np.stack([p.image for p in patches(seed)]) for seed in range(4)]
    after = []
    for images in before:
        normal, is_normalized = stain.normalize(images)
        assert is_normalized
        assert normal.dtype == np.uint8
        after.append(normal)

    def spread(groups):
        return np.std([stain.optical_density(group).mean((0, 1, 2)) for group in groups], axis=0).mean()

    assert spread(after) < spread(before)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_patches_are_returned_unchanged(level):
    flat = np.full((3, 50, 50, 3), level, np.uint8)
    same, is_normalized = stain.normalize(flat)
    assert not is_normalized
    np.testing.assert_array_equal(same, flat)


def test_texture_matches_the_co_occurrence_matrix():
    images = np.stack([patch.image for patch in patches(0, 3)])
    contrast, homogeneity = properties.co_occurrence(images)
    for number, image in enumerate(images):
        grey = (image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
        levels = (grey.astype(int) * properties.GREY_LEVELS // 256).astype(np.uint8)
        matrix = graycomatrix(levels, [1], [0, np.pi / 2], properties.GREY_LEVELS)
        assert graycoprops(matrix, "contrast").mean() == pytest.approx(contrast[number], rel=1e-5)
        assert graycoprops(matrix, "homogeneity").mean() == pytest.approx(homogeneity[number], rel=1e-5)


def test_measured_density_follows_the_phantoms_true_density():
    rendered = [patch for seed in range(6) for patch in patches(seed)]
    table = properties.patch_features(np.stack([patch.image for patch in rendered]), 0.15)
    assert np.corrcoef(table["density"], [patch.density for patch in rendered])[0, 1] > 0.6
    assert table[["coverage", "density"]].to_numpy().min() >= 0
    assert table[["coverage", "density"]].to_numpy().max() <= 1


def test_glass_has_neither_tissue_nor_density():
    glass = properties.patch_features(np.full((1, 50, 50, 3), 255, np.uint8), 0.15)
    assert glass["coverage"][0] == glass["density"][0] == 0
