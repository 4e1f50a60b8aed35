"""The stage `report`: figures, tables, report.html, report.md and results.json from a finished run's files."""

import base64
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape

from bcgan import progress, runs
from bcgan.errors import InputError
from bcgan.evaluate import patients as by_patient
from bcgan.evaluate.intervals import describe
from bcgan.experiment import Experiment
from bcgan.gan import watch
from bcgan.gan.features import PICTURED
from bcgan.report import (
    architecture_figures,
    cards,
    classifier_figures,
    data_figures,
    embedding_figure,
    explanation_figures,
    gan_figures,
    slide_figures,
    style,
    synthesis_figures,
    tables,
)
from bcgan.report.results import collect
from bcgan.report.run import Run, read
from bcgan.report.style import CLASSIFIER_NAMES, ROLE_NAMES

FIGURES = {
    "networks": {
        "fig03_system_architecture": architecture_figures.system,
        "fig04_gan": architecture_figures.gan,
        "fig05_resnet_features": architecture_figures.resnet,
        "fig06_integration": architecture_figures.integration,
    },
    "data": {
        "faults": data_figures.faults,
        "fig01_examples": data_figures.examples,
        "fig07_count_plot": data_figures.count_plot,
        "patient_balance": data_figures.patient_balance,
        "fig08_image_properties": data_figures.image_properties,
        "fig09_density": data_figures.density,
        "stain_variation": data_figures.stain_variation,
    },
    "gan": {
        "gan_samples": gan_figures.samples,
        "gan_scores": gan_figures.scores,
        "nearest": gan_figures.nearest,
        "gan_evolution": gan_figures.evolution,
        "fig11_convergence": gan_figures.convergence,
    },
    "synthesis": {
        "latent_walk": synthesis_figures.latent_walk,
        "attribute_sweep": synthesis_figures.attribute_sweep,
        "steering": synthesis_figures.steering,
        "translations": synthesis_figures.translations,
        "counterfactuals": synthesis_figures.counterfactuals,
        "probes": synthesis_figures.probes,
        "embedding": embedding_figure.embedding,
        "learning_curve": synthesis_figures.learning_curve,
    },
    "classifiers": {
        "fig10_accuracy_loss": classifier_figures.accuracy_loss,
        "confusion_matrix": classifier_figures.confusion,
        "roc": classifier_figures.roc,
        "precision_recall": classifier_figures.precision_recall,
        "reliability": classifier_figures.reliability,
        "decision_curve": classifier_figures.decision_curve,
        "per_patient": classifier_figures.per_patient,
        "patient_shares": classifier_figures.patient_shares,
        "comparisons": classifier_figures.comparisons,
        "ablation": classifier_figures.ablation,
        "slide_maps": slide_figures.slide_maps,
        "explanations": explanation_figures.explanations,
        "explanation_tests": explanation_figures.tests,
        "feature_maps": explanation_figures.feature_maps,
        "error_gallery": explanation_figures.error_gallery,
    },
}
INTERVAL = re.compile(r"(-?[\d.]+) \((-?[\d.]+) to (-?[\d.]+)\)")  # must not break inside
LEAST = 68  # CSS pixels an inch of a figure, below which its letters cannot be read: on a phone it is moved instead
QUALITY = 78  # of the pictures inside the page, which would be too heavy to open as PNG; figures/ holds those
PAPER = "../../docs/explanation/paper.md"  # from reports/<experiment>
ALIKE = 0.2  # more correlation between the layouts of synthetic patches than of real ones: a reader sees it
UNMOVED = 0.05  # share of translations called the other class, below which they are none
SMALL_N = 30  # test patients; fewer make every interval wide
DATA_NAMES = {
    "histology_phantom": "Histology phantom (procedural tissue)",
    "idc": "Breast Histopathology Images (invasive ductal carcinoma)",
    "breakhis": "BreaKHis",
    "patch_camelyon": "PatchCamelyon",
    "patient_folder": "A folder of patches",
}


def render(
    experiment: Experiment, root: Path, target: Path, patient_images: bool, changed: list[str] | None = None
) -> Path:
    """Render a run.

    Args:
        root: Path. The finished run, runs/<experiment>.
        target: Path. Folder to write; an earlier report there is replaced when this one is whole.
        patient_images: bool. False leaves out every picture of a patient's tissue; the phantom has no patients.
        changed: list of strings. Settings, as key=value, in which the run differs from its YAML file.

    Returns:
        Path of report.html.

    Raises:
        InputError: the folder holds something else than a report.
    """
    if target.exists() and any(target.iterdir()) and not (target / "results.json").exists():
        raise InputError(f"{target} holds files that are no report of ours. Choose an empty folder with --out.")
    out = target.with_name(f"{target.name}.part")
    shutil.rmtree(out, ignore_errors=True)
    (out / "tables").mkdir(parents=True)
    run = read(experiment, root, patient_images or experiment.data.name == "histology_phantom")
    figures_by_section = _figures(run)
    sections: dict[str, list[dict[str, str]]] = {}
    with progress.bar(sum(map(len, figures_by_section.values())), "report", "figure") as bar:
        for section, figures in figures_by_section.items():
            sections[section] = []
            for name, draw in figures.items():
                drawn = draw(run)
                style.save(drawn, out, name)
                least = round(LEAST * drawn.figure.get_figwidth())
                caption = drawn.caption if section == "networks" else f"{drawn.caption} Protocol: {run.protocol()}."
                sections[section].append({"name": name, "title": drawn.title, "caption": caption, "least": least})
                bar.update()
    summary_tables, totals = _tables(run)
    for name, table in summary_tables.items():
        table.to_csv(out / "tables" / f"{name}.csv", index=False)
    runs.write_json(out / "results.json", collect(run, totals))
    context = _context(run, sections, summary_tables, totals, changed or [])
    context["paper"] = PAPER if (target / PAPER).resolve().exists() else ""  # the target itself may not be there yet
    pages = templates()
    pages.filters["picture"] = lambda name: _picture(out, name)
    for name in ("report.html", "report.md"):
        (out / name).write_text(pages.get_template(name).render(context), "utf-8")
    shutil.rmtree(target, ignore_errors=True)
    out.rename(target)
    return target / "report.html"


def templates() -> Environment:
    """The pages that are filled in, with tables as HTML or Markdown."""
    options = {"autoescape": select_autoescape(["html"]), "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("bcgan.report"), **options)
    environment.filters |= {"html": as_html, "markdown": as_markdown}
    return environment


def _figures(run: Run) -> dict[str, dict]:
    """FIGURES without those whose measurements this experiment leaves out."""
    absent = set() if run.translations else {"translations", "counterfactuals"}
    absent |= set() if run.probes else {"probes"}
    absent |= set() if run.learning_curve else {"learning_curve"}
    absent |= set() if run.explanations else {"explanations", "explanation_tests"}
    absent |= set() if any("_features_" in name for name in run.explained) else {"feature_maps"}
    absent |= set() if run.patient_images else {"error_gallery"}
    absent |= set() if run.patients_known else {"stain_variation", "patient_balance"}
    absent |= set() if PICTURED in run.synthetic else {"embedding", "nearest"}
    absent |= set() if run.ablation else {"ablation"}
    absent |= set() if run.comparisons else {"comparisons"}
    absent |= set() if slide_figures.wanted(run) else {"slide_maps"}
    absent |= set() if data_figures.faulty_patches(run) else {"faults"}
    return {
        section: {name: draw for name, draw in figures.items() if name not in absent}
        for section, figures in FIGURES.items()
    }


def _tables(run: Run) -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
    table1, totals = tables.table1_summary()
    roles = [role for role in ROLE_NAMES if role in run.split["counts"] and role != "train"]
    summary_tables = {
        "table1_resnet_summary": table1,
        "table2_comparison": tables.table2_comparison(run),
        "counts": tables.counts(run),
        "audit": tables.audit(run),
        "leak_audit": tables.leaks(run),
        "gan_scores_summary": tables.gan_scores(run),
        "quality_filter": tables.quality_filter(run),
        "comparisons_summary": tables.comparisons(run),
        "operating_points": tables.operating_points(run),
        "split_optimism": tables.split_optimism(run),
        "calibration": tables.results(run, "test", tables.CALIBRATION_METRICS),
        "patients": tables.results(run, "test", by_patient.NAMES),
        "largest_errors": tables.largest_errors(run),
        "model_card": cards.model_card(run),
        "data_card": cards.data_card(run),
        "claim": cards.claim(run),
    }
    summary_tables |= {"cross_validation": tables.cross_validation(run)} if run.cross_validation else {}
    optional = {"slides": tables.slides(run), "components": tables.components(run)}
    summary_tables |= {name: table for name, table in optional.items() if len(table)}
    summary_tables |= {"ablation_summary": tables.ablation(run)} if run.ablation else {}
    summary_tables |= {"learning_curve_summary": tables.learning_curve(run)} if run.learning_curve else {}
    return summary_tables | {f"results_{role}": tables.results(run, role) for role in roles}, totals


def _context(
    run: Run, sections: dict, summary_tables: dict[str, pd.DataFrame], totals: dict, changed: list[str]
) -> dict[str, Any]:
    experiment = run.experiment
    headline = run.names[0]
    test = run.metrics[headline]["sets"]["test"]
    where = " DATA_DIR=..." if experiment.data.dir else ""
    extra = f" SET='{' '.join(changed)}'" if changed else ""
    target = "ablation" if run.ablation or run.cross_validation or run.learning_curve else "train"
    flags = "" if run.patient_images else " --no-patient-images"
    return {
        "experiment": experiment,
        "title": experiment.report.title or DATA_NAMES[experiment.data.name],
        "run": run,
        "protocol": run.protocol(),
        "headline": CLASSIFIER_NAMES[headline],
        "cards": [
            ("Test ROC AUC", describe(test["roc_auc"])),
            ("Balanced accuracy", describe(test["balanced_accuracy"])),
            ("Sensitivity", describe(test["sensitivity"])),
            ("Specificity", describe(test["specificity"])),
        ],
        "others": ", ".join(
            f"{CLASSIFIER_NAMES[name]} {describe(run.metrics[name]['sets']['test']['roc_auc'])}"
            for name in run.names[1:]
        ),
        "alerts": alerts(run),
        "limits": limits(run),
        "verdict": tables.learning_curve_verdict(run) if run.learning_curve else "",
        "sections": sections,
        "tables": summary_tables,
        "results": {
            ROLE_NAMES[name.removeprefix("results_")]: name for name in summary_tables if name.startswith("results_")
        },
        "totals": totals,
        "provenance": provenance(run),
        "command": f"make {target} EXPERIMENT={experiment.name}{where}{extra}\nbcgan report {experiment.name}{flags}",
    }


def alerts(run: Run) -> list[str]:
    """Return the limitations and warnings that follow from the run's own numbers."""
    test, narrow = run.count("test"), run.audit["faults"]["wrong_size"]["count"]
    share = test["positives"] / test["patches"]
    refused = run.audit["patches"] - run.audit["kept"]
    seeds = len(run.experiment.classify.seeds)
    trouble = watch.trouble(run.gan_log.to_dict("records"))
    unlabelled = ", ".join(CLASSIFIER_NAMES[name] for name in run.trained_on_unlisted())
    failed = [check["meaning"] for check in run.leak_audit["checks"].values() if not check["passed"]]
    alert_texts = [
        (failed, f"The leak audit failed: {'; '.join(failed)}. No result below can be trusted."),
        (trouble, f"The GAN failed at the end of its training: {trouble}."),
        (run.part(), run.part()),
        (run.phantom, "The tissue is procedural: results show that the pipeline works, and nothing about patients."),
        (not run.patients_known, "The data have no patient names: intervals by patch are too narrow."),
        (test["patients"] < SMALL_N, f"Only {test['patients']} test patients: read the intervals, not the values."),
        (seeds < 3, f"{run.seeds()}: how much results vary between trainings is not known."),
        (abs(share - 0.5) > 0.15, f"{share:.0%} of the test patches are malignant: accuracy alone is misleading."),
        (refused, f"{refused:,} patches were excluded by the audit."),
        (narrow, f"{narrow:,} patches are narrower than the rest and were padded with white."),
        (True, f"Short trainings: GAN {run.experiment.gan.steps:,} steps; classifiers {_epochs(run)}."),
        (True, _kid(run)),
        (_layout_limit(run), _layout_limit(run)),
        (_unmoved(run), _unmoved(run)),
        (unlabelled, f"Unlisted patients: {unlabelled} were trained on their images, not their labels."),
        (not run.patient_images, "No images of patients' tissue: synthetic patches are shown instead."),
    ]  # fmt: skip
    return [text for applies, text in alert_texts if applies]


def _kid(run: Run) -> str:
    """Whether a network tells the synthetic patches from real ones better than patients from each other."""
    measures = {"kid": "a network trained on such patches", "kid_efficientnet_lite2": "EfficientNet-Lite2 on ImageNet"}
    sentences = [
        f"{measure} {'distinguishes' if kid['value'] > kid['floor'] else 'does not distinguish'} them from real ones "
        f"(KID {kid['value']:.3f}, between real patients {kid['floor']:.3f})"
        for name, measure in measures.items()
        if (kid := run.gan_scores[name])["value"] is not None
    ]
    return (
        f"Synthetic patches: {'; '.join(sentences)}. An expert may."
        if sentences
        else "The synthetic patches were not scored."
    )


def _layout_limit(run: Run) -> str:
    """What the collapse of layouts looks like: patches of a class that are dark and bright at the same places."""
    layouts = run.layout_sameness()
    if max(np.subtract(layouts["synthetic"], layouts["real"])) < ALIKE:
        return ""
    synthetic, real = (
        f"{benign:.2f} (benign) and {malignant:.2f} (malignant)" for benign, malignant in layouts.values()
    )
    return (
        f"The generator has few layouts: brightness on a 5x5 grid correlates by {synthetic} between two synthetic "
        f"patches, by {real} between two real ones."
    )


def _unmoved(run: Run) -> str:
    flips = [
        by_class["flip_rate"]["value"] or 0.0 for by_class in (run.translations or {"classes": {}})["classes"].values()
    ]
    if not flips or max(flips) >= UNMOVED:
        return ""
    shares = " and ".join(f"{share:.1%}" for share in flips)
    return f"The translations between the classes change almost nothing: {shares} of them are called the other class."


def limits(run: Run) -> list[str]:
    """Return what the report does not show."""
    sentences = [
        "No diagnosis: a patch is classified without its slide, and there is no comparison with pathologists.",
        "One data set: other laboratories, scanners and stains were not tested.",
        run.part(),
        "" if run.phantom else "Labels are used as they are; their errors affect every result.",
        "Calibration was fitted on validation patients and may not hold for others.",
    ]
    return [text for text in sentences if text]


def provenance(run: Run) -> dict[str, str]:
    """Return code, machine, versions, seeds, seconds and data of the run."""
    experiment, manifest = run.experiment, run.manifests["classify"]
    other_commits = "".join(
        f"; {name} by {stage['commit'] or 'unknown'}, {stage['finished'][:10]}"
        for name, stage in run.manifests.items()
        if stage["commit"] != manifest["commit"]
    )
    environment, seeds = manifest["environment"], ", ".join(map(str, experiment.classify.seeds))
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
        "Seconds": ", ".join(f"{name} {stage['seconds']:.0f}" for name, stage in run.manifests.items()),
        "Split": f"SHA-256 {run.split['sha256']}",
        "Data": f"SHA-256 {run.data_sha256()} of the sorted hashes of the patches' pixels",
    }  # fmt: skip


def _epochs(run: Run) -> str:
    epochs = {name: run.experiment.classify.models[name].epochs for name in run.trained}
    return ", ".join(f"{CLASSIFIER_NAMES[name]} {number}" for name, number in epochs.items()) + " epochs"


def _picture(out: Path, name: str) -> str:
    picture = cv2.imread(str(out / "figures" / f"{name}.png"))
    data = cv2.imencode(".webp", picture, (cv2.IMWRITE_WEBP_QUALITY, QUALITY))[1]
    return f"data:image/webp;base64,{base64.b64encode(data.tobytes()).decode()}"


def as_html(table: pd.DataFrame) -> str:
    """A table with its intervals kept in one piece."""
    text = table.to_html(index=False, border=0, na_rep="", classes="numbers")
    return INTERVAL.sub(r"\1 (\2&nbsp;to&nbsp;\3)", text)


def as_markdown(table: pd.DataFrame) -> str:
    """A table in pipes."""
    rows = [
        table.columns,
        ["---"] * len(table.columns),
        *table.astype(object).where(table.notna(), "").to_numpy(),
    ]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)
