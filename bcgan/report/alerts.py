"""The report's warnings and limitations, as sentences that follow from the run's own numbers."""

import numpy as np

from bcgan.report.finding import all_cautions
from bcgan.report.gan_tables import unused_filter_text
from bcgan.report.run import Run
from bcgan.report.stage_tables import learning_curve_fallback_text
from bcgan.report.style import CLASSIFIER_NAMES, format_signed
from bcgan.report.wording import join_words

LAYOUT_CORRELATION_ALERT = 0.2  # by how much more the layouts of synthetic patches correlate; a reader sees that
# Gain of the validation ROC AUC in the last third of the epochs from which on a training was stopped too early. Less is
# within the noise of an epoch.
UNFINISHED_GAIN = 0.002
MIN_FLIP_RATE = 0.05  # of translations called the other class; with fewer, translation had no effect


def list_alerts(run: Run) -> list[str]:
    """Return the limitations and warnings that follow from the run's own numbers, as sentences.

    The cautions of `finding.all_cautions` come first, the largest of them on top.
    """
    num_padded = run.audit["faults"]["wrong_size"]["count"]
    num_excluded = run.audit["patches"] - run.audit["kept"]
    unlabelled = ", ".join(CLASSIFIER_NAMES[name] for name in run.trained_on_unlisted())
    # Whether a sentence applies (true, not empty or not 0), and the sentence.
    alert_texts = [
        (run.subset_note(), run.subset_note()),
        (num_excluded, f"{num_excluded:,} patches were excluded by the audit."),
        (num_padded, f"{num_padded:,} patches are narrower than the rest and were padded with white."),
        (True, f"Short trainings: GAN {run.experiment.gan.steps:,} steps; classifiers {_epochs_text(run)}."),
        (_unfinished_text(run), _unfinished_text(run)),
        (True, _kid_text(run)),
        (unused_filter_text(run), unused_filter_text(run)),
        (learning_curve_fallback_text(run), learning_curve_fallback_text(run)),
        (_mode_collapse_text(run), _mode_collapse_text(run)),
        (_weak_translation_text(run), _weak_translation_text(run)),
        (unlabelled, f"Unlisted patients: {unlabelled} were trained on their images, not their labels."),
        (not run.patient_images, "No images of patients' tissue: synthetic patches are shown instead."),
    ]  # fmt: skip
    return all_cautions(run) + [text for applies, text in alert_texts if applies]


def list_limitations(run: Run) -> list[str]:
    """Return sentences on what the report does not show."""
    sentences = [
        "No diagnosis: a patch is classified without its slide, and there is no comparison with pathologists.",
        run.subset_note(),
        "" if run.is_phantom else "Labels are used as they are; their errors affect every result.",
        "Calibration was fitted on validation patients and may not hold for others.",
    ]
    return [text for text in sentences if text]


def _kid_text(run: Run) -> str:
    """Return sentences: whether synthetic patches are farther from training patches, by KID, than other patients' are.

    Other patients are the validation patients.
    """
    networks = {"kid": "a network trained on such patches", "kid_efficientnet_lite2": "EfficientNet-Lite2 on ImageNet"}
    sentences = []
    for name, network in networks.items():
        kid = run.gan_scores[name]
        if kid["value"] is not None:
            distance = "farther" if kid["value"] > kid["floor"] else "no farther"
            sentences.append(
                f"By features of {network}, synthetic patches are on average {distance} from training patches than "
                f"other patients' patches are (KID {kid['value']:.3f}, other patients' {kid['floor']:.3f})."
            )
    if not sentences:
        return "The synthetic patches were not scored."
    return " ".join([*sentences, "An expert or a classifier may still tell them from real ones."])


def _mode_collapse_text(run: Run) -> str:
    """Return a warning if synthetic patches of a class are dark and bright at the same positions; empty otherwise."""
    correlations = run.layout_correlations()
    if max(np.subtract(correlations["synthetic"], correlations["real"])) < LAYOUT_CORRELATION_ALERT:
        return ""
    synthetic, real = (
        join_words([f"{value:.2f} ({text})" for value, text in zip(values, run.class_texts, strict=True)])
        for values in correlations.values()
    )
    return (
        f"The generator has few layouts: brightness on a 5x5 grid correlates by {synthetic} between two synthetic "
        f"patches, by {real} between two real ones."
    )


def _weak_translation_text(run: Run) -> str:
    """Return a warning if the GAN's translations from one class to the other hardly change a patch; else "".

    That is so if the proposed classifier gives the other class to few of the translated patches.
    """
    by_class = run.translations["classes"] if run.translations else {}
    flip_rates = [estimates["flip_rate"]["value"] for estimates in by_class.values()]
    flip_rates = [rate for rate in flip_rates if rate is not None]  # undefined if no patch is called rightly
    if not flip_rates or max(flip_rates) >= MIN_FLIP_RATE:
        return ""
    shares = " and ".join(f"{rate:.1%}" for rate in flip_rates)
    pair = [run.class_texts[label] for label in run.experiment.translated_labels]
    classes = join_words(pair) if run.is_multiclass else "the classes"
    return f"The translations between {classes} change almost nothing: {shares} of them are called the other class."


def _epochs_text(run: Run) -> str:
    """Return the epochs of every classifier, for a sentence."""
    epochs = {name: run.experiment.classify.models[name].epochs for name in run.trained_names}
    return ", ".join(f"{CLASSIFIER_NAMES[name]} {count}" for name, count in epochs.items()) + " epochs"


def _unfinished_text(run: Run) -> str:
    """Return a warning that names the classifiers whose validation ROC AUC still rose at the end; else ""."""
    gains = {}
    for name in run.trained_names:
        rows = run.training_logs[run.training_logs["classifier"] == name]
        by_epoch = rows.groupby("epoch")["validation_roc_auc"].mean().to_numpy()
        split = -(-2 * len(by_epoch) // 3)  # the first two thirds of the epochs, rounded up
        if 0 < split < len(by_epoch):
            gains[name] = by_epoch[split:].max() - by_epoch[:split].max()
    unfinished = [
        f"{CLASSIFIER_NAMES[name]} ({format_signed(gain)})" for name, gain in gains.items() if gain >= UNFINISHED_GAIN
    ]
    if not unfinished:
        return ""
    return (
        "The validation ROC AUC still rose in the last third of the epochs: "
        f"{join_words(unfinished)}. With more epochs (classify.models.*.epochs) these may score higher."
    )
