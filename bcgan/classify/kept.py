"""Trained classifiers stay where settings change that are none of theirs: adding one trains that one alone."""

import shutil
from pathlib import Path

from bcgan import runs
from bcgan.experiment import TRAINING, Classifier, Experiment


def key(experiment: Experiment, name: str, seed: int, folder: Path) -> str:
    """What a training depends on, as one hash: its settings, the files that it reads, its teachers where it is taught.

    Args:
        folder: Path. The stage's, with the teachers.
    """
    classifier_settings, classify = experiment.classify.models[name], experiment.classify
    settings = experiment.model_dump(
        mode="json", include={*TRAINING, "classify"}, exclude={"classify": {"models", "seeds", "teachers"}}
    )
    inputs = read_by(name, classifier_settings, folder)
    teachers = [f"{teacher}-seed{number}.keras" for teacher in classify.teachers for number in classify.seeds]
    inputs |= {file: runs.hash_file(folder / file) for file in teachers if classifier_settings.taught}
    trial = {"name": name, "seed": seed, "own": classifier_settings.model_dump(mode="json")}
    return runs.key_of("training", settings | trial, inputs)


def read_by(name: str, classifier_settings: Classifier, folder: Path) -> dict[str, str]:
    """Of the inputs of the stage at work in `folder`, {file: hash}, those that the training of such a network reads."""
    read = {"preprocess"} | ({"gan"} if name.startswith("gan_") else set())
    read |= {"features"} if classifier_settings.meets_synthetic else set()
    read |= {"pretrain"} if name == "simclr" else set()
    inputs = runs.unfinished(folder, "inputs") or {}
    return {file: digest for file, digest in inputs.items() if file.split("/")[0] in read}


def mark(path: Path, key: str) -> None:
    """Say beside a trained network what it depended on."""
    runs.write_json(_key_file(path), {"key": key, "sha256": runs.hash_file(path), "commit": runs.commit()})


def take_over(path: Path, key: str) -> bool:
    """Whether the network at `path` was taken over from the stage's earlier outputs: one of the same key was there,
    and is as it was. A stage that is made afresh takes none."""
    before = runs.aside(path.parent) / path.name
    try:
        marked = runs.read_json(_key_file(before))
        same = marked["key"] == key and marked["sha256"] == runs.hash_file(before)
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same or runs.unfinished(path.parent, "afresh"):
        return False
    # The network last: it says that all is there.
    for file in (before.with_suffix(".jsonl"), _key_file(before), before):
        shutil.copy2(file, path.parent / file.name)
    return True


def _key_file(path: Path) -> Path:
    return path.with_suffix(".key.json")
