"""Stain normalization after Macenko et al. (2009), fitted to all patches of a patient together."""

import numpy as np

# Hematoxylin and eosin directions in optical density (rows) and their 99th percentiles, from Macenko's paper.
REFERENCE = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
REFERENCE_STRENGTH = np.array([1.9705, 1.0308])
LIGHT = 240.0  # gray level of empty glass
TISSUE_DENSITY = 0.15  # optical density below which a pixel is glass
MIN_TISSUE_PIXELS = 200  # below which two stain directions cannot be estimated
MIN_STAIN_ANGLE = np.deg2rad(5)  # between the two directions, below which there is only one stain
MAX_FIT_PIXELS = 200_000


def optical_density(images: np.ndarray) -> np.ndarray:
    """Return the optical density of uint8 pixels, float32, natural logarithm: -ln((I + 1) / 240)."""
    return -np.log((images.astype(np.float32) + 1) / LIGHT)


def fit_stains(images: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Estimate the stain directions (2, 3) and strengths (2,) of patches; `None` if they do not show two stains.

    Args:
        images: uint8, (n, height, width, 3).
    """
    density = optical_density(images).reshape(-1, 3)
    density = density[:: max(1, len(density) // MAX_FIT_PIXELS)]
    density = density[(density > TISSUE_DENSITY).all(1)]
    if len(density) < MIN_TISSUE_PIXELS:
        return None
    # The plane of the two main directions of the densities, turned so that densities lie on its positive side.
    plane = np.linalg.eigh(np.cov(density.T))[1][:, [2, 1]]
    plane *= np.where(plane.sum(0) < 0, -1, 1)
    # Mixtures lie between the pure stains, which are the extreme angles in that plane.
    angles = np.arctan2(*(density @ plane).T[::-1])
    low, high = np.percentile(angles, (1, 99))
    if high - low < MIN_STAIN_ANGLE:
        return None
    stains = np.stack([plane @ (np.cos(angle), np.sin(angle)) for angle in (low, high)])
    if stains[0, 0] < stains[1, 0]:  # haematoxylin absorbs more red than eosin
        stains = stains[::-1]
    if (stains < -0.05).any():
        return None
    strengths = np.percentile(_concentrations(density, stains), 99, axis=0)
    return (stains, strengths) if (strengths > 0.05).all() else None


def normalize(images: np.ndarray) -> tuple[np.ndarray, bool]:
    """Normalize the patches of one patient to the reference stains.

    Returns:
        The patches, uint8 (n, height, width, 3), and whether they were normalized: patches that do not show two stains
        are returned unchanged.
    """
    fitted = fit_stains(images)
    if fitted is None:
        return images, False
    stains, strengths = fitted
    amounts = _concentrations(optical_density(images).reshape(-1, 3), stains) * (REFERENCE_STRENGTH / strengths)
    levels = LIGHT * np.exp(-amounts @ REFERENCE) - 1
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8).reshape(images.shape), True


def _concentrations(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Return the amount of each of two stains, (pixels, 2), from optical densities, (pixels, 3), by least squares."""
    return density @ np.linalg.pinv(stains)
