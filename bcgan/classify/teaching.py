"""Distillation: trained classifiers label patches whose own labels may not be used, and a student learns from both.

The teachers' mean log odds, calibrated on the validation patients, are the labels: a number between 0 and 1, not a call
(Hinton et al. 2015). The official lists leave patients out; their patches show other stains and scanners, and only the
pictures are looked at here.
"""

from pathlib import Path

import numpy as np

from bcgan.classify import calibration
from bcgan.classify.scoring import probabilities
from bcgan.classify.train import Patches
from bcgan.data.views import central
from bcgan.errors import InputError
from bcgan.experiment import Experiment
from bcgan.models import weights
from bcgan.preprocess.store import Store

ROLES = ("unlisted", "unlisted_other")
VIEWS = 4  # orientations of a patch that a teacher sees


def unlisted(experiment: Experiment, store: Store) -> np.ndarray:
    """Return the rows of unlisted patients, who have no other role.

    Raises:
        InputError: every patient is on a list.
    """
    rows = np.flatnonzero(store.index["role"].isin(ROLES))
    if not len(rows):
        raise InputError(
            f"classify.teachers: under data.protocol={experiment.data.protocol} every patient trains, chooses or "
            "tests, and none is left to be labelled by teachers. Set taught=0."
        )
    return rows


def taught(experiment: Experiment, store: Store, folder: Path) -> Patches:
    """Return the patches of unlisted patients, labelled by the trained teachers in `folder`, float32 in [0, 1].

    Raises:
        InputError: every patient is on a list.
    """
    settings, rows = experiment.classify, unlisted(experiment, store)
    chosen = store.rows("validation")
    image_sets = [central(store.images[side], settings.crop_size) for side in (chosen, rows)]
    odds = [0.0, 0.0]
    for name in settings.teachers:
        for seed in settings.seeds:
            network = weights.load_model(folder / f"{name}-seed{seed}.keras")
            for number, images in enumerate(image_sets):
                logits = calibration.log_odds(probabilities(network, images, VIEWS))
                odds[number] += logits / (len(settings.teachers) * len(settings.seeds))
    joint = [calibration.probability(values) for values in odds]
    fitted = calibration.fit(joint[0], store.index["label"].to_numpy()[chosen])
    return Patches(store.images[rows], calibration.apply(fitted, joint[1]).astype(np.float32))
