"""Distillation: trained classifiers label the patches of unlisted patients, and a student is trained on them too.

The soft labels, in [0, 1], are the teachers' mean log odds, calibrated on the validation patients (Hinton et al. 2015).
Patches of unlisted patients show other stains and scanners. Their own labels are not used.
"""

from pathlib import Path

import numpy as np

from bcgan.classify import calibration
from bcgan.classify.scoring import predict_probabilities
from bcgan.classify.train import Patches
from bcgan.data.views import center_crop
from bcgan.errors import InputError
from bcgan.experiment import Experiment
from bcgan.models import weights
from bcgan.preprocess.store import Store

ROLES = ("unlisted", "unlisted_other")
TTA_VIEWS = 4  # orientations of a patch that a teacher's prediction is averaged over


def unlisted_rows(experiment: Experiment, store: Store) -> np.ndarray:
    """Return the indices of the patches of unlisted patients.

    Raises:
        InputError: If every patient is on a list.
    """
    rows = np.flatnonzero(store.index["role"].isin(ROLES))
    if not len(rows):
        raise InputError(
            f"classify.teachers: with data.protocol={experiment.data.protocol} every patient is in the training, "
            "validation or test set, and no patches are left for the teachers to label. Set distillation_fraction=0."
        )
    return rows


def distilled_patches(experiment: Experiment, store: Store, folder: Path) -> Patches:
    """Return the patches of unlisted patients, with soft labels (float32 in [0, 1]) of the teachers in `folder`.

    Raises:
        InputError: If every patient is on a list.
    """
    settings, unlisted = experiment.classify, unlisted_rows(experiment, store)
    validation = store.role_indices("validation")
    image_sets = [center_crop(store.images.select(rows), settings.crop_size) for rows in (validation, unlisted)]
    mean_odds = [0.0, 0.0]
    for name in settings.teachers:
        for seed in settings.seeds:
            network = weights.load_model(folder / f"{name}-seed{seed}.keras")
            for index, images in enumerate(image_sets):
                odds = calibration.to_logits(predict_probabilities(network, images, TTA_VIEWS))
                mean_odds[index] += odds / (len(settings.teachers) * len(settings.seeds))
    validation_probabilities, unlisted_probabilities = map(calibration.to_probabilities, mean_odds)
    fitted = calibration.fit(validation_probabilities, store.index["label"].to_numpy()[validation])
    return Patches(store.images.select(unlisted), calibration.apply(fitted, unlisted_probabilities).astype(np.float32))
