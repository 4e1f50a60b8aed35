"""The histology phantom: properties of its patches and of their ground truth."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from bcgan.data.histology_phantom.canvas import PatientStyle, patient_style
from bcgan.data.histology_phantom.histology_phantom_dataset_builder import Builder, PhantomConfig
from bcgan.data.histology_phantom.tissue import ARCHITECTURES, Patch, render_patch

LAYOUTS = [(label, name) for label in (0, 1) for name in ARCHITECTURES[label]]


def render(label: int, seed: int, size: int = 50) -> tuple[PatientStyle, Patch]:
    rng = np.random.default_rng(seed)
    style = patient_style(rng)
    return style, render_patch(style, label, rng, size)


@pytest.fixture(scope="module")
def cohort() -> dict[int, list[tuple[PatientStyle, Patch]]]:
    """120 patches of each label, each of its own patient."""
    return {label: [render(label, 1000 * label + seed) for seed in range(120)] for label in (0, 1)}


def haematoxylin(style: PatientStyle, image: np.ndarray) -> np.ndarray:
    """Haematoxylin density (size, size), unmixed with the patient's own stains and white point."""
    od = -np.log10(np.maximum(image, 1) / style.white_point) / style.gamma
    third = np.cross(style.haematoxylin, style.eosin)
    return (od @ np.linalg.inv(np.stack([style.haematoxylin, style.eosin, third])))[..., 0]


def disc(patch: Patch, shrink: float) -> np.ndarray:
    """Pixels within ``shrink`` radii of a listed nucleus, bool (size, size)."""
    y, x = np.mgrid[: len(patch.image), : len(patch.image)]
    covered = np.zeros(x.shape, bool)
    for cx, cy, radius, _ in patch.nuclei:
        covered |= np.hypot(x - cx, y - cy) <= shrink * radius
    return covered


def test_style_is_deterministic_and_differs_between_patients():
    first, again, different = (patient_style(np.random.default_rng(seed)) for seed in (3, 3, 4))
    for name in PatientStyle.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(different, name))
    for vector in (first.haematoxylin, first.eosin):
        assert vector.dtype == np.float32 and vector.shape == (3,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("label", [0, 1])
def test_patch_is_deterministic(label):
    (_, first), (_, again), (_, different) = (render(label, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.nuclei, again.nuclei)
    for name in ("density", "tissue", "architecture"):
        assert getattr(first, name) == getattr(again, name)
    assert not np.array_equal(first.image, different.image)


@pytest.mark.parametrize("size", [32, 50, 96])
@pytest.mark.parametrize("label", [0, 1])
def test_patch_shapes_and_types(label, size):
    _, patch = render(label, 11, size)
    assert patch.image.shape == (size, size, 3) and patch.image.dtype == np.uint8
    assert patch.nuclei.ndim == 2 and patch.nuclei.shape[1] == 4 and patch.nuclei.dtype == np.float32
    assert 0 <= patch.density <= 1 and 0 <= patch.tissue <= 1
    assert patch.architecture in ARCHITECTURES[label]


@pytest.mark.parametrize("label", [-1, 3, "benign"])
def test_unknown_label_is_refused(label):
    with pytest.raises(ValueError, match="label must be 0, 1 or 2"):
        render(label, 0)


@pytest.mark.parametrize(("label", "name"), LAYOUTS)
def test_each_architecture_is_drawn_with_truth_in_range(cohort, label, name):
    patches = [patch for _, patch in cohort[label] if patch.architecture == name]
    assert patches
    for patch in patches:
        xy, radius, malignant = patch.nuclei[:, :2], patch.nuclei[:, 2], patch.nuclei[:, 3]
        assert (xy >= -0.5).all() and (xy < 49.5).all()
        assert (radius > 0.5).all() and (radius < 9).all()
        assert set(malignant) <= {0, 1} and malignant.any() == bool(label)


@pytest.mark.parametrize("label", [0, 1])
def test_listed_nuclei_hold_more_haematoxylin_than_the_rest(cohort, label):
    contrast = []
    for style, patch in cohort[label]:
        density, inside, outside = haematoxylin(style, patch.image), disc(patch, 0.7), ~disc(patch, 1.5)
        if inside.sum() > 5 and outside.sum() > 50:
            contrast.append(density[inside].mean() - density[outside].mean())
    assert len(contrast) > 60
    assert np.min(contrast) > 0.05 and np.mean(contrast) > 0.3


def test_density_and_tissue_follow_the_image(cohort):
    for label in (0, 1):
        patches = [patch for _, patch in cohort[label]]
        discs = [disc(patch, 1.0).mean() for patch in patches]
        assert np.corrcoef(discs, [patch.density for patch in patches])[0, 1] > 0.95
    fat = [patch.tissue for _, patch in cohort[0] if patch.architecture == "fat"]
    stroma = [patch.tissue for _, patch in cohort[0] if patch.architecture == "stroma"]
    assert np.mean(fat) < 0.75 < np.mean(stroma)


def test_label_changes_nuclear_size_and_spread_but_not_mean_colour(cohort):
    nuclei = {label: np.concatenate([patch.nuclei for _, patch in cohort[label]]) for label in (0, 1)}
    tumour = nuclei[1][nuclei[1][:, 3] == 1]
    assert tumour[:, 2].mean() > 1.25 * nuclei[0][:, 2].mean()
    assert tumour[:, 2].std() > 1.2 * nuclei[0][:, 2].std()
    colour = {label: np.array([patch.image.mean((0, 1)) for _, patch in cohort[label]]) for label in (0, 1)}
    spread = colour[0].std(axis=0)
    assert (np.abs(colour[0].mean(axis=0) - colour[1].mean(axis=0)) < 0.5 * spread).all()


@pytest.mark.parametrize(("label", "name"), LAYOUTS)
def test_each_architecture_survives_many_patients(monkeypatch, label, name):
    monkeypatch.setitem(ARCHITECTURES, label, {name: ARCHITECTURES[label][name]})
    for seed in range(60):
        _, patch = render(label, seed, size=36)
        assert patch.architecture == name and np.isfinite(patch.nuclei).all()


@pytest.mark.parametrize(("size", "mpp"), [(100, 2.0), (200, 1.0), (25, 8.0)])
def test_another_scale_shows_the_same_tissue(size, mpp):
    """The same number of microns from the same generator state. A nucleus on the edge of a region may be drawn at one
    scale only; everything drawn after it then differs."""
    correlations, same_nuclei = [], []
    for seed in range(24):
        rendered = []
        for side, scale in ((50, 4.0), (size, mpp)):
            rng = np.random.default_rng(seed)
            rendered.append(render_patch(patient_style(rng), seed % 2, rng, side, scale))
        coarse, rescaled = rendered
        assert rescaled.image.shape == (size, size, 3)
        assert rescaled.architecture == coarse.architecture
        resized = cv2.resize(rescaled.image, (50, 50), interpolation=cv2.INTER_AREA)
        correlations.append(np.corrcoef(resized.ravel(), coarse.image.ravel())[0, 1])
        microns = [
            np.column_stack([(patch.nuclei[:, :2] + 0.5) * scale, patch.nuclei[:, 2] * scale])
            for patch, scale in ((coarse, 4.0), (rescaled, mpp))
        ]
        count = min(map(len, microns))
        same_nuclei.append(np.isclose(microns[0][:count], microns[1][:count], rtol=1e-4, atol=0.01).all(1).mean())
    assert np.median(correlations) > 0.95
    assert np.median(same_nuclei) == 1


@pytest.mark.parametrize("in_situ", [False, True])
def test_the_data_set_has_the_same_classes_and_tissue_at_every_scale(in_situ):
    """Patch by patch, though a patch at another scale may need more random numbers than at the default one."""
    examples = []
    for size, mpp in ((50, 4.0), (100, 2.0)):
        config = PhantomConfig(name="few", patients=3, patches=8, size=size, mpp=mpp, in_situ=in_situ)
        examples.append(dict(Builder._generate_examples(SimpleNamespace(builder_config=config))))
    coarse, fine = examples
    assert coarse.keys() == fine.keys() and len(coarse) == 24
    correlations = []
    for key, patch in coarse.items():
        rescaled = fine[key]
        assert (rescaled["label"], rescaled["patient"], rescaled["architecture"]) == (
            patch["label"], patch["patient"], patch["architecture"]
        )  # fmt: skip
        assert (rescaled["x"], rescaled["y"]) == (2 * patch["x"], 2 * patch["y"])
        resized = cv2.resize(rescaled["image"], (50, 50), interpolation=cv2.INTER_AREA)
        correlations.append(np.corrcoef(resized.ravel(), patch["image"].ravel())[0, 1])
    assert len({patch["label"] for patch in coarse.values()}) == 2 + in_situ
    assert np.median(correlations) > 0.95
