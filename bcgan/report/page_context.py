"""The variables of the page's templates."""

from typing import Any, NamedTuple

import pandas as pd

from bcgan import runs
from bcgan.classes import capitalize
from bcgan.evaluate.intervals import format_estimate
from bcgan.report import finding, gan_tables, inline_svg, page_data, stage_tables, style
from bcgan.report.alerts import list_alerts, list_limitations
from bcgan.report.run import Run
from bcgan.report.style import CLASSIFIER_NAMES, ROLE_NAMES
from bcgan.report.wording import join_words, percent

COMPARED = (
    "roc_auc", "pr_auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "f1", "brier", "ece_calibrated",
)  # fmt: skip
GLOSSARY = {
    "ROC AUC": "Area under the curve of sensitivity against 1 - specificity: the chance that a patch of the class has "
               "a higher probability than one that is not. 0.5 is chance, 1 is perfect.",
    "PR AUC": "Area under the curve of precision against recall; chance is the class's share.",
    "Sensitivity": "The share of the patches of a class that are called so; also recall.",
    "Specificity": "The share of the other patches that are not called so.",
    "Balanced accuracy": "The mean of sensitivity and specificity; of more than two classes, the mean sensitivity.",
    "F1": "The harmonic mean of precision and recall.",
    "Brier score": "The mean squared error of the probability; 0 is perfect.",
    "Calibration error": "The mean distance of the probability from the observed share, over ten equally wide bins.",
    "Interval": "The range of the result on other patients like these: a bootstrap of patients, widened by what "
    "trainings vary.",
    "Validation patients": "Those that select the epoch, any threshold and the calibration, and are not tested.",
    "KID, FID": "Distances between the features of synthetic and of real patches; lower is nearer.",
    "Phantom": "Procedural tissue, drawn by a program.",
}  # fmt: skip
# What the classes are, where their names do not say it.
CLASS_NOTES = {
    "idc": "Malignant: inside a region outlined as invasive ductal carcinoma. Benign: every other patch.",
}  # fmt: skip
DATA_NAMES = {
    "histology_phantom": "Histology phantom (procedural tissue)",
    "idc": "Breast Histopathology Images (invasive ductal carcinoma)",
    "tiles": "Patches of annotated slides",
    "breakhis": "BreaKHis",
    "patch_camelyon": "PatchCamelyon",
    "patient_folder": "A folder of patches",
}


def template_context(
    run: Run, sections: dict, summary_tables: dict[str, pd.DataFrame], totals: dict, changed: list[str]
) -> dict[str, Any]:
    """Return the variables of the page templates, by name.

    Args:
        sections: From `page._draw_figures`: a dict for each figure, by section.
        summary_tables: The tables that belong to no figure, by name.
        totals: Of the paper's Table 1.
        changed: Settings, as key=value, in which the run differs from its YAML file.
    """
    experiment = run.experiment
    headline = run.classifier_names[0]
    data_dir = " DATA_DIR=..." if experiment.data.dir else ""
    overrides = f" SET='{' '.join(changed)}'" if changed else ""
    make_target = "ablation" if run.ablation or run.cross_validation or run.learning_curve else "train"
    flags = "" if run.patient_images else " --no-patient-images"
    return {
        "experiment": experiment,
        "title": experiment.report.title or DATA_NAMES[run.data_source],
        "run": run,
        "protocol": run.protocol_text(),
        "headline": CLASSIFIER_NAMES[headline],
        "classifier_titles": CLASSIFIER_NAMES,
        "role_definitions": style.ROLE_DEFINITIONS,
        "classes": capitalize(join_words(run.class_texts, "or")),
        "finding": finding.find(run),
        "cautions": finding.cautions(run),
        "outcomes": finding.outcomes(run),
        "groups": compared_groups(run),
        "gan_bars": gan_tables.score_bars(run),
        "color_variables": {"light": inline_svg.color_variables(False), "dark": inline_svg.color_variables(True)},
        "glossary": GLOSSARY,
        **_notes(run),
        "alerts": list_alerts(run),
        "limits": list_limitations(run),
        "verdict": (
            f"{stage_tables.learning_curve_verdict(run)} {stage_tables.learning_curve_fallback_text(run)}".strip()
            if run.learning_curve else ""
        ),
        "sections": sections,
        "tables": summary_tables,
        "class_note": CLASS_NOTES.get(run.data_source, ""),
        "num_left_out": len(run.classifier_names) - len(page_data.classifiers_of_patches(run)),
        "file_names": sorted([
            *(f"{name}.csv" for name in summary_tables),
            *(f"{item['name']}.csv" for items in sections.values() for item in items),
            "patches.csv", "patients.json", "results.json",
        ]),
        "totals": totals,
        "provenance": provenance(run),
        "command": f"make {make_target} EXPERIMENT={experiment.name}{data_dir}{overrides}\n"
        f"bcgan report {experiment.name}{flags}",
    }  # fmt: skip


def _notes(run: Run) -> dict[str, str]:
    """Return the sentences above some tables, by the templates' names of them."""
    quality, folds = run.experiment.features.quality_filter, run.cross_validation
    fractions = (
        "The fraction of each class, means over the classes." if run.is_multiclass
        else f"The {run.class_texts[1]} fraction of each patient's patches."
    )  # fmt: skip
    fractions += " The ROC AUC of any such patch or none needs five patients of either kind."
    at = "" if run.is_multiclass else ", at the threshold of the largest accuracy on validation patients,"
    measured = f"ROC AUC and accuracy{at}" if folds else "ROC AUC"
    networks = (
        f" Networks, trained {folds['epochs']} epochs in each of {folds['num_folds']} folds: all patients."
        if folds
        else ""
    )
    threshold = "" if run.is_multiclass else " the threshold,"
    has_other_sources = any(role.endswith("_other") for role in run.split["counts"])
    uncounted = (
        " Patches from archives that the protocol does not score train, and are not counted." * has_other_sources
    )
    return {
        "patients_note": fractions,
        "filter_note": (
            "A patch is accepted if the reference CNN, a plain CNN trained on real training patients, gives its class "
            f"a probability of at least {quality.min_confidence}, and its features are as near to the class as "
            f"those of {percent(quality.distance_quantile)} of the real patches. {gan_tables.unused_filter_text(run)}"
        ),
        "optimism_note": (
            f"{measured} by cross-validation with patches split at random, and with patients split. "
            "Colour and texture: all patients of the protocol. Discriminator features: patients that it was not "
            "trained on."
            f"{networks}"
        ),
        "cross_validation_note": (
            f"{folds['num_folds']}-fold cross-validation by patients, {folds['epochs']} epochs, one seed. The next "
            f"fold selects the epoch,{threshold} the calibration and the weights of the spatial context.{uncounted}"
        ) if folds else "",
    }  # fmt: skip


def provenance(run: Run) -> dict[str, str]:
    """Return the code, machine, versions, seeds, seconds and data of the run, as texts by title."""
    experiment, manifest = run.experiment, run.manifests["classify"]
    other_commits = "".join(
        f"; {name} by {stage['commit'] or 'unknown'}, {stage['finished'][:10]}"
        for name, stage in run.manifests.items()
        if stage["commit"] != manifest["commit"]
    )
    environment, seeds = manifest["environment"], ", ".join(map(str, experiment.classify.seeds))
    own_seeds = [
        f"{CLASSIFIER_NAMES[name]}: {', '.join(map(str, model.seeds))}"
        for name, model in experiment.classify.models.items()
        if model.seeds
    ]
    seeds += f" ({'; '.join(own_seeds)})" if own_seeds else ""
    versions = {"Python": environment["python"], **environment["packages"]}
    processor = environment["processor"]
    return {
        "Experiment": f"{experiment.name}, seed {experiment.seed}, classifier seeds {seeds}, profile "
                      f"{experiment.profile}",
        "Code": f"bcgan {manifest['version']}, commit {manifest['commit'] or 'unknown'}{other_commits}; rendered by "
                f"{runs.commit() or 'unknown'}",
        "Finished": manifest["finished"],
        "Hardware": f"{processor['name']}, {processor['cores']} cores; peak memory until classifiers were trained "
                    f"{manifest['peak_memory_mib']} MiB",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Split": f"SHA-256 {run.split['sha256']}",
        "Data": f"SHA-256 {run.data_sha256()} of the sorted hashes of the patches' pixels",
    }  # fmt: skip


class Bar(NamedTuple):
    """An estimate as a cell of a table: its text, and where its value and interval lie on the column's scale."""

    value: float | None
    text: str
    low: float | None  # percent of the column's range, as are the following
    high: float | None
    position: float | None


def compared_groups(run: Run) -> list[dict[str, Any]]:
    """Return what the report's comparison of classifiers draws: a dict for each group of patients, test patients first.

    The keys are role; title, summary and definition, which are texts; metrics, {metric: title}; and rows, one for each
    classifier: {title, bars}, with a `Bar` for each metric. The axis of a metric is the same in every group, from the
    smallest to the largest value or end of an interval.
    """
    roles = [role for role in run.split["counts"] if role != "train"]
    roles.sort(key=lambda role: (not role.startswith("test"), role.endswith("_other"), list(ROLE_NAMES).index(role)))
    estimates = {role: {name: run.metrics[name]["sets"][role] for name in run.classifier_names} for role in roles}
    metrics = [
        metric for metric in COMPARED
        if any(scores[metric]["value"] is not None for by_name in estimates.values() for scores in by_name.values())
    ]  # fmt: skip
    limits = {}
    for metric in metrics:
        numbers = [
            scores[metric][key] for by_name in estimates.values() for scores in by_name.values()
            for key in ("value", "low", "high") if scores[metric][key] is not None
        ]  # fmt: skip
        limits[metric] = min(numbers), max(max(numbers), min(numbers) + 1e-6)
    return [
        {
            "role": role, "title": ROLE_NAMES[role].capitalize(), "summary": run.role_summary(role),
            "definition": style.ROLE_DEFINITIONS.get(role, ""),
            "metrics": {metric: run.metric_names[metric] for metric in metrics},
            "rows": [
                {"title": CLASSIFIER_NAMES[name],
                 "bars": [_make_bar(by_name[name][metric], *limits[metric]) for metric in metrics]}
                for name in run.classifier_names
            ],
        }
        for role, by_name in estimates.items()
    ]  # fmt: skip


def _make_bar(estimate: dict, low: float, high: float) -> Bar:
    """Return an estimate, {value, low, high}, as a bar on a scale from `low` to `high`."""
    low_end, high_end, position = (
        None if estimate[key] is None else round(100 * (estimate[key] - low) / (high - low), 1)
        for key in ("low", "high", "value")
    )
    return Bar(estimate["value"], format_estimate(estimate), low_end, high_end, position)
