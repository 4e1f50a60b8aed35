import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.neighbors import NearestNeighbors

from bcgan.data.views import dihedral_view
from bcgan.gan import distances, scores
from bcgan.gan.watch import GRID_CELLS, compute_layouts

RNG = np.random.default_rng(0)
REAL, RESAMPLED, FAR = RNG.normal(size=(300, 6)), RNG.normal(size=(300, 6)), RNG.normal(2, 1, (300, 6))


def test_kid_of_complete_sets_is_the_unbiased_estimate_of_its_definition():
    x, y = REAL[:40], FAR[:40]
    k = [[(a @ b.T / 6 + 1) ** 3 for b in (x, y)] for a in (x, y)]
    off = ~np.eye(40, dtype=bool)
    expected = k[0][0][off].mean() + k[1][1][off].mean() - 2 * k[0][1].mean()
    np.testing.assert_allclose(scores.kid(x, y, 40, seed=0, subsets=3), expected)


def test_kid_is_about_zero_for_one_distribution_and_large_for_two():
    same, different = scores.kid(REAL, RESAMPLED, 100, 0), scores.kid(REAL, FAR, 100, 0)
    assert abs(same.mean()) < 3 * same.std()
    assert different.mean() > 20 * abs(same.mean())
    with pytest.raises(ValueError, match="size=400"):
        scores.kid(REAL, RESAMPLED, 400, 0)


def test_fid_of_gaussians_and_against_scipys_root():
    assert scores.fid(REAL, REAL) == pytest.approx(0, abs=1e-6)
    assert scores.fid(REAL, REAL + 3) == pytest.approx(6 * 9)
    assert scores.fid(REAL, 2 * REAL) == pytest.approx(np.trace(np.cov(REAL.T)) + (REAL.mean(0) ** 2).sum())
    a, b = np.cov(REAL.T), np.cov(FAR.T)
    expected = ((REAL.mean(0) - FAR.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert scores.fid(REAL, FAR) == pytest.approx(expected)


def test_fid_survives_more_features_than_samples():
    wide = RNG.normal(size=(20, 50))
    assert scores.fid(wide, wide) == pytest.approx(0, abs=1e-9)


def test_precision_and_coverage_of_similar_collapsed_and_distant_samples():
    same = scores.prdc(REAL, RESAMPLED)
    assert min(same["precision"], same["recall"], same["coverage"]) > 0.8
    assert same["density"] == pytest.approx(1, abs=0.2)
    collapsed = scores.prdc(REAL, np.repeat(REAL[:1], 300, 0) + 1e-6)
    assert collapsed["precision"] == 1
    assert collapsed["coverage"] < 0.1
    assert scores.prdc(REAL, REAL + 50)["coverage"] == 0


def test_copies_are_counted_as_memorised():
    assert scores.memorization_rate(REAL, REAL[:100] + 1e-9) == 1
    assert scores.memorization_rate(REAL, RESAMPLED) < 0.05
    half = np.concatenate([REAL[:50], RESAMPLED[:50]])
    assert scores.memorization_rate(REAL, half) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_precision_recall_density_and_coverage_are_those_of_their_papers(neighbours):
    """Counted ball by ball (Kynkaanniemi et al. 2019; Naeem et al. 2020), for sets that overlap in part."""
    real, fake = REAL[:60], np.concatenate([RESAMPLED[:20] + 0.5, FAR[:20]])

    def balls(samples):
        """The radius of each sample, its distance to its k-th neighbour; the nearest is the sample itself."""
        return NearestNeighbors(n_neighbors=neighbours + 1).fit(samples).kneighbors(samples)[0][:, neighbours]

    def in_balls(points, centres):
        """Whether each point lies in the ball of each centre."""
        return np.array(
            [[np.linalg.norm(point - centre) <= radius for centre, radius in zip(centres, balls(centres), strict=True)]
             for point in points]
        )  # fmt: skip

    in_real, in_fake = in_balls(fake, real), in_balls(real, fake)
    expected = {
        "precision": np.mean([row.any() for row in in_real]),
        "recall": np.mean([row.any() for row in in_fake]),
        "density": sum(row.sum() for row in in_real) / (neighbours * len(fake)),
        "coverage": np.mean([column.any() for column in in_real.T]),
    }
    computed = scores.prdc(real, fake, neighbours)
    assert computed == pytest.approx(expected)
    assert all(0 < value < 1 for value in computed.values())


def test_the_memorisation_rate_is_that_computed_by_hand():
    """Training samples on a line: the distances to their nearest are 1, 1, 2, 4 and 8, with a median of 2."""
    line = np.array([0.0, 1, 3, 7, 15])[:, None]
    fake = np.array([15.5, 9.0, 9.1, 17.1, 30.0, -1.0])[:, None]  # 0.5, 2, 2.1, 2.1, 15 and 1 away
    assert scores.memorization_rate(line, fake, quantile=0.5) == pytest.approx(3 / 6)
    assert scores.memorization_rate(line, fake, quantile=1.0) == pytest.approx(5 / 6)
    assert scores.memorization_rate(line, fake, quantile=0.0) == pytest.approx(2 / 6)


def test_the_repetition_rate_is_that_computed_by_hand():
    """Two classes, each on a line: distances to the nearest real sample are 1, 1, 2, 4 and 8, with a median of 2."""
    line = np.array([0.0, 1, 3, 7, 15])[:, None]
    real = np.concatenate([line, line + 100])
    first, second = np.array([0.0, 2.0, 4.1, 50.0, 60.0])[:, None], np.array([0.0, 0.5, 1.0, 1.5, 9.0])[:, None]
    fake = np.concatenate([first, second])  # first: 2, 2, 2.1, 10 and 10 away; four of second are close together
    assert scores.repetition_rate(real, fake, 2, quantile=0.5) == pytest.approx((2 / 5 + 4 / 5) / 2)
    assert scores.repetition_rate(real, real, 2, quantile=0.5) == pytest.approx(3 / 5)
    # Repetition is counted within a class: the same patch in both classes is none.
    shared = np.concatenate([first, first])
    assert scores.repetition_rate(real, shared, 2, quantile=0.5) == pytest.approx(2 / 5)


def test_a_generator_that_repeats_itself_is_found_and_one_that_does_not_is_not():
    rng = np.random.default_rng(0)
    real, fresh = rng.normal(size=(2, 400, 8))
    repeated = np.concatenate([fresh[:180], fresh[:20] + 1e-3, fresh[200:]])
    rates = [scores.repetition_rate(real, rows, 2) for rows in (fresh, repeated)]
    assert rates[0] < 0.03
    assert rates[1] == pytest.approx(0.1, abs=0.03)  # 40 patches of the first 200, and none after them


def test_copies_in_any_orientation_are_counted():
    """A generator is trained on turned and mirrored patches: what it copies may be turned."""
    rng = np.random.default_rng(0)
    real, others = rng.integers(0, 256, (2, 240, 32, 32, 3), dtype=np.uint8)
    turned = np.concatenate([dihedral_view(real[view * 20 : view * 20 + 20], view) for view in range(8)])
    side, training = distances.PIXEL_SIDE, distances.reduce_pixels(real)
    assert scores.memorization_rate(training, distances.reduce_pixels(turned), side=side) == 1
    assert scores.memorization_rate(training, distances.reduce_pixels(others), side=side) < 0.05
    twice = np.concatenate([others[:80], turned[:40], dihedral_view(turned[:40], 5)])  # of each class 80 patches
    layouts = [compute_layouts(images) for images in (real[:160], others[:160], twice)]
    rates = [scores.repetition_rate(layouts[0], rows, 2, side=GRID_CELLS) for rows in layouts[1:]]
    assert rates[0] < 0.1
    assert rates[1] == pytest.approx(0.5, abs=0.05)


# From torch-fidelity 0.4.0 on the features of the test below. If installed, it would hide the package `tests`.
TORCH_FIDELITY = {
    6: {"kid": 0.43930534362116314, "fid": 0.8503124352367291, "precision": 0.8075, "recall": 0.9925},
    200: {"kid": 0.13895416412413342, "fid": 93.66314848401771, "precision": 0.0, "recall": 1.0},
}


@pytest.mark.parametrize("dimensions", TORCH_FIDELITY)
def test_scores_are_those_of_torch_fidelity(dimensions):
    """KID of complete sets, FID, and precision and recall of five neighbors agree up to rounding."""
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(400, dimensions)), rng.normal(0.2, 1.3, (400, dimensions))
    expected, quality = TORCH_FIDELITY[dimensions], scores.prdc(real, fake)
    assert scores.kid(real, fake, 400, 0, 1)[0] == pytest.approx(expected["kid"], rel=1e-6)
    assert scores.fid(real, fake) == pytest.approx(expected["fid"], rel=1e-6)
    for name in ("precision", "recall"):
        assert quality[name] == pytest.approx(expected[name], abs=1e-6)
