"""The rule by which the GAN's networks follow the side of a patch.

The discriminator halves a map's side, rounding up, until it is at most 6 pixels; the generator goes the same way back.
Channels are counted from the smallest map, which has 8 times the width; every larger map has half as many, but not
fewer than 16 or the width itself. At 50 pixels these are the maps 25, 13, 7 and 4 with 1, 2, 4 and 8 times the width.
"""

MIN_SIZE, MAX_SIZE = 32, 256
MIN_TISSUE_FRACTION = 0.2  # of a patch's pixels that have to be tissue for it to be predicted
MAX_SMALLEST_MAP = 6
MIN_CHANNELS = 16


def map_sizes(size: int) -> tuple[int, ...]:
    """Return the sides of the discriminator's maps, from the largest, at half of `size`, to the smallest.

    Raises:
        ValueError: If the side of the patch is not from MIN_SIZE to MAX_SIZE pixels.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size must be from {MIN_SIZE} to {MAX_SIZE} pixels. Received: size={size}")
    sizes = [-(-size // 2)]
    while sizes[-1] > MAX_SMALLEST_MAP:
        sizes.append(-(-sizes[-1] // 2))
    return tuple(sizes)


def map_channels(size: int, width: int) -> tuple[int, ...]:
    """Return the channels of the maps that `map_sizes` lists."""
    depth = len(map_sizes(size))
    return tuple(max(8 * width // 2 ** (depth - index), min(width, MIN_CHANNELS)) for index in range(1, depth + 1))
