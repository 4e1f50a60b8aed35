"""The stage `report`: figures, tables, report.html, report.md and results.json from a finished run's files."""

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape

from bcgan import progress, runs
from bcgan.errors import InputError
from bcgan.evaluate import images as by_image
from bcgan.evaluate import patients as by_patient
from bcgan.experiment import Experiment
from bcgan.gan.features import COMPARED_BLOCK
from bcgan.release import tables as release_tables
from bcgan.release.tables import as_markdown
from bcgan.report import (
    architecture_figures,
    cards,
    class_curves,
    classifier_curves,
    classifier_figures,
    data_figures,
    embedding_figure,
    explanation_figures,
    gan_effect_figures,
    gan_figures,
    gan_tables,
    inline_svg,
    overview_figures,
    page_data,
    patient_figures,
    slide_figures,
    stage_tables,
    style,
    synthesis_figures,
    tables,
)
from bcgan.report.page_context import template_context
from bcgan.report.results import collect_results
from bcgan.report.run import Run
from bcgan.report.run_files import read
from bcgan.report.style import ROLE_NAMES

FIGURES = {
    "overview": {
        "forest": overview_figures.forest,
        "slide_overview": slide_figures.overview,
        "patient_flow": overview_figures.patient_flow,
    },
    "compare": {"comparisons": classifier_figures.comparisons},
    "threshold": {
        "confusion_matrix": classifier_figures.confusion,
        "roc": classifier_curves.roc,
        "precision_recall": classifier_curves.precision_recall,
        "decision_curve": classifier_curves.decision_curve,
        "reliability": classifier_curves.reliability,
    },
    "slides": {"slide_maps": slide_figures.slide_maps},
    "patients": {
        "per_patient": patient_figures.per_patient,
        "patient_shares": patient_figures.patient_shares,
        "error_gallery": explanation_figures.error_gallery,
    },
    "gan_effect": {
        "learning_curve": gan_effect_figures.learning_curve,
        "probes": gan_effect_figures.probes,
    },
    "gan": {
        "gan_samples": gan_figures.samples,
        "attribute_sweep": synthesis_figures.attribute_sweep,
        "steering": synthesis_figures.steering,
        "translations": synthesis_figures.translations,
        "counterfactuals": synthesis_figures.counterfactuals,
    },
    "data": {
        "fig07_count_plot": data_figures.count_plot,
        "fig01_examples": data_figures.examples,
        "patient_balance": data_figures.patient_balance,
        "fig08_image_properties": data_figures.image_properties,
        "fig09_density": data_figures.density,
        "stain_variation": data_figures.stain_variation,
        "faults": data_figures.faults,
    },
    "networks": {
        "fig03_system_architecture": architecture_figures.system,
        "fig04_gan": architecture_figures.gan,
        "fig05_resnet_features": architecture_figures.resnet,
        "fig06_integration": architecture_figures.integration,
    },
    "training": {
        "fig10_accuracy_loss": classifier_figures.accuracy_loss,
        "fig11_convergence": gan_figures.convergence,
        "ablation": classifier_figures.ablation,
        "gan_evolution": gan_figures.evolution,
        "latent_walk": synthesis_figures.latent_walk,
        "gan_scores": gan_figures.scores,
        "nearest": gan_figures.nearest,
        "repetition": gan_figures.repetition,
        "embedding": embedding_figure.embedding,
    },
    "explanations": {
        "explanations": explanation_figures.explanations,
        "explanation_tests": explanation_figures.tests,
        "feature_maps": explanation_figures.feature_maps,
    },
}
# Figures of FIGURES that are drawn otherwise with more than two classes.
MULTICLASS_FIGURES = {
    "roc": class_curves.roc,
    "precision_recall": class_curves.precision_recall,
    "reliability": class_curves.reliability,
    "explanations": explanation_figures.explanations_by_class,
}
INTERVAL = re.compile(r"(-?[\d.]+) \((-?[\d.]+) to (-?[\d.]+)\)")  # kept on one line
MIN_CSS_PX_PER_INCH = 68  # of a figure's width: below it, text is illegible; narrow screens scroll the figure instead
NARROW_FIGURE_PX = 640  # two figures up to this width stand side by side on a wide screen
HEAT_MAPS = {"confusion_matrix", "per_patient"}  # whose colors are values; on the dark page their ground stays white
NETWORK_DRAWINGS = {"fig03_system_architecture", "fig04_gan", "fig05_resnet_features", "fig06_integration"}
DRAWN_INTO = ("roc", "precision_recall", "decision_curve")  # by the page's script
PAPER_NOTES = "../../docs/explanation/paper.md"  # from reports/<experiment>


def render(
    experiment: Experiment, root: Path, target: Path, patient_images: bool, changed: list[str] | None = None
) -> Path:
    """Write the report of a run.

    Args:
        root: The finished run, runs/<experiment>.
        target: Folder to write; an earlier report there is replaced once this one is complete.
        patient_images: Whether to show pictures of patients' tissue. Phantom tissue is always shown.
        changed: Settings, as key=value, in which the run differs from its YAML file.

    Returns:
        Path of report.html.

    Raises:
        InputError: If the folder contains other files than a report's.
    """
    if target.exists() and any(target.iterdir()) and not (target / "results.json").exists():
        raise InputError(f"{target} contains files of something else. Choose an empty folder with --out.")
    out = target.with_name(f"{target.name}.part")
    shutil.rmtree(out, ignore_errors=True)
    (out / "tables").mkdir(parents=True)
    run = read(experiment, root, patient_images or experiment.data.name == "histology_phantom")
    sections, frames = _draw_figures(run, out)
    summary_tables, totals = _make_tables(run)
    for name, table in summary_tables.items():
        table.to_csv(out / "tables" / f"{name}.csv", index=False)
    runs.write_json(out / "results.json", collect_results(run, totals))
    context = template_context(run, sections, summary_tables, totals, changed or [])
    has_notes = (target / PAPER_NOTES).resolve().exists()  # resolved, as the target may not exist yet
    context["paper"] = PAPER_NOTES if has_notes else ""
    context["page_data"] = page_data.page_data(run, frames)
    context["downloads"] = page_data.downloads(run, out)
    pages = load_templates()
    for name in ("report.html", "report.md"):
        (out / name).write_text(pages.get_template(name).render(context), "utf-8")
    shutil.rmtree(target, ignore_errors=True)
    out.rename(target)
    return target / "report.html"


def _draw_figures(run: Run, out: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, style.Frame]]:
    """Draw and save the figures.

    Returns:
        For each section a list of dicts, as the templates read them: name, title, caption, and those of
        `_inline_figure`. And where the axes of the figures DRAWN_INTO lie, by name.
    """
    figures_by_section = _select_figures(run)
    sections: dict[str, list[dict[str, Any]]] = {}
    frames = {}
    with progress.bar(sum(map(len, figures_by_section.values())), "report", "figure") as bar:
        for section, figures in figures_by_section.items():
            sections[section] = []
            for name, draw in figures.items():
                drawn = draw(run)
                saved = style.save(drawn, out, name)
                frames |= {name: saved} if name in DRAWN_INTO else {}
                protocol = "" if section == "networks" else f" Protocol: {run.protocol_text()}."
                item = {"name": name, "title": drawn.title, "caption": drawn.caption + protocol}
                sections[section].append(item | _inline_figure(out, name, drawn))
                bar.update()
    return sections, frames


def _inline_figure(out: Path, name: str, drawn: style.ReportFigure) -> dict[str, Any]:
    """Return a saved figure as the page shows it.

    Returns:
        {svg, width_px, is_picture, is_narrow, min_width_px}. Widths are CSS pixels; a picture keeps its white ground on
        the dark page.
    """
    svg = (out / "figures" / f"{name}.svg").read_text("utf-8")
    keeps_colors = name in HEAT_MAPS | NETWORK_DRAWINGS
    inline = inline_svg.inline(svg, name, drawn.title, keeps_colors)
    min_width_px = round(MIN_CSS_PX_PER_INCH * drawn.figure.get_figwidth())
    return inline._asdict() | {"is_narrow": inline.width_px <= NARROW_FIGURE_PX, "min_width_px": min_width_px}


def load_templates() -> Environment:
    """Return the environment of the page templates, with the filters `html` and `markdown` for tables."""
    options = {"autoescape": select_autoescape(["html"]), "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("bcgan.report"), **options)
    environment.filters |= {"html": as_html, "markdown": as_markdown, "anchor": anchor}
    return environment


def _select_figures(run: Run) -> dict[str, dict]:
    """Return {section: {name: function that draws}}: FIGURES as this run has them.

    Figures without measurements in the run are left out. With more than two classes, some are drawn by other functions.
    """
    has_features = COMPARED_BLOCK in run.synthetic
    measured = {
        "decision_curve": not run.is_multiclass,  # is defined for two classes only
        **dict.fromkeys(("translations", "counterfactuals"), run.translations),
        "probes": run.probes,
        "learning_curve": run.learning_curve,
        **dict.fromkeys(("explanations", "explanation_tests"), run.explanations),
        "feature_maps": any("_features_" in name for name in run.explained_patches),
        "error_gallery": run.patient_images,
        **dict.fromkeys(("stain_variation", "patient_balance", "per_patient", "patient_shares"), run.has_patient_names),
        **dict.fromkeys(("embedding", "nearest"), has_features),
        "repetition": has_features and gan_figures.can_measure_repetition(run),
        "ablation": run.ablation,
        "comparisons": run.comparisons,
        **dict.fromkeys(("slide_maps", "slide_overview"), slide_figures.select_slides(run)),
        "faults": data_figures.faulty_patches(run),
    }
    replacements = MULTICLASS_FIGURES if run.is_multiclass else {}
    return {
        section: {name: replacements.get(name, draw) for name, draw in figures.items() if measured.get(name, True)}
        for section, figures in FIGURES.items()
    }


def _make_tables(run: Run) -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
    """Return the tables that belong to no figure, by name, and the totals of the paper's Table 1."""
    table1, totals = tables.table1_summary()
    roles = [role for role in ROLE_NAMES if role in run.split["counts"] and role != "train"]
    summary_tables = {
        "table1_resnet_summary": table1,
        "table2_comparison": tables.table2_comparison(run),
        "counts": tables.counts(run),
        "audit": tables.audit(run),
        "leak_audit": tables.leaks(run),
        "gan_scores_summary": gan_tables.gan_scores(run),
        "quality_filter": gan_tables.quality_filter(run),
        "comparisons_summary": tables.comparisons(run),
        "split_optimism": stage_tables.split_optimism(run),
        "calibration": tables.results(run, "test", tables.CALIBRATION_METRICS),
        "patients": tables.results(run, "test", by_patient.NAMES),
        "largest_errors": tables.largest_errors(run),
        "model_card": cards.model_card(run),
        "data_card": cards.data_card(run),
        "claim": cards.claim(run),
        "times": stage_tables.times(run),
    }
    first, *other_names = run.classifier_names
    release = run.release_audit
    # A table of what the run does not have is left out, and so is an empty one.
    optional = {
        "borders": run.metrics[first]["borders"] and tables.borders(run),
        "images": run.experiment.data.results_by_image and tables.results(run, "test", by_image.NAMES),
        "per_class": run.is_multiclass and tables.per_class(run, [first]),
        "per_class_others": run.is_multiclass and tables.per_class(run, other_names),
        "operating_points": not run.is_multiclass and tables.operating_points(run),
        "slides": tables.slides(run),
        "components": tables.components(run),
        "sources": tables.sources(run),
        "cross_validation": run.cross_validation and stage_tables.cross_validation(run),
        "tuning_summary": run.tuning and stage_tables.tuning(run),
        "ablation_summary": run.ablation and stage_tables.ablation(run),
        "selected_variant": run.ablation and stage_tables.selected_variant(run),
        "learning_curve_summary": run.learning_curve and stage_tables.learning_curve(run),
        "release_privacy": release and release_tables.privacy(release),
        "release_utility": release and release["utility"] and release_tables.utility(release),
        "release_tuning": release and release["utility"] and release_tables.tuning(release),
    }
    summary_tables |= {
        name: table for name, table in optional.items() if isinstance(table, pd.DataFrame) and len(table)
    }
    return summary_tables | {f"results_{role}": tables.results(run, role) for role in roles}, totals


def anchor(text: str) -> str:
    """Return a heading as an identifier for links, such as `largest-errors`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def as_html(table: pd.DataFrame) -> str:
    """Return a table as HTML, with no line breaks within intervals such as `0.9 (0.8 to 1.0)`."""
    text = table.to_html(index=False, border=0, na_rep="", classes="numbers")
    return INTERVAL.sub(r"\1 (\2&nbsp;to&nbsp;\3)", text)
