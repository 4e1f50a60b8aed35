"""Turn a finished run of two classes into one of more classes: the contents of its files, without training."""

import numpy as np
import pandas as pd

from bcgan.evaluate import derived, score
from bcgan.report.run import Run

CLASS_NAMES = ("benign", "in_situ", "malignant")


def with_classes(run: Run, class_names: tuple[str, ...] = CLASS_NAMES) -> Run:
    """Return the run with the patches of each patient labelled in turn, and with what follows from the labels."""
    rng, num_classes = np.random.default_rng(0), len(class_names)
    data = run.experiment.data.replace(classes=tuple((name, ()) for name in class_names))
    experiment = run.experiment.replace(data=data)
    index = run.store.index.assign(label=np.arange(len(run.store.index)) % num_classes)
    labels = dict(zip(index["id"], index["label"], strict=True))
    probabilities = _probabilities(run, labels, class_names, rng)
    counts = {
        role: {
            "patients": rows["patient"].nunique(), "patches": len(rows), "positives": int((rows["label"] > 0).sum()),
            "by_class": {name: int((rows["label"] == label).sum()) for label, name in enumerate(class_names)},
        }
        for role, rows in index.groupby("role")
    }  # fmt: skip
    synthetic_labels = np.arange(len(run.synthetic["labels"])) % num_classes
    changed = run._replace(
        experiment=experiment,
        store=run.store._replace(index=index),
        split=run.split | {"counts": counts},
        properties=run.properties.assign(label=index["label"], **{"class": np.array(class_names)[index["label"]]}),
        synthetic=run.synthetic | {"labels": synthetic_labels},
        synthetic_properties=run.synthetic_properties.assign(label=synthetic_labels),
        probabilities=probabilities,
        metrics=measure(experiment, probabilities),
        steering=pd.concat(
            run.steering[run.steering["class"] == "benign"].assign(**{"class": name}) for name in class_names
        ),
        latent_walks={
            name: np.stack([arrays[label % 2] for label in range(num_classes)])
            for name, arrays in run.latent_walks.items()
        },
    )
    return changed if num_classes == 2 else changed._replace(**_explained_and_translated(run, class_names))


def _probabilities(run: Run, labels: dict[str, int], class_names: tuple[str, ...], rng) -> pd.DataFrame:
    """Return the table of random probabilities, which are higher for the label."""
    table = run.probabilities[["id", "image", "source", "patient", "x", "y", "label", "role"]].copy()
    table["label"] = [labels[patch] for patch in table["id"]]
    for name, seeds in derived.seeds_by_classifier(run.probabilities).items():
        for seed in seeds:
            values = rng.random((len(table), len(class_names)))
            values[np.arange(len(table)), table["label"]] += 0.4
            values /= values.sum(1, keepdims=True)
            derived.set_probabilities(table, name, seed, values[:, 1] if len(class_names) == 2 else values, class_names)
    return table


def measure(experiment, probabilities: pd.DataFrame) -> dict[str, dict]:
    """Return the contents of metrics.json."""
    return {
        name: score._measure_classifier(experiment, probabilities, predictions)
        for name, predictions in score.calibrate_classifiers(probabilities).items()
    }


def _explained_and_translated(run: Run, class_names: tuple[str, ...]) -> dict:
    """Return the explanations and translations of a run, of more classes."""
    num_classes = len(class_names)
    pair = {"benign": class_names[0], "malignant": class_names[-1]}
    explained = {"labels": np.repeat(np.arange(num_classes), 2)}
    for name, values in run.explained_patches.items():
        if "_features_" in name:
            explained[name] = values[:, np.arange(num_classes) % 2]
        elif name != "labels":
            explained[name] = values[np.arange(2 * num_classes) % len(values)]
    translated = {
        f"{name.partition('_')[0]}_{pair[name.partition('_')[2]]}": values
        for name, values in run.translated_patches.items()
    }
    # Nuclei are known of two classes only.
    explanations = {
        key: {test: value[test] for test in ("deletion", "insertion")} if isinstance(value, dict) else value
        for key, value in run.explanations.items()
    } | {"class": class_names[-1]}
    classes = {pair[name]: estimates for name, estimates in run.translations["classes"].items()}
    return {
        "explained_patches": explained,
        "explanations": explanations,
        "translated_patches": translated,
        "translations": run.translations | {"classes": classes, "phantom_ground_truth": None},
    }
