"""In which settings a classifier differs from the one that it is compared with, apart from what it adds."""

from typing import Any

from bcgan.classifiers import CLASSIFIERS
from bcgan.report.run import Run
from bcgan.report.wording import count_text

EXTRA_SETTINGS = ("extra_features", "finetune_extra_features")  # of maps that join; nothing in networks without them
SYNTHETIC_SETTINGS = ("synthetic_fraction", "filter_synthetic")


def list_other_settings(run: Run, name: str, reference: str) -> list[str]:
    """Return the settings of training in which a classifier differs from its reference, such as `epochs 2 for 3`.

    Settings of what it adds are left out: of maps that join a reference without them, and of the synthetic patches of
    GAN+ResNet, which its description names. Empty if one of the two is an ensemble, which has no settings of its own.
    """
    models = run.experiment.classify.models
    if name not in models or reference not in models:
        return []
    settings, reference_settings = models[name], models[reference]
    left_out: set[str] = set()
    if "extra_features" not in CLASSIFIERS[reference].own_settings:
        left_out.update(EXTRA_SETTINGS)
    if not reference_settings.uses_synthetic and (name == "gan_resnet" or not settings.uses_synthetic):
        left_out.update(SYNTHETIC_SETTINGS if settings.uses_synthetic else ("filter_synthetic",))
    values, reference_values = settings.training_settings(), reference_settings.training_settings()
    texts = [
        difference_text(key, values[key], reference_values[key])
        for key in values
        if key not in left_out and values[key] != reference_values[key]
    ]
    seeds, reference_seeds = (run.experiment.classify.seeds_of(model) for model in (name, reference))
    if len(seeds) != len(reference_seeds):
        texts.append(f"{count_text(len(seeds), 'seed')} for {len(reference_seeds)}")
    elif set(seeds) != set(reference_seeds):
        texts.append("other seeds")
    return texts


def difference_text(key: str, value: Any, reference_value: Any) -> str:
    """Return a setting's value and that of the reference, such as `epochs 2 for 3` or, of a switch, `multi_depth`."""
    if isinstance(value, bool):
        return key if value else f"no {key}"
    return f"{key} {value} for {reference_value}"
