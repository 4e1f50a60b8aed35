"""Whether a GAN in training has failed: what nobody notices in a falling loss."""

from collections.abc import Sequence

import numpy as np

WINDOW = 20  # logged steps that have to agree before anything is said
LEAST_SPREAD = 0.3  # of the real patches'
RECOGNISED = 0.99


def trouble(lines: Sequence[dict[str, float]]) -> str | None:
    """One sentence on what went wrong, from the last logged steps; None where nothing did.

    Args:
        lines: dicts with `spread` (variation between synthetic patches of a class as a share of that between real
            ones), `real_recognised` and `fake_recognised` (shares that the discriminator tells), oldest first.
    """
    if len(lines) < WINDOW:
        return None
    recent = {key: np.median([line[key] for line in list(lines)[-WINDOW:]]) for key in lines[-1]}
    if recent["spread"] < LEAST_SPREAD:
        return (
            f"the synthetic patches of a class differ {recent['spread']:.0%} as much as real ones do (collapse); "
            "lower gan.discriminator_rate, or set gan.augment=true"
        )
    if min(recent["real_recognised"], recent["fake_recognised"]) > RECOGNISED:
        return (
            "the discriminator recognises nearly every patch and teaches the generator nothing; lower "
            "gan.discriminator_rate, or set gan.spectral=true and gan.augment=true"
        )
    return None
