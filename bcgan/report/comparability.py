"""Which numbers of several reports can be subtracted: those of the same classes, and scores of the same network."""

from bcgan.classes import class_names, parse_classes
from bcgan.report.gan_tables import GAN_NAMES

# Why a table lacks differences.
OTHER_CLASSES = (
    "No difference is given between reports of other classes: of two classes metrics are those of the second one, of "
    "more they are means over the classes."
)
OTHER_SCORES = (
    "No difference is given where the classes, the network whose features are compared or the number of samples "
    "differ. The reference CNN is each run's own: it is the same only with the same patches, split, seed and settings "
    "of preprocessing and features."
)


def classes_of(report: dict) -> tuple[str, ...]:
    """Return the classes of a report in the order of their labels."""
    return class_names(parse_classes(report["settings"].get("data.classes")))


def class_conditions(reports: dict[str, dict]) -> dict[str, tuple[str, ...]]:
    """Return what two reports need in common for a difference of metrics: the classes, by title."""
    return {title: classes_of(report) for title, report in reports.items()}


def score_conditions(reports: dict[str, dict]) -> dict[str, dict[str, tuple]]:
    """Return what two reports need in common for a difference of a score of synthetic patches, by the score's title.

    That are the classes, the network and the samples and, if the network is the run's own, what it was trained with.
    """
    conditions: dict[str, dict[str, tuple]] = {title: {} for title in GAN_NAMES.values()}
    for report_title, report in reports.items():
        protocol, settings = report["protocol"], report["settings"]
        training_inputs = [protocol.get("split_sha256"), protocol.get("data_sha256")]
        training_inputs += sorted(
            item for item in settings.items() if item[0].startswith(("seed", "data.size", "preprocess.", "features."))
        )
        for name, title in GAN_NAMES.items():
            score = report["gan"].get(name, {})
            network = str(score.get("network"))
            trained = [] if name.endswith(network) else training_inputs
            conditions[title][report_title] = (classes_of(report), network, score.get("samples"), trained)
    return conditions


def differences_left_out(reports: dict[str, dict]) -> dict[str, str]:
    """Return {title of a table: why it lacks differences}."""
    first = next(iter(reports))
    notes = {}
    if any(names != classes_of(reports[first]) for names in class_conditions(reports).values()):
        notes = dict.fromkeys(("Test patients", "Each class against the rest"), OTHER_CLASSES)
    by_score = score_conditions(reports).values()
    if any(condition != by_report[first] for by_report in by_score for condition in by_report.values()):
        notes["Synthetic patches"] = OTHER_SCORES
    return notes
