"""Distances between patches in all orientations."""

import numpy as np
from scipy.spatial.distance import cdist

from bcgan.data.views import dihedral_view
from bcgan.gan import distances


def test_nearest_neighbors_are_those_of_all_distances(monkeypatch):
    monkeypatch.setattr(distances, "CHUNK_ROWS", 7)
    rng = np.random.default_rng(0)
    queries, references = (rng.normal(size=(count, 5)).astype(np.float32) for count in (30, 20))
    neighbors, expected = distances.nearest(queries, references), cdist(queries, references)
    np.testing.assert_allclose(neighbors.distances, expected.min(1), rtol=1e-5)
    np.testing.assert_array_equal(neighbors.indices, expected.argmin(1))
    np.testing.assert_allclose(distances.all_distances(queries, references), expected, rtol=1e-4)
    again = distances.nearest(queries, distances.prepare(references))
    np.testing.assert_array_equal(again.distances, neighbors.distances)


def test_a_turned_or_mirrored_image_is_at_distance_0():
    rng = np.random.default_rng(0)
    images = rng.random((4, 6, 6, 3)).astype(np.float32)
    views = np.stack([np.rot90(images[0], 1), images[1][:, ::-1], np.rot90(images[2], 3)[::-1], images[3] * 0.5])
    neighbors = distances.nearest(views.reshape(4, -1), images.reshape(4, -1), side=6)
    np.testing.assert_allclose(neighbors.distances[:3], 0, atol=1e-3)
    assert neighbors.indices[:3].tolist() == [0, 1, 2]
    assert neighbors.distances[3] > 0.5
    as_rows = distances.nearest(views.reshape(4, -1), images.reshape(4, -1))
    assert (as_rows.distances > 0.5).all()


def test_an_exact_copy_is_at_distance_0_far_from_the_origin():
    rows = 1000 + np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    assert distances.nearest(rows, rows).distances.max() < 0.01


def test_a_row_is_no_neighbor_of_itself(monkeypatch):
    monkeypatch.setattr(distances, "CHUNK_ROWS", 7)
    rows = np.random.default_rng(0).normal(size=(30, 6 * 6 * 3)).astype(np.float32)
    chosen = np.arange(0, 30, 3)
    views = np.stack([dihedral_view(rows.reshape(-1, 6, 6, 3), view).reshape(30, -1) for view in range(8)])
    expected = np.min([cdist(view, rows) for view in views], 0)
    np.fill_diagonal(expected, np.inf)
    neighbors = distances.nearest(rows[chosen], rows, side=6, own_rows=chosen)
    np.testing.assert_allclose(neighbors.distances, expected[chosen].min(1), rtol=1e-4)
    np.testing.assert_array_equal(neighbors.indices, expected[chosen].argmin(1))


def test_features_are_means_over_all_orientations():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    extract = distances.average_orientations(lambda patches: patches[:, :2, :3].reshape(len(patches), -1).astype(float))
    for view in range(8):
        np.testing.assert_allclose(extract(dihedral_view(images, view)), extract(images))
