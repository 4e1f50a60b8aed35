"""What a report says first: its finding in one sentence, its largest cautions, and what becomes of 100 patches."""

from typing import NamedTuple

import numpy as np

from bcgan.classes import capitalize
from bcgan.classifiers import CLASSIFIERS
from bcgan.evaluate.derived import CONTEXT, ENSEMBLE
from bcgan.evaluate.intervals import format_estimate
from bcgan.gan import watch
from bcgan.report.run import Run
from bcgan.report.style import CLASSIFIER_NAMES, ROLE_DEFINITIONS, ROLE_NAMES, format_signed
from bcgan.report.tables import differences_by_pair

MAX_CAUTIONS = 3
MIN_TEST_PATIENTS = 30  # with fewer, every interval is wide
WEAK_PATIENT_ACCURACY = 0.7  # a patient is hard if a smaller share of the patches is called rightly
BORDER_WEIGHT = 0.2  # errors at borders count less than errors in the open: their labels are uncertain
IMBALANCE_ALERT = 0.15  # difference of a class's share from that of equally frequent classes
METRIC_TEXTS = {"sensitivity": "sensitivity", "specificity": "specificity", "balanced_accuracy": "balanced accuracy"}


class Finding(NamedTuple):
    """What a run shows about the GAN, or, without a comparison, about its proposed classifier."""

    kind: str  # gain, none or loss, of the GAN; level or chance, of a classifier that is compared with none
    sentence: str
    further: str  # a second sentence; empty if there is nothing to add


class Caution(NamedTuple):
    """A limit of the results."""

    size: (
        float  # what cautions are ordered by, about the share of patches or patients that it is about; 1 or more first
    )
    text: str


class Outcome(NamedTuple):
    """What becomes of 100 patches of a class."""

    text: str  # the class
    color: str
    called: int  # of 100, rightly
    missed: int  # of 100, called another class


def find(run: Run) -> Finding:
    """Return the finding of a run, from the interval of the difference that the GAN makes on the test patients."""
    name = run.classifier_names[0]
    test = run.metrics[name]["sets"]["test"]["roc_auc"]
    effect = _gan_effect(run)
    prefix = "On procedural tissue: " if run.is_phantom else ""
    if effect is None:
        sentence = _level_sentence(run, name)
        is_chance = test["low"] is not None and test["low"] <= 0.5
        return Finding("chance" if is_chance else "level", prefix + _lower_if(prefix, sentence), _best_addition(run))
    reference, difference = effect
    before = run.metrics[reference]["sets"]["test"]["roc_auc"]["value"]
    interval = f"({format_signed(difference['low'])} to {format_signed(difference['high'])})"
    change = (
        f"from {before:.3f} to {test['value']:.3f}, a difference of {format_signed(difference['value'])} {interval}"
    )
    what = _gan_inputs(run, reference)
    if difference["low"] > 0:
        kind, sentence = "gain", f"The GAN helps: {what} raise the test ROC AUC {change}."
    elif difference["high"] < 0:
        kind, sentence = "loss", f"The GAN does harm: {what} lower the test ROC AUC {change}."
    else:
        kind, sentence = "none", f"No gain from the GAN could be shown: with {what} the test ROC AUC goes {change}."
    return Finding(kind, prefix + sentence, _best_addition(run))


def _lower_if(prefix: str, sentence: str) -> str:
    """Return a sentence that continues a prefix; names of classifiers keep their capitals."""
    return sentence if not prefix or sentence[1].isupper() else sentence


def _gan_effect(run: Run) -> tuple[str, dict] | None:
    """Return what the proposed network is compared with, and the difference of the ROC AUC; `None` without one.

    That is the same network without the GAN if the run has it, otherwise the network that the GAN's features join.
    """
    differences = differences_by_pair(run)
    for reference in ("resnet_features", "resnet_table1"):
        difference = differences.get(("gan_resnet", reference), {}).get("roc_auc")
        if difference and difference["low"] is not None:
            return reference, difference
    return None


def _gan_inputs(run: Run, reference: str) -> str:
    """Return what of the GAN the proposed network has and the reference has not."""
    settings = run.experiment.classify.models["gan_resnet"]
    parts = ["the discriminator's features"]
    if reference == "resnet_table1" and settings.extra_features != "none":
        parts.append("pretrained features")
    parts += ["synthetic patches"] if settings.uses_synthetic else []
    return " and ".join(parts)


def _level_sentence(run: Run, name: str) -> str:
    """Return how well a classifier separates the classes of patients that it was not trained on."""
    auc, patients = run.metrics[name]["sets"]["test"]["roc_auc"], run.role_counts("test")["patients"]
    first, second = run.class_texts[0], run.class_texts[-1]
    classes = f"the {len(run.class_names)} classes" if run.is_multiclass else f"{second} from {first} patches"
    return (
        f"{CLASSIFIER_NAMES[name]} separates {classes} of {patients} test patients with a ROC AUC of "
        f"{format_estimate(auc)}."
    )


def _best_addition(run: Run) -> str:
    """Return a sentence on the addition with the largest gain on test patients, other than the GAN; or none."""
    differences, gains = differences_by_pair(run), []
    additions = {
        (CONTEXT, ENSEMBLE): "neighbouring patches", (ENSEMBLE, run.experiment.ensemble_members[0]): "an ensemble",
        **{(name, spec.compared_with): spec.adds[0].lower() + spec.adds[1:]
           for name, spec in CLASSIFIERS.items() if spec.compared_with and name != "gan_resnet"},
    }  # fmt: skip
    for (name, reference), text in additions.items():
        difference = differences.get((name, reference), {}).get("roc_auc")
        if difference and difference["low"] is not None and difference["low"] > 0:
            gains.append((difference["value"], text, difference, name))
    if not gains:
        return ""
    _, text, difference, name = max(gains)
    auc = run.metrics[name]["sets"]["test"]["roc_auc"]["value"]
    return (
        f"The largest shown gain comes from {text}: {format_signed(difference['value'])} "
        f"({format_signed(difference['low'])} to {format_signed(difference['high'])}), to {auc:.3f}."
    )


def cautions(run: Run) -> list[str]:
    """Return the MAX_CAUTIONS largest cautions, the largest first."""
    ordered = sorted(_all_cautions(run), key=lambda caution: -caution.size)
    return [caution.text for caution in ordered[:MAX_CAUTIONS]]


def _all_cautions(run: Run) -> list[Caution]:
    """Return every caution that applies to a run."""
    name, test_patients = run.classifier_names[0], run.role_counts("test")["patients"]
    failed = [check["meaning"] for check in run.leak_audit["checks"].values() if not check["passed"]]
    gan_failure = watch.diagnose(run.gan_log.to_dict("records"))
    found = [Caution(9, f"The leak audit failed: {'; '.join(failed)}. No result can be trusted.")] if failed else []
    found += [Caution(8, f"The GAN failed at the end of its training: {gan_failure}.")] if gan_failure else []
    if run.is_phantom:
        found.append(Caution(7, "The tissue is procedural: results show that the pipeline works, not how patients do."))
    if not run.has_patient_names:
        found.append(Caution(6, "The data name no patients: patients may be on both sides, and intervals are narrow."))
    found += _group_cautions(run, name)
    if test_patients < MIN_TEST_PATIENTS:
        found.append(Caution(0.5, f"Only {test_patients} test patients: read the intervals, not the values."))
    accuracies = run.patient_accuracies(name)
    num_weak = int((accuracies < WEAK_PATIENT_ACCURACY).sum())
    if num_weak:
        found.append(Caution(num_weak / len(accuracies), (
            f"In {num_weak} of {len(accuracies)} test patients fewer than {10 * WEAK_PATIENT_ACCURACY:.0f} of 10 "
            "patches are called rightly."
        )))  # fmt: skip
    found += _border_cautions(run, name)
    ece = run.metrics[name]["sets"]["test"]["ece"]["value"]
    found.append(
        Caution(ece, f"Probabilities are off by {100 * ece:.0f} points on average before they are calibrated.")
    )
    found += _imbalance_cautions(run)
    if len(run.seeds(name)) < 3:
        text = f"{capitalize(run.seeds_text(name))} of the proposed network: how much trainings differ is not known."
        found.append(Caution(0.04, text))
    found.append(Caution(0.03, "One data set: other laboratories, scanners and stains were not tested."))
    return found


def _group_cautions(run: Run, name: str) -> list[Caution]:
    """Return cautions on groups of patients where the same threshold does worse than the test interval allows."""
    found, test = [], run.metrics[name]["sets"]["test"]
    metric_names = ("balanced_accuracy",) if run.is_multiclass else ("sensitivity", "specificity")
    for role in ("unlisted", "test_other", "unlisted_other"):
        other = run.metrics[name]["sets"].get(role)
        if not other:
            continue
        for metric in metric_names:
            value, low = other[metric]["value"], test[metric]["low"]
            if value is not None and low is not None and value < low:
                counts = run.role_counts(role)
                definition = f", {ROLE_DEFINITIONS[role]}," if role in ROLE_DEFINITIONS else ""
                drop = test[metric]["value"] - value
                found.append(Caution(1 + drop, (
                    f"On {counts['patients']} {ROLE_NAMES[role]} patients{definition} {METRIC_TEXTS[metric]} at the "
                    f"same threshold is {value:.3f}; on test patients it is {format_estimate(test[metric])}."
                )))  # fmt: skip
    worst = max(found, key=lambda caution: caution.size, default=None)
    return [worst] if worst else []


def _border_cautions(run: Run, name: str) -> list[Caution]:
    """Return a caution on errors at the borders of annotated regions, if those were measured."""
    borders = run.metrics[name].get("borders")
    if not borders or not borders["errors"]:
        return []
    share = borders["border_errors"] / borders["errors"]
    text = f"{share:.0%} of the errors touch the border of an annotated region, where labels are uncertain."
    return [Caution(BORDER_WEIGHT * share, text)]


def _imbalance_cautions(run: Run) -> list[Caution]:
    """Return a caution if a class is much more or less frequent than all on average."""
    text = imbalance_text(run)
    return [Caution(0.05, text)] if text else []


def imbalance_text(run: Run) -> str:
    """Return a warning if a class is much more or less frequent than all on average; empty otherwise."""
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
        rows.append(Outcome(run.class_texts[label], run.class_colors[run.class_names[label]], called, 100 - called))
    return rows
