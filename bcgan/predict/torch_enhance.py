"""The filters of `bcgan.preprocess.images.enhance` and the stain normalization of `bcgan.preprocess.stain` in PyTorch.

Gray levels are whole numbers from 0 to 255 in float tensors of shape (n, height, width, 3). Smoothing gives OpenCV's
levels; CLAHE's may differ by a level or two, as OpenCV converts colors back with other tables.
"""

import torch

from bcgan.preprocess import stain

CLIP_LIMIT, TILES = 2.0, 2  # of CLAHE, as in `enhance`
BINS = 256
WHITE = (0.950456, 1.0, 1.088754)  # D65, in X, Y and Z
SHIFT, ROOT_SHIFT, LIGHT = 12, 15, 2040  # of OpenCV's integer arithmetic: bits, bits, units of linear light
TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))


def enhance(levels: torch.Tensor, blur: str, clahe: bool) -> torch.Tensor:
    """Apply the filters of the settings: 3x3 smoothing ("gaussian", "median" or "none"), and CLAHE of the lightness."""
    if blur == "gaussian":
        levels = blur_gaussian(levels)
    elif blur == "median":
        levels = blur_median(levels)
    return equalize(levels) if clahe else levels


def normalize_stains(levels: torch.Tensor) -> torch.Tensor:
    """Normalize the stains of each patch by itself, as `bcgan.preprocess.stain.normalize` does.

    A patch that does not show two stains is returned unchanged.
    """
    pixels = levels.double().flatten(1, 2)
    density = -torch.log((pixels + 1) / stain.LIGHT)  # (n, pixels, 3)
    is_tissue = (density > stain.TISSUE_DENSITY).all(2)
    count = is_tissue.sum(1)
    weights = is_tissue[..., None].double()
    mean = (density * weights).sum(1, keepdim=True) / count.clamp(min=1)[:, None, None]
    centered = (density - mean) * weights
    covariance = centered.transpose(1, 2) @ centered / (count - 1).clamp(min=1)[:, None, None]
    plane = torch.linalg.eigh(covariance).eigenvectors[:, :, 1:].flip(2)  # the two main directions
    plane = plane * torch.where(plane.sum(1, keepdim=True) < 0, -1.0, 1.0)
    projected = density @ plane
    angles = torch.atan2(projected[..., 1], projected[..., 0])
    low, high = (_percentile(angles, is_tissue, share) for share in (0.01, 0.99))
    first, second = ((plane @ torch.stack([angle.cos(), angle.sin()], 1)[..., None])[..., 0] for angle in (low, high))
    is_swapped = (first[:, 0] < second[:, 0])[:, None]  # hematoxylin, which absorbs more red, comes first
    stains = torch.stack([torch.where(is_swapped, second, first), torch.where(is_swapped, first, second)], 1)
    amounts = density @ torch.linalg.pinv(stains)  # (n, pixels, 2)
    strengths = torch.stack([_percentile(amounts[..., index], is_tissue, 0.99) for index in range(2)], 1)
    shows_two = (count >= stain.MIN_TISSUE_PIXELS) & (high - low >= stain.MIN_STAIN_ANGLE)
    shows_two = shows_two & ~(stains < -0.05).any(2).any(1) & (strengths > 0.05).all(1)
    reference, reference_strength = torch.tensor(stain.REFERENCE), torch.tensor(stain.REFERENCE_STRENGTH)
    normalized = stain.LIGHT * torch.exp(-(amounts * (reference_strength / strengths)[:, None]) @ reference) - 1
    normalized = torch.round(normalized).clamp(0, 255).float().view_as(levels)
    return torch.where(shows_two[:, None, None, None], normalized, levels)


def _percentile(values: torch.Tensor, mask: torch.Tensor, share: float) -> torch.Tensor:
    """Return a percentile, as a share of 1, of the masked values of each row, (n,), interpolated as NumPy does."""
    ordered = torch.where(mask, values, torch.full_like(values, torch.inf)).sort(1).values
    position = (mask.sum(1) - 1).clamp(min=0) * share
    below = position.floor().long()
    above = torch.minimum(below + 1, (mask.sum(1) - 1).clamp(min=0))
    lower, upper = (ordered.gather(1, index[:, None])[:, 0] for index in (below, above))
    return torch.nan_to_num(lower + (upper - lower) * (position - below), posinf=0.0)


def blur_gaussian(levels: torch.Tensor) -> torch.Tensor:
    """Smooth with the weights 1, 2, 1 along both axes; edges are mirrored without repeating the outermost pixels."""
    padded = torch.nn.functional.pad(levels.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="reflect")
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    sums = rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
    return torch.floor(sums / 16 + 0.5).permute(0, 2, 3, 1)


def blur_median(levels: torch.Tensor) -> torch.Tensor:
    """Take the median of the 3x3 pixels around each pixel; the outermost pixels are repeated."""
    padded = torch.nn.functional.pad(levels.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    height, width = levels.shape[1], levels.shape[2]
    neighbors = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return torch.stack(neighbors).sort(0).values[4].permute(0, 2, 3, 1)


def equalize(levels: torch.Tensor) -> torch.Tensor:
    """Equalize the histogram of the lightness by tiles, with limited contrast (CLAHE)."""
    lightness, a, b = rgb_to_lab(levels).unbind(-1)
    return lab_to_rgb(torch.stack([equalize_lightness(lightness), a, b], -1))


def equalize_lightness(lightness: torch.Tensor) -> torch.Tensor:
    """Apply OpenCV's CLAHE to one channel of gray levels, (n, height, width)."""
    count, height, width = lightness.shape
    extra = [-side % TILES for side in (height, width)]  # rows and columns that make tiles equal
    padded = torch.nn.functional.pad(lightness[:, None], (0, extra[1], 0, extra[0]), mode="reflect")[:, 0]
    tile_height, tile_width = padded.shape[1] // TILES, padded.shape[2] // TILES
    tiles = padded.unflatten(1, (TILES, tile_height)).unflatten(3, (TILES, tile_width)).transpose(2, 3).flatten(3)
    tables = _clahe_tables(tiles.flatten(0, 2).long(), tile_height * tile_width).unflatten(0, (count, TILES, TILES))
    rows, row_weights = _find_tiles(height, tile_height)
    columns, column_weights = _find_tiles(width, tile_width)
    index, equalized = lightness.long(), torch.zeros_like(lightness)
    for y in range(2):
        for x in range(2):
            by_pixel = tables[:, rows[y]][:, :, columns[x]]  # (n, height, width, BINS)
            values = by_pixel.gather(3, index[..., None])[..., 0]
            equalized = equalized + row_weights[y][:, None] * column_weights[x] * values
    return torch.round(equalized)


def _clahe_tables(tiles: torch.Tensor, area: int) -> torch.Tensor:
    """Return for each tile a table from gray level to equalized level, by its clipped histogram; float, (tiles, BINS).

    Args:
        tiles: Gray levels of the pixels of each tile, int64, (tiles, area).
        area: Pixels of a tile.
    """
    histogram = torch.zeros((tiles.shape[0], BINS)).scatter_add(1, tiles, torch.ones(tiles.shape))
    limit = max(int(CLIP_LIMIT * area / BINS), 1)
    excess = (histogram - limit).clamp(min=0).sum(1, keepdim=True)
    share = torch.floor(excess / BINS)
    remainder = excess - share * BINS
    # Clipped counts are shared equally by all bins. As in OpenCV, every step-th bin gets one of the remaining ones.
    step = torch.floor(BINS / remainder.clamp(min=1)).clamp(min=1)
    bins = torch.arange(BINS)[None]
    gets_one = (bins % step == 0) & (torch.floor(bins / step) < remainder)
    histogram = histogram.clamp(max=limit) + share + gets_one
    return torch.round(histogram.cumsum(1) * ((BINS - 1) / area)).clamp(0, BINS - 1)


def _find_tiles(side: int, tile: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tiles before and after each pixel along an axis, and their weights; (2, side) each."""
    position = (torch.arange(side) / tile) - 0.5
    before = torch.floor(position)
    weight = position - before
    tiles = torch.stack([before.clamp(min=0), (before + 1).clamp(max=TILES - 1)]).long()
    return tiles, torch.stack([1 - weight, weight])


def rgb_to_lab(levels: torch.Tensor) -> torch.Tensor:
    """Convert RGB, (..., 3), to CIELAB as OpenCV does for 8-bit images: L, a and b, float levels from 0 to 255.

    The integer arithmetic is OpenCV's, because CLAHE turns a difference of one level of lightness into several.
    """
    gamma, cube_root = (torch.tensor(table) for table in _lab_tables())
    to_xyz = torch.tensor([[round(2**SHIFT * value / white) for value in row]
                           for row, white in zip(TO_XYZ, WHITE, strict=True)])  # fmt: skip
    linear = gamma[levels.long()]
    xyz = _divide((linear[..., None, :] * to_xyz).sum(-1), SHIFT)
    x, y, z = cube_root[xyz].unbind(-1)
    # L = 116 y - 16, stretched from 0..100 to 0..255; a and b are shifted by 128.
    lightness_shift, color_shift = (16 * 255 * 2**ROOT_SHIFT + 50) // 100, 128 * 2**ROOT_SHIFT
    lab = torch.stack([296 * y - lightness_shift, 500 * (x - y) + color_shift, 200 * (y - z) + color_shift], -1)
    return _divide(lab, ROOT_SHIFT).clamp(0, 255).float()


def _divide(values: torch.Tensor, shift: int) -> torch.Tensor:
    """Divide integers by two to the power of `shift`, rounded."""
    return (values + 2 ** (shift - 1)) >> shift


def _lab_tables() -> tuple[list[int], list[int]]:
    """Return OpenCV's tables: linear light of each level, times 2040; and cube roots of that, times 2^ROOT_SHIFT."""
    values = [level / 255 for level in range(256)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    scaled = [index / LIGHT for index in range(3 * LIGHT // 2)]
    roots = [value ** (1 / 3) if value >= 0.008856 else 7.787 * value + 16 / 116 for value in scaled]
    return [round(LIGHT * value) for value in linear], [round(2**ROOT_SHIFT * root) for root in roots]


def lab_to_rgb(lab: torch.Tensor) -> torch.Tensor:
    """Convert CIELAB in OpenCV's 8-bit levels, (..., 3), to RGB, whole levels from 0 to 255."""
    lightness, a, b = lab.unbind(-1)
    y = (lightness / 2.55 + 16) / 116
    cube_roots = torch.stack([y + (a - 128) / 500, y, y - (b - 128) / 200], -1)
    xyz = torch.where(cube_roots > 0.206893, cube_roots**3, (cube_roots - 16 / 116) / 7.787) * torch.tensor(WHITE)
    linear = (xyz @ torch.linalg.inv(torch.tensor(TO_XYZ)).T).clamp(0, 1)
    srgb = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055)
    return torch.round(srgb * 255).clamp(0, 255)
