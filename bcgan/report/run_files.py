"""Read the files of a finished run for the report."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcgan import __version__, ledger, progress, runs
from bcgan.artifacts import DEFINITIONS, MANIFEST, PARTIAL, list_outputs
from bcgan.classify.pretraining import PATIENTS
from bcgan.evaluate import score, tuning
from bcgan.experiment import Experiment
from bcgan.gan.features import COMPARED_BLOCK
from bcgan.preprocess import store
from bcgan.release import release
from bcgan.report.run import Run


def read(experiment: Experiment, root: Path, patient_images: bool) -> Run:
    """Read the files of a finished run.

    Args:
        experiment: With the settings that the run was made with.
        root: The run's folder.
        patient_images: Whether pictures of patients' tissue may be shown.
    """
    evaluate, features, preprocess = root / "evaluate", root / "features", root / "preprocess"
    probabilities, measured = score.load(evaluate)
    return Run(
        experiment=experiment,
        store=store.load(preprocess),
        split=runs.read_json(preprocess / "split.json"),
        audit=runs.read_json(preprocess / "audit.json"),
        faulty_files=pd.read_csv(preprocess / "audit.csv", dtype=str, keep_default_na=False)[["id", "faults"]],
        properties=_read_properties(features / "properties.csv", experiment.data.class_names),
        pooled_features=runs.read_arrays(features / "pooled.npz")[COMPARED_BLOCK],
        synthetic=runs.read_arrays(features / "synthetic.npz"),
        synthetic_properties=pd.read_csv(features / "synthetic_properties.csv"),
        sample_grids=sorted((root / "gan" / "grids").glob("*.png")),
        gan_log=pd.DataFrame(progress.read_jsonl(root / "gan" / "log.jsonl")),
        training_logs=_read_training_logs(experiment, root / "classify"),
        probabilities=probabilities,
        **measured,  # metrics, comparisons, split_optimism and leak_audit
        gan_scores=runs.read_json(evaluate / "gan_scores.json"),
        release_audit=_read_release_audit(root),
        steering=_read_steering(features / "steering.csv"),
        latent_walks=runs.read_arrays(features / "walks.npz"),
        probes=_read_json_if_present(evaluate / "probes.json"),
        explanations=_read_json_if_present(evaluate / "explanations.json"),
        explained_patches=_read_arrays_if_present(evaluate / "explanations.npz"),
        translations=_read_json_if_present(evaluate / "translations.json"),
        translated_patches=_read_arrays_if_present(evaluate / "translations.npz"),
        learning_curve=read_optional_stage(experiment, root, "learning_curve", "learning_curve.json"),
        tuning=tuning.read_results(root),
        ablation=read_optional_stage(experiment, root, "ablation", "ablation.json"),
        cross_validation=read_optional_stage(experiment, root, "cross_validation", "cross_validation.json"),
        pretraining_patients=_read_json_if_present(root / "pretrain" / PATIENTS),
        manifests=_read_manifests(root),
        times=ledger.read(root),
        patient_images=patient_images,
    )


def _read_json_if_present(path: Path) -> Any:
    """Read a JSON file; return `None` if there is none."""
    return runs.read_json(path) if path.exists() else None


def _read_arrays_if_present(path: Path) -> dict[str, np.ndarray]:
    """Read a .npz file; return no arrays if there is none."""
    return runs.read_arrays(path) if path.exists() else {}


def _read_properties(path: Path, class_names: tuple[str, ...]) -> pd.DataFrame:
    """Read the image properties of all patches of the store, and add the column class, the name of the class."""
    properties = pd.read_csv(path, dtype={"id": str, "patient": str}, keep_default_na=False)
    properties["class"] = np.array(class_names)[properties["label"]]
    return properties


def read_optional_stage(experiment: Experiment, root: Path, stage: str, file: str) -> Any:
    """Read the results of a stage that runs only with --until.

    Returns:
        The JSON file, or `None` if there is none, or it was made with other settings, from other files or by another
        version of bcgan.
    """
    path = root / stage / MANIFEST
    if not path.exists() or not path.with_name(file).exists():
        return None
    manifest = runs.read_json(path)
    current_digests = list_outputs(root, _read_manifests(root))
    same_settings = _is_subset(manifest["settings"], experiment.model_dump(mode="json"))
    same_version = (manifest["version"], manifest.get("definition")) == (__version__, DEFINITIONS[stage])
    if not same_version or not same_settings or not manifest["inputs"].items() <= current_digests.items():
        reason = "with other settings or from other files" if same_version else "by an earlier bcgan"
        progress.log.warning(
            "report: %s is left out: it was made %s. To make it: bcgan run %s --until %s",
            path.parent, reason, experiment.name, stage,
        )  # fmt: skip
        return None
    return runs.read_json(path.with_name(file))


def _read_release_audit(root: Path) -> dict[str, Any] | None:
    """Read the audit of the last `bcgan release`, without the name of the most exposed patient.

    `None` if there is none, or if it was made from other files or by another version.
    """
    path = root / release.FOLDER / release.AUDIT
    audit = _read_json_if_present(path)
    if audit is None:
        return None
    same_version = (audit.get("bcgan"), audit.get("definition")) == (__version__, DEFINITIONS["release"])
    if not same_version or audit["inputs"] != release.input_digests(root):
        progress.log.warning(
            "report: %s is left out: it was made from other files or by another version. Run bcgan release again.", path
        )
        return None
    return {key: value for key, value in audit.items() if key != "most_exposed_patient"}


def _read_manifests(root: Path) -> dict[str, Any]:
    """Return the manifest of each finished stage, by name."""
    paths = [path for path in root.glob(f"*/{MANIFEST}") if path.parent.suffix != PARTIAL]
    return {path.parent.name: runs.read_json(path) for path in paths}


def _is_subset(settings: Any, all_settings: Any) -> bool:
    """Return whether all of some nested settings have the same values in others, which may have more keys."""
    if isinstance(settings, dict) and isinstance(all_settings, dict):
        return all(key in all_settings and _is_subset(value, all_settings[key]) for key, value in settings.items())
    return settings == all_settings


def _read_training_logs(experiment: Experiment, folder: Path) -> pd.DataFrame:
    """Return the logs of all trainings as one table: classifier, seed, epoch and metrics; a row for each epoch.

    `folder` is that of the stage `classify`, with a log for each training.
    """
    lines = [
        {"classifier": name, "seed": seed, **line}
        for name, seed in experiment.classify.list_trainings()
        for line in progress.read_jsonl(folder / f"{name}-seed{seed}.jsonl")
    ]
    return pd.DataFrame(lines)


def _read_steering(path: Path) -> pd.DataFrame:
    """Read steering.csv; classes that look like numbers or missing values stay text."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers = ["asked", "measured", "unasked"]
    return table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in numbers})
