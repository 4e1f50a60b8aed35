"""What a report says first: its finding in one sentence, its largest cautions, and what becomes of 100 patches."""

from typing import NamedTuple

import numpy as np

from bcgan.evaluate.derived import ENSEMBLE
from bcgan.evaluate.intervals import MIN_PATIENTS, format_estimate
from bcgan.gan import watch
from bcgan.report.other_settings import list_other_settings
from bcgan.report.run import Run
from bcgan.report.style import CLASSIFIER_NAMES, ROLE_DEFINITIONS, ROLE_NAMES, format_signed
from bcgan.report.tables import differences_by_pair, list_components
from bcgan.report.wording import join_words

MAX_CAUTIONS = 3
# Without these in common the proposed network and `resnet_features` are not the same but for the GAN.
SHARED_SETTINGS = ("extra_features", "multi_depth")
MIN_TEST_PATIENTS = 30  # with fewer, every interval is wide
WEAK_PATIENT_ACCURACY = 0.7  # a patient is hard if a smaller share of the patches is called rightly
BORDER_WEIGHT = 0.2  # errors at borders count less than errors in the open: their labels are uncertain
MIN_CALIBRATION_LOSS = 0.01  # growth of the calibration error by calibrating from which on a caution says so
MIN_SEEDS = 3  # with fewer, nothing is known about how trainings differ
IMBALANCE_ALERT = 0.15  # difference of a class's share from that of equally frequent classes
METRIC_TEXTS = {"sensitivity": "sensitivity", "specificity": "specificity", "balanced_accuracy": "balanced accuracy"}


class Finding(NamedTuple):
    """What a run shows about the GAN, or, without a comparison, about its proposed classifier."""

    # gain, none or loss, of the GAN; level or chance, of a classifier that is compared with none; unclear, of either,
    # without an interval, or of the GAN from one training
    kind: str
    sentence: str
    further: str  # a second sentence; empty if there is nothing to add


class Caution(NamedTuple):
    """A limit of the results."""

    size: float  # cautions are sorted by it: about the share of patches or patients concerned; 1 or more for grave ones
    text: str


class Outcome(NamedTuple):
    """What becomes of 100 patches of a class."""

    text: str  # the class
    color: str
    called: int  # of 100, rightly
    missed: int  # of 100, called another class
    mistaken_for: str  # what those are called


def find(run: Run) -> Finding:
    """Return the finding: whether the GAN gains, by the interval of the difference that it makes on test patients."""
    name = run.classifier_names[0]
    test, effect = run.metrics[name]["sets"]["test"]["roc_auc"], _gan_effect(run)
    further = _best_addition(run)
    if effect is None:
        kind = "level"
        if test["value"] is not None and test["low"] is None:
            kind = "unclear"
        elif test["value"] is None or test["low"] <= 0.5:
            kind = "chance"
        return Finding(kind, _with_source(run, _level_sentence(run, name, kind)), further)
    reference, difference = effect
    before = run.metrics[reference]["sets"]["test"]["roc_auc"]["value"]
    change = f"from {before:.3f} to {test['value']:.3f}, a difference of {format_signed(difference['value'])}"
    added_inputs = _added_inputs(run, reference)
    other_settings = list_other_settings(run, name, reference)
    subjects = ["the GAN"] + (["pretrained features"] if "pretrained features" in added_inputs else [])
    if other_settings:
        subjects.append("other settings")
        added_inputs.append(f"other settings ({', '.join(other_settings)})")
    is_gan_alone, inputs = len(subjects) == 1, join_words(added_inputs)
    subject, verb = ("the GAN", "helps") if is_gan_alone else (f"{join_words(subjects)} together", "help")
    if difference["low"] is None:
        patients = run.role_counts("test")["patients"]
        kind, sentence = "unclear", (
            f"Whether {subject} {verb} cannot be said from {patients} test patients: with {inputs} the test ROC AUC "
            f"goes {change}, without an interval."
        )  # fmt: skip
    else:
        change += f" ({format_signed(difference['low'])} to {format_signed(difference['high'])})"
        once = [CLASSIFIER_NAMES[classifier] for classifier in (name, reference) if run.is_trained_once(classifier)]
        if once and not difference["low"] <= 0 <= difference["high"]:
            kind, sentence = "unclear", (
                f"Whether {subject} {verb} cannot be said from one training of {join_words(once)}: with {inputs} the "
                f"test ROC AUC goes {change} over patients alone, and trainings of one network differ too."
            )  # fmt: skip
        elif difference["low"] > 0:
            kind, sentence = "gain", f"With {subject} the result is better: {inputs} raise the test ROC AUC {change}."
        elif difference["high"] < 0:
            kind, sentence = "loss", f"With {subject} the result is worse: {inputs} lower the test ROC AUC {change}."
        else:
            kind, sentence = "none", (
                f"No gain from {subject} could be shown: with {inputs} the test ROC AUC goes {change}."
            )  # fmt: skip
    if "pretrained features" in subjects:
        further = f"What the GAN adds to pretrained features was not tested. {further}".strip()
    elif other_settings:
        further = f"What the GAN adds with the same settings was not tested. {further}".strip()
    return Finding(kind, _with_source(run, sentence), further)


def _with_source(run: Run, sentence: str) -> str:
    """Return the sentence, after "On procedural tissue" if the tissue is; names of classifiers keep their capitals."""
    if not run.is_phantom:
        return sentence
    is_name = any(sentence.startswith(title) for title in CLASSIFIER_NAMES.values())
    return f"On procedural tissue: {sentence if is_name else sentence[0].lower() + sentence[1:]}"


def _gan_effect(run: Run) -> tuple[str, dict] | None:
    """Return the classifier that the proposed network is compared with to tell what the GAN adds, and the difference.

    It is `resnet_features`, the same network without the GAN, if both have the same SHARED_SETTINGS. Otherwise it is
    `resnet_table1`, the network to which the GAN's features are added. Other settings that differ are named in the
    finding.

    Returns:
        The reference's name, and the difference of the test ROC AUC, {value, low, high, p, p_floor}; `None` if it is
        compared with neither.
    """
    differences, models = differences_by_pair(run), run.experiment.classify.models
    for reference in ("resnet_features", "resnet_table1"):
        difference = differences.get(("gan_resnet", reference), {}).get("roc_auc")
        if not difference or difference["value"] is None:
            continue
        has_other_settings = reference == "resnet_features" and any(
            getattr(models["gan_resnet"], key) != getattr(models[reference], key) for key in SHARED_SETTINGS
        )
        if not has_other_settings:
            return reference, difference
    return None


def _added_inputs(run: Run, reference: str) -> list[str]:
    """Return phrases for what the proposed network reads, or is trained on, that the reference is not."""
    models = run.experiment.classify.models
    settings = models["gan_resnet"]
    inputs = ["the discriminator's features"]
    if reference == "resnet_table1" and settings.extra_features == "projected_discriminator":
        inputs = ["the features of both discriminators"]
    elif reference == "resnet_table1" and settings.extra_features != "none":
        inputs.append("pretrained features")
    if settings.uses_synthetic and not models[reference].uses_synthetic:
        inputs.append("synthetic patches")
    return inputs


def _level_sentence(run: Run, name: str, kind: str) -> str:
    """Return a sentence: how well a classifier separates the classes of test patients.

    Args:
        kind: level, chance or unclear, as in `Finding`.
    """
    auc, patients = run.metrics[name]["sets"]["test"]["roc_auc"], run.role_counts("test")["patients"]
    first, second = run.class_texts[0], run.class_texts[-1]
    classes = f"the {len(run.class_names)} classes" if run.is_multiclass else f"{second} from {first} patches"
    if auc["value"] is None:
        return f"{CLASSIFIER_NAMES[name]} could not be tested: the test patients' patches have not all classes."
    if kind == "unclear":
        reason = "as too few of them have patches of each class"
        if patients < MIN_PATIENTS:
            reason = f"which takes {MIN_PATIENTS} patients"
        return (
            f"Whether {CLASSIFIER_NAMES[name]} separates {classes} cannot be said from {patients} test patients: its "
            f"ROC AUC is {auc['value']:.3f}, without an interval, {reason}."
        )
    verb = "is not shown to separate" if kind == "chance" else "separates"
    comparison = " better than chance: its ROC AUC is" if kind == "chance" else " with a ROC AUC of"
    return f"{CLASSIFIER_NAMES[name]} {verb} {classes} of {patients} test patients{comparison} {format_estimate(auc)}."


def _best_addition(run: Run) -> str:
    """Return a sentence on the addition, the GAN apart, with the largest gain on test patients; empty if none gains.

    Gains of networks that were trained once do not count.
    """
    gains = [
        (component.differences["roc_auc"], component)
        for component in list_components(run)
        if component.role == "test" and component.name != "gan_resnet"
        and (component.name != ENSEMBLE or _extends_best_member(run))
    ]  # fmt: skip
    gains = [
        (difference, component)
        for difference, component in gains
        if not component.is_trained_once and difference["low"] is not None and difference["low"] > 0
    ]
    if not gains:
        return ""
    difference, component = max(gains, key=lambda pair: pair[0]["value"])
    auc = run.metrics[component.name]["sets"]["test"]["roc_auc"]["value"]
    title = component.title[0].lower() + component.title[1:]
    title = component.title if component.title[1].isupper() else title
    if component.other_settings:
        title += f" together with other settings ({component.other_settings})"
    return (
        f"Of the other additions, the largest gain comes from {title}: {format_signed(difference['value'])} "
        f"({format_signed(difference['low'])} to {format_signed(difference['high'])}), to {auc:.3f}."
    )


def _extends_best_member(run: Run) -> bool:
    """Return whether the member that the ensemble is compared with is its best one on the test patients."""
    first, *further_members = run.experiment.ensemble_members
    areas = {name: run.metrics[name]["sets"]["test"]["roc_auc"]["value"] or 0 for name in (first, *further_members)}
    return areas[first] == max(areas.values())


def cautions(run: Run) -> list[str]:
    """Return the MAX_CAUTIONS largest cautions, the largest first."""
    return all_cautions(run)[:MAX_CAUTIONS]


def all_cautions(run: Run) -> list[str]:
    """Return every caution that applies to a run, the largest first."""
    return [caution.text for caution in sorted(_all_cautions(run), key=lambda caution: -caution.size)]


def _all_cautions(run: Run) -> list[Caution]:
    """Return every caution that applies to a run, in no particular order."""
    name, test_patients = run.classifier_names[0], run.role_counts("test")["patients"]
    failed = [check["meaning"] for check in run.leak_audit["checks"].values() if not check["passed"]]
    gan_failure = watch.diagnose(run.gan_log.to_dict("records"))
    listed = [Caution(9, f"The leak audit failed: {'; '.join(failed)}. No result can be trusted.")] if failed else []
    listed += [Caution(8, f"The GAN failed at the end of its training: {gan_failure}.")] if gan_failure else []
    if run.is_phantom:
        listed.append(
            Caution(7, "The tissue is procedural: results show that the pipeline works, not how patients do.")
        )
    if not run.has_patient_names:
        listed.append(Caution(6, "The data name no patients: one may be on both sides, and intervals are too narrow."))
    listed += _group_cautions(run, name)
    if test_patients < MIN_TEST_PATIENTS:
        advice = "read the intervals, not the values"
        if test_patients < MIN_PATIENTS:
            advice = f"too few for intervals, which take {MIN_PATIENTS}"
        listed.append(Caution(0.5, f"Only {test_patients} test patients: {advice}."))
    listed += _patient_cautions(run, name) if run.has_patient_names else []
    listed += _border_cautions(run, name)
    ece, calibrated_ece = (run.metrics[name]["sets"]["test"][key]["value"] for key in ("ece", "ece_calibrated"))
    if ece is not None and calibrated_ece is not None and calibrated_ece > ece + MIN_CALIBRATION_LOSS:
        text = (
            f"{CLASSIFIER_NAMES[name]}: calibration on the validation patients made probabilities worse, off by "
            f"{100 * calibrated_ece:.0f} points on average in place of {100 * ece:.0f}."
        )
        listed.append(Caution(calibrated_ece, text))
    elif ece is not None:
        text = (
            f"{CLASSIFIER_NAMES[name]}: probabilities are off by {100 * ece:.0f} points on average if not calibrated."
        )
        listed.append(Caution(ece, text))
    imbalance = _imbalance_text(run)
    listed += [Caution(0.05, imbalance)] if imbalance else []
    if len(run.seeds(name)) < MIN_SEEDS:
        text = f"{run.seeds_text(name)} of the proposed network: how much results vary between trainings is not known."
        listed.append(Caution(0.04, text))
    listed.append(Caution(0.03, "One data set: other laboratories, scanners and stains were not tested."))
    return listed


def _group_cautions(run: Run, name: str) -> list[Caution]:
    """Return the caution on the group of patients whose results lie farthest below the test patients' interval.

    Groups are unlisted patients and patches from other sources. Empty if no result lies below the interval.
    """
    listed, test = [], run.metrics[name]["sets"]["test"]
    metric_names = ("balanced_accuracy",) if run.is_multiclass else ("sensitivity", "specificity")
    threshold = "" if run.is_multiclass else " at the same threshold"
    for role in ("unlisted", "test_other", "unlisted_other"):
        group_metrics = run.metrics[name]["sets"].get(role)
        if not group_metrics:
            continue
        counts, first_role = run.role_counts(role), role.removesuffix("_other")
        group = f"On {counts['patients']} {ROLE_NAMES[first_role]} patients"
        if role in ROLE_DEFINITIONS:
            group += f", {ROLE_DEFINITIONS[role]},"
        elif role != first_role:
            group = f"On the {counts['patches']:,} patches of {ROLE_NAMES[first_role]} patients from other archives"
        for metric in metric_names:
            value, low = group_metrics[metric]["value"], test[metric]["low"]
            if value is not None and low is not None and value < low:
                listed.append(Caution(1 + test[metric]["value"] - value, (
                    f"{group} {METRIC_TEXTS[metric]}{threshold} is {value:.3f}; on test patients it is "
                    f"{format_estimate(test[metric])}."
                )))  # fmt: skip
    worst = max(listed, key=lambda caution: caution.size, default=None)
    return [worst] if worst else []


def _patient_cautions(run: Run, name: str) -> list[Caution]:
    """Return the caution on patients of whom a classifier gets many patches wrong; empty if there are none."""
    accuracies = run.patient_accuracies(name)
    num_weak = int((accuracies < WEAK_PATIENT_ACCURACY).sum())
    if not num_weak:
        return []
    return [Caution(num_weak / len(accuracies), (
        f"{CLASSIFIER_NAMES[name]} calls fewer than {10 * WEAK_PATIENT_ACCURACY:.0f} of 10 patches rightly in "
        f"{num_weak} of {len(accuracies)} test patients."
    ))]  # fmt: skip


def _border_cautions(run: Run, name: str) -> list[Caution]:
    """Return the caution on errors at borders of annotated regions; empty without errors, or if not measured."""
    borders = run.metrics[name].get("borders")
    if not borders or not borders["errors"]:
        return []
    share = borders["border_errors"] / borders["errors"]
    text = f"{share:.0%} of the errors touch the border of an annotated region, where labels are uncertain."
    return [Caution(BORDER_WEIGHT * share, text)]


def _imbalance_text(run: Run) -> str:
    """Return a warning if a class is much more or less frequent than classes of equal frequency; empty otherwise."""
    counts, average = run.class_counts("test"), 1 / len(run.class_names)
    shares = {run.class_texts[label]: counts[label] / sum(counts) for label in run.contrasted_labels}
    text, share = max(shares.items(), key=lambda item: abs(item[1] - average))
    if abs(share - average) <= IMBALANCE_ALERT:
        return ""
    return f"{share:.0%} of the test patches are {text}: accuracy alone is misleading."


def outcomes(run: Run) -> list[Outcome]:
    """Return what becomes of 100 test patches of each class, by the proposed classifier at its threshold.

    The last class comes first. A class without a test patch is left out.
    """
    name, table = run.classifier_names[0], run.test_predictions
    rows = []
    for label in reversed(range(len(run.class_names))):
        is_class = (table["label"] == label).to_numpy()
        if not is_class.any():
            continue
        shares = [np.mean(called[is_class] == label) for called in run.called_by_seed(name, table).values()]
        called = round(100 * float(np.mean(shares)))
        mistaken_for = "another class" if run.is_multiclass else run.class_texts[1 - label]
        color = run.class_colors[run.class_names[label]]
        rows.append(Outcome(run.class_texts[label], color, called, 100 - called, mistaken_for))
    return rows
