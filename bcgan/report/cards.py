"""The model card, the data card and the CLAIM checklist, filled from the run; unknown facts are stated as such."""

import numpy as np
import pandas as pd

from bcgan.classes import capitalize, class_noun
from bcgan.classifiers import CLASSIFIERS, with_simclr
from bcgan.data import microns_per_pixel
from bcgan.evaluate.intervals import format_estimate
from bcgan.report import slide_figures
from bcgan.report.gan_tables import trained_on_rejected
from bcgan.report.run import Run
from bcgan.report.style import CLASSIFIER_NAMES, METRIC_NAMES, ROLE_NAMES
from bcgan.report.wording import join_words, percent
from bcgan.settings import Classify

UNKNOWN = "Unknown"
NO_PATIENTS = "Unknown: the data name no patient, every patch stands for itself"
# As stated by each data set's authors.
DATA_SETS = {
    "histology_phantom": {
        "Source": "Procedural tissue drawn by bcgan; no patients, no images taken from anywhere",
        "Licence": "That of bcgan",
        "Reference standard": "Exact: the patches were drawn as {classes}",
        "Annotators": "None needed",
        "Demographics": "None: there are no patients",
        "Ethics and de-identification": "No data of persons",
    },
    "idc": {
        "Source": "Breast Histopathology Images; Janowczyk and Madabhushi 2016, Cruz-Roa et al. 2014 "
        "(doi:10.1117/12.2043872)",
        "Licence": "Commonly listed as CC0 by those who distribute it",
        "Scale": "50x50 pixels at about 4 microns per pixel, from slides scanned at 40x",
        "Reference standard": "Regions of invasive ductal carcinoma outlined by hand on the slide; a patch takes its "
        "label from them",
        "Annotators": "An expert pathologist; how often two would agree is unknown",
        "Demographics": UNKNOWN,
        "Ethics and de-identification": "Slides carry numbers instead of names; ethics approval: unknown here",
        "Patients": "the archive has 279 ids, where its papers speak of 162 slides of as many patients. Two ids may be "
        "of one person; a split by ids cannot exclude that such a person is on both of its sides",
    },
    "tiles": {
        "Source": "Slides of this experiment's author, cut by bcgan tile",
        "Reference standard": "Polygons drawn on the slides; a patch takes its label from them",
    },
    "breakhis": {
        "Source": "BreaKHis; Spanhol et al. 2016 (doi:10.1109/TBME.2015.2496264)",
        "Licence": UNKNOWN,
        "Scale": "Images of 700x460 pixels at {magnification}",
        "Reference standard": "Diagnosis of the slide by pathologists, with immunohistochemistry where needed",
        "Annotators": "Pathologists of one laboratory; agreement unknown",
        "Demographics": UNKNOWN,
        "Ethics and de-identification": "Anonymised by its authors",
    },
    "patch_camelyon": {
        "Source": "PatchCamelyon; Veeling et al. 2018, from Camelyon16, by tensorflow-datasets",
        "Licence": "CC0",
        "Scale": "96x96 pixels at about 0.97 microns per pixel",
        "Reference standard": "Tumour tissue in the centre of the patch, from outlines checked by pathologists",
        "Annotators": "Camelyon16's; agreement unknown",
        "Demographics": UNKNOWN,
        "Ethics and de-identification": "Anonymised by its authors",
    },
}  # fmt: skip
FACTS = ("Source", "Licence", "Scale", "Reference standard", "Annotators", "Demographics",
         "Ethics and de-identification")  # fmt: skip
EXPLANATIONS = {"grad_cam": "Grad-CAM", "integrated_gradients": "integrated gradients", "occlusion": "occlusion"}
METRICS = ("roc_auc", "balanced_accuracy", "sensitivity", "specificity", "f1", "ece_calibrated")


def data_card(run: Run) -> pd.DataFrame:
    """Return the data card, columns Data and Answer: source, preparation, split and patients of the patches."""
    facts = _data_facts(run)
    return _make_card("Data", {
        **{name: facts[name] for name in FACTS[:4]},
        "Patches": f"{run.audit['patches']:,} found, {run.audit['kept']:,} kept; {_classes_text(run)}",
        **({"Completeness": run.subset_note()} if run.subset_note() else {}),
        "Patients": _patients_text(run, facts.get("Patients", "")),
        "Split": f"{run.protocol_text()}; {_roles_text(run)}",
        "Faults found": _faults_text(run),
        "What was unknown": f"{run.audit['imputed']['places']:,} patches without a place in their slide; rule: "
                            f"{run.audit['imputed']['rule']}",
        "Preparation": _preparation_text(run),
        **{name: facts[name] for name in FACTS[4:]},
    })  # fmt: skip


def _patients_text(run: Run, note: str) -> str:
    """Return the number of patients, and `note`, what the data set's authors say of them."""
    if not run.has_patient_names:
        return NO_PATIENTS
    count = f"{run.store.index['patient'].nunique():,}"
    return f"{count}; {note}" if note else count


def model_card(run: Run) -> pd.DataFrame:
    """Return the model card of the proposed classifier, columns Model and Answer: use, training, metrics, failures."""
    name = run.classifier_names[0]
    settings = run.experiment.classify
    sets = run.metrics[name]["sets"]
    if run.is_multiclass:
        output, chosen_call = "a probability of each class", "the most probable class is called"
    else:
        output = f"a probability of {class_noun(run.class_names[1])}"
        chosen_call = f"thresholds {', '.join(f'{value:.3f}' for value in run.metrics[name]['thresholds'].values())}"
    return _make_card("Model", {
        "Name": f"{CLASSIFIER_NAMES[name]}, {run.seeds_text(name)}",
        "Task": f"One patch of {settings.crop_size or run.experiment.data.size} pixels to {output}",
        "Intended use": "Research. Not for diagnosis, nor for any decision about a patient",
        "Trained on": run.role_summary("train"),
        "Training": _training_text(settings, name) + (
            "; the quality filter was not used, rejected patches too" if name in trained_on_rejected(run) else ""
        ),
        "Chosen by": f"Validation ROC AUC ({run.role_summary('validation')}); {chosen_call}",
        **{f"{METRIC_NAMES[metric]}, test patients": format_estimate(sets["test"][metric]) for metric in METRICS},
        "Other patients": "; ".join(
            f"{ROLE_NAMES[role]}: ROC AUC {format_estimate(sets[role]['roc_auc'])}" for role in sets
            if role not in ("train", "validation", "test")
        ) or "None were scored",
        "Where it fails": _patient_accuracy_text(run, name) if run.has_patient_names else UNKNOWN,
        "Fairness": f"{UNKNOWN}: the data name neither age nor origin",
        "Leak audit": "passed" if run.leak_audit["passed"] else "FAILED",
    })  # fmt: skip


def _training_text(settings: Classify, name: str) -> str:
    """Return for the model card how a classifier was trained."""
    model = settings.models[name]
    balance = f"; patients are drawn n^-{settings.patient_balance:g} times as often" if settings.patient_balance else ""
    if CLASSIFIERS[name].is_frozen:
        return (
            f"Logistic regression on frozen features of {model.epochs} augmented passes, penalty by validation ROC AUC"
            + balance
        )
    return (
        f"{model.epochs} epochs, batches of {settings.batch_size}, {settings.optimizer} at {model.learning_rate:g}, "
        f"loss {settings.loss.replace('_', ' ')}; {percent(model.synthetic_fraction)} of each batch synthetic"
        + ("; the head reads several depths, and starts from a logistic regression" if model.multi_depth else "")
        + balance
    )


def claim(run: Run) -> pd.DataFrame:
    """Return the Checklist for Artificial Intelligence in Medical Imaging (CLAIM, Mongan et al. 2020), filled in.

    The columns are No., CLAIM item and Answer.
    """
    facts = _data_facts(run)
    evaluate, data = run.experiment.evaluate, run.experiment.data
    packages = ", ".join(
        f"{name} {version}" for name, version in run.manifests["classify"]["environment"]["packages"].items()
    )
    other_roles = [ROLE_NAMES[role] for role in run.split["counts"] if role not in ("train", "validation", "test")]
    explained = ", ".join(EXPLANATIONS[name] for name in EXPLANATIONS if name in (run.explanations or {}))
    subset = ""
    if data.subsample_fraction:
        subset = f", {percent(data.subsample_fraction)} of each patient's patches of each class"
    elif data.max_patches_per_class:
        subset = f", at most {data.max_patches_per_class} of each patient and class"
    macro = (
        "; means over the classes, each against the rest; balanced accuracy is the mean sensitivity"
        if run.is_multiclass
        else ""
    )
    chosen_neither = "neither epochs nor thresholds" if not run.is_multiclass else "no epochs"
    items = (
        ("AI methodology named in the title", "Yes: GAN and ResNet"),
        ("Structured summary", "The first screen of this report"),
        ("Background and intended role", "Research: does a GAN help a patch classifier? No clinical role"),
        ("Objectives and hypotheses", "The paper's: a GAN's features and patches raise accuracy"),
        ("Prospective or retrospective", "Retrospective"),
        ("Study goal", "Reproduction and exploratory evaluation"),
        ("Data sources", facts["Source"]),
        ("Eligibility criteria", f"Every patch of {_sources_text(run)} that passes the audit: {_faults_text(run)}"),
        ("Preprocessing", _preparation_text(run)),
        ("Selection of subsets", f"{run.audit['kept']:,} of {run.audit['patches']:,} patches{subset}"),
        ("Data elements", f"Patch, patient, place in the slide where known, label {_labels_text(run)}"),
        ("De-identification", facts["Ethics and de-identification"]),
        ("Missing data", run.audit["imputed"]["rule"]),
        ("Reference standard", facts["Reference standard"]),
        ("Why this standard", "It is the only one that the data carry"),
        ("Annotators", facts["Annotators"]),
        ("Annotation tools", UNKNOWN),
        ("Variability between raters", UNKNOWN),
        ("Sample size", ("As many patients as are drawn" if run.is_phantom else "As many patients as the data hold")
                        + "; not planned by a power calculation"),
        ("Assignment to partitions", f"{run.protocol_text()}; {_roles_text(run)}"),
        ("Level at which partitions are disjoint", "Patient; checked by the leak audit" if run.has_patient_names
                                                   else NO_PATIENTS),
        ("Model", "Figs. 3 to 6 and Table 1 in this report; every layer in reports/tables"),
        ("Software", packages),
        ("Initial weights", "; ".join(["Keras's", "a run's own GAN for its discriminator", *_pretraining_texts(run)])),
        ("Training", "The model card and results.json; settings in the YAML file of the experiment"),
        ("Choice of the final model", f"Epoch by validation ROC AUC; test patients chose {chosen_neither}"),
        ("Ensembles", f"Mean of {' and '.join(CLASSIFIER_NAMES[name] for name in evaluate.ensemble_models)}"
                      if evaluate.ensemble_models else "None"),
        ("Metrics", ", ".join(_measured_metrics(run)) + macro),
        ("Uncertainty", capitalize(run.interval_text()) +
                        (f", {evaluate.bootstrap_samples:,} resamples" if run.has_intervals else "") +
                        f"; {run.seeds_text()}"),
        ("Robustness", "Ablation" if run.ablation else f"Spread over {run.seeds_text()}; no ablation in this run"),
        ("Explainability", f"{explained}, with tests" if explained else "Not in this run"),
        ("External test data", f"None of another institution; beside the test patients: {', '.join(other_roles)}"
                               if other_roles
                               else "None"),
        ("Flow of cases", f"{run.audit['patches']:,} patches found, {run.audit['kept']:,} kept; {_roles_text(run)}"),
        ("Demographics of each partition", facts["Demographics"]),
        ("Performance on all partitions", "In this report: Results"),
        ("Diagnostic accuracy and its precision", "In this report: Results, with intervals"),
        ("Failure analysis", "In this report: the largest errors, patient by patient"
                             + (", slide maps" if slide_figures.select_slides(run) else "")),
        ("Limitations", "In this report: What this does not show"),
        ("Implications for practice", "None: research use only"),
        ("Registration", "None"),
        ("Full protocol", f"pipelines/{run.experiment.name}.yaml, the README and docs/explanation/paper.md"),
        ("Funding", UNKNOWN),
    )  # fmt: skip
    rows = [(index, item, answer) for index, (item, answer) in enumerate(items, 1)]
    return pd.DataFrame(rows, columns=["No.", "CLAIM item", "Answer"])


def _measured_metrics(run: Run) -> list[str]:
    """Return the titles of the metrics that any classifier has on the test patients."""
    scores = [run.metrics[name]["sets"]["test"] for name in run.classifier_names]
    return [
        title for metric, title in run.metric_names.items()
        if any(by_metric.get(metric, {}).get("value") is not None for by_metric in scores)
    ]  # fmt: skip


def _make_card(title: str, answers: dict[str, str]) -> pd.DataFrame:
    """Return a table of the columns `title`, with the questions, and Answer."""
    return pd.DataFrame(answers.items(), columns=[title, "Answer"])


def _data_facts(run: Run) -> dict[str, str]:
    """Return FACTS as the data set's authors state them; the scale is also that of the settings, and of patches."""
    facts, settings = dict.fromkeys(FACTS, UNKNOWN) | DATA_SETS.get(run.data_source, {}), run.experiment.data
    if run.data_source in ("histology_phantom", "tiles"):
        facts["Scale"] = f"{settings.size}x{settings.size} pixels of {microns_per_pixel(settings):g} microns"
    elif run.data_source == "patient_folder" and settings.mpp:
        facts["Scale"] = f"images of {settings.mpp:g} microns per pixel, as the settings say"
    elif run.data_source == "breakhis":
        magnification = f"{settings.magnification}x" if settings.magnification else "40x, 100x, 200x or 400x"
        facts["Scale"] = facts["Scale"].format(magnification=magnification)
    if settings.tile:
        scale = f"at {settings.tile.mpp:g} microns per pixel" if settings.tile.mpp else "at the scale of the images"
        facts["Scale"] += f"; cut into patches of {settings.size}x{settings.size} pixels {scale}"
    elif run.data_source == "breakhis":
        facts["Scale"] += "; their central square"
    facts["Reference standard"] = facts["Reference standard"].format(classes=join_words(run.class_texts, "or"))
    return facts


def _classes_text(run: Run) -> str:
    """Return as text the number and share of patches of the second of two classes, or of each of more."""
    counts = np.bincount(run.store.index["label"], minlength=len(run.class_names))
    return ", ".join(
        f"{counts[label]:,} {run.class_texts[label]} ({counts[label] / counts.sum():.1%})"
        for label in run.contrasted_labels
    )


def _labels_text(run: Run) -> str:
    """Return the labels with the names of their classes, such as `0 benign and 1 malignant`."""
    return join_words([f"{label} {text}" for label, text in enumerate(run.class_texts)])


def _pretraining_texts(run: Run) -> list[str]:
    """Return phrases on weights from ImageNet and from SimCLR that trainings started from; none if neither was used."""
    pretrained = [name for name in run.trained_names if CLASSIFIERS[name].pretraining != "none"]
    names = [CLASSIFIER_NAMES[name].removesuffix(" (ImageNet)") for name in pretrained]
    names += ["the GAN's projected discriminator"] if run.experiment.gan.projected_discriminator_weight else []
    names += [
        f"the layers whose maps join {CLASSIFIER_NAMES[name]}"
        for name, model in run.experiment.classify.models.items()
        if model.extra_features in ("imagenet", "simclr")
    ]
    sentences = [f"ImageNet's for {' and '.join(names)}"] if names else []
    with_self_supervision = with_simclr(run.experiment.all_models)
    if run.pretraining_patients and with_self_supervision:
        count = (
            f"{run.pretraining_patients['patches']:,} patches of {len(run.pretraining_patients['patients'])} patients"
        )
        self_supervised = join_words([
            CLASSIFIER_NAMES[name] if CLASSIFIERS[name].pretraining == "simclr"
            else f"the layers whose maps join {CLASSIFIER_NAMES[name]}"
            for name in with_self_supervision
        ])  # fmt: skip
        sentences.append(f"then, for {self_supervised}, what self-supervision on {count} left")
    return sentences


def _roles_text(run: Run) -> str:
    """Return the numbers of patients and patches of every role (training, validation, test and others)."""
    counts = run.split["counts"]
    return "; ".join(
        f"{ROLE_NAMES[role]} {counts[role]['patients']} patients, {counts[role]['patches']:,} patches"
        for role in ROLE_NAMES
        if role in counts
    )


def _sources_text(run: Run) -> str:
    """Return the folders or archives that were read, and which of them held-out patients are scored on."""
    names, eval_sources = ", ".join(sorted(run.store.index["source"].unique())), run.experiment.data.eval_sources
    scored_on = f" (held-out patients are scored on {eval_sources}, other sources apart)" if eval_sources else ""
    return f"the given sources, {names}{scored_on},"


def _faults_text(run: Run) -> str:
    """Return the faults that the audit of the data found, with numbers of files and what was done with them."""
    faults = {name: fault for name, fault in run.audit["faults"].items() if fault["count"]}
    descriptions = (
        f"{fault['count']:,} {name.replace('_', ' ')} ({fault['policy']})" for name, fault in faults.items()
    )
    return ", ".join(descriptions) or "no fault found"


def _preparation_text(run: Run) -> str:
    """Return the size of the patches and the steps of their preparation."""
    settings = run.experiment.preprocess
    return (
        f"{run.experiment.data.size}x{run.experiment.data.size} pixels, smoothing {settings.blur}, CLAHE "
        f"{'on' if settings.clahe else 'off'}, stain normalisation {settings.stain_normalization}"
    )


def _patient_accuracy_text(run: Run, name: str) -> str:
    """Return a sentence with the lowest accuracy on one test patient, the patient, and the highest accuracy."""
    accuracy = run.patient_accuracies(name)
    return (
        f"Accuracy on single test patients: {accuracy.min():.3f} (patient {accuracy.idxmin()}) to {accuracy.max():.3f}"
    )
