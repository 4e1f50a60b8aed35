"""`bcgan release`: generate a set of synthetic patches, audit it, and write it only if the audit passes.

runs/<experiment>/release/ has what is for the owner of the data alone: audit.json, which names the training patient
that stands out most, and pictures of the closest pairs of a synthetic and a training patch.
"""

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bcgan import __version__, machine, runs
from bcgan.artifacts import MANIFEST, Cache
from bcgan.classify.train import Patches
from bcgan.errors import InputError, WorkError
from bcgan.experiment import Experiment
from bcgan.predict import sample
from bcgan.predict.export import model_scale
from bcgan.preprocess import store
from bcgan.preprocess.images import encode_png
from bcgan.progress import log
from bcgan.release import dataset, privacy, synthesis, utility
from bcgan.release.attacks import Bootstrap

FOLDER = "release"  # in a run's folder
AUDIT = "audit.json"
NUM_PAIRS, PAIR_GAP = 16, 2  # closest pairs in a picture, and pixels between them
MIN_PATCHES = 100  # of each class: with fewer, quantiles of 1 % say nothing


class Request(NamedTuple):
    """What is to be released, and by whom."""

    number: int  # of patches
    license_name: str
    creator: str
    seed: int


def release(experiment: Experiment, root: Path, request: Request, out: Path) -> dict[str, Any]:
    """Write a data set of synthetic patches.

    Args:
        experiment: The run's settings; the stages up to `features` are finished.
        root: The run's folder.
        out: A folder that does not exist or is empty.

    Returns:
        The results of the audit.

    Raises:
        InputError: If `out` is not empty, a text is missing, or the audit is impossible.
        WorkError: If too few patches are left, or the audit fails.
    """
    out = out.resolve()
    patches = store.load(root / "preprocess")
    _check(request, out, patches, experiment.num_classes)
    xla = machine.configure(experiment)
    bundle = sample.load(experiment.name)
    bootstrap = Bootstrap(experiment.evaluate.bootstrap_samples, experiment.evaluate.confidence_level, request.seed)
    cache, inputs = Cache(root, FOLDER), _input_digests(root)
    extract, network_name = privacy.make_feature_fn(root)
    log.info("release: %s's features of real patches", network_name)
    sets = _load_sets(cache, inputs, patches, extract, network_name, request.seed)
    proximity = privacy.fit_proximity(sets)
    counts = synthesis.count_by_class(request.number, experiment.num_classes)
    settings = {"counts": counts, "seed": request.seed, "limits": proximity.limits, "features": network_name}

    def generate(folder: Path) -> None:
        synthesis.save(synthesis.generate(bundle, counts, request.seed, sets, proximity.limits, extract), folder)

    synthetic = synthesis.load(cache.get_or_build("patches", settings, inputs, generate))
    folder = root / FOLDER
    folder.mkdir(exist_ok=True)
    _write_closest_pairs(folder, synthetic, patches)
    checks, exposed = privacy.check_proximity(synthetic.candidates, proximity), None
    if len(synthetic.images) == request.number:
        log.info("release: attacks on %d patches", request.number)
        attacked, exposed = privacy.attack(sets, synthetic.values, bootstrap)
        checks += attacked + privacy.attack_discriminators(root, patches, sets, experiment.num_classes, bootstrap)
    is_removed = privacy.is_too_near(synthetic.candidates, proximity.limits)
    results: dict[str, Any] = {
        "bcgan": __version__, "number": request.number, "seed": request.seed, "size": int(synthetic.images.shape[1]),
        "generator": bundle.digests, "features": network_name, "removed": int(is_removed.sum()),
        "candidates": len(is_removed), "privacy": privacy.as_json(checks), "utility": None,
        **_describe_patients(patches, sets),
    }  # fmt: skip
    failures = privacy.describe_failures(checks)
    if not failures:
        labels = synthetic.table["label"].to_numpy()
        inputs |= {"release": hashlib.sha256(synthetic.images.tobytes()).hexdigest()}
        task = utility.Task(experiment, root, patches, cache, inputs, xla)
        results["utility"] = utility.measure(task, Patches(synthetic.images, labels), bootstrap)
        usefulness = utility.checks(results["utility"])
        results["utility"]["checks"] = privacy.as_json(usefulness)
        failures = privacy.describe_failures(usefulness)
    results["passed"] = not failures
    runs.write_json(folder / AUDIT, results | {"most_exposed_patient": exposed})
    if failures:
        raise WorkError(
            f"The audit failed, and {out} was not written. {' '.join(failures)} All results: {folder / AUDIT}"
        )
    identity = dataset.Identity(
        f"{experiment.name}-synthetic", request.license_name, request.creator, experiment.data.class_names,
        model_scale(experiment, patches.index, experiment.data.size).mpp, request.seed, bundle.digests,
    )  # fmt: skip
    dataset.write(out, identity, synthetic, results, time.strftime("%Y-%m-%d"))
    return results


def _check(request: Request, out: Path, patches: store.Store, num_classes: int) -> None:
    """Check a request before anything is generated.

    Raises:
        InputError: If something is missing or impossible.
    """
    for option, text in (("--license", request.license_name), ("--creator", request.creator)):
        if not text.strip() or not text.isprintable():
            raise InputError(f"{option} {text!r} is empty or has a line break. Write one line, such as CC-BY-4.0.")
    if request.number < MIN_PATCHES * num_classes:
        raise InputError(
            f"--number {request.number}: the audit needs {MIN_PATCHES} patches of each class. Ask for "
            f"{MIN_PATCHES * num_classes} or more."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder. Choose another with --out.")
    privacy.check_patients(patches)


def _input_digests(root: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of the run that a release depends on, by name."""
    return {
        f"{stage}/{file}": digest
        for stage in ("preprocess", "gan", "features")
        for file, digest in runs.read_json(root / stage / MANIFEST)["outputs"].items()
        if file in ("patches.npy", "index.csv", "generator.keras", "reference_cnn.keras", "quality_filter.npz")
    }


def _load_sets(
    cache: Cache, inputs: dict[str, str], patches: store.Store, extract, network_name: str, seed: int
) -> privacy.Sets:
    """Return the real patches of the audit; their representation is computed once."""
    training, unseen, _ = privacy.select_rows(patches, seed)
    rows = np.concatenate([training, unseen])

    def build(folder: Path) -> None:
        np.savez(folder / "real.npz", **privacy.represent(patches.images.select(rows), extract))

    settings = {"features": network_name, "side": privacy.SIDE}
    folder = cache.get_or_build("real-patches", settings, inputs, build)
    return privacy.make_sets(patches, runs.read_arrays(folder / "real.npz"), seed)


def _describe_patients(patches: store.Store, sets: privacy.Sets) -> dict[str, dict[str, int]]:
    """Return the numbers of patients and patches that the generator was trained on, and of those that attacked it."""
    index = patches.index
    groups = {"members": index["role"] == "train", "non_members": index["role"].isin(privacy.UNSEEN_ROLES)}
    is_compared = np.isin(np.arange(len(index)), sets.rows)
    return {
        name: {
            "patients": int(index["patient"][chosen].nunique()), "patches": int(chosen.sum()),
            "compared_patches": int((chosen & is_compared).sum()),
        }
        for name, chosen in groups.items()
    }  # fmt: skip


def _write_closest_pairs(folder: Path, synthetic: synthesis.SyntheticSet, patches: store.Store) -> None:
    """Write closest_<space>.png: above, the synthetic patches nearest to a training patch; below, that patch."""
    if not len(synthetic.images):
        return
    for space in privacy.PATCH_SPACES:
        order = np.argsort(synthetic.table[f"distance_{space}"].to_numpy())[:NUM_PAIRS]
        real = patches.images[synthetic.table[f"row_{space}"].to_numpy()[order]]
        pad = partial(np.pad, pad_width=((0, 0), (0, PAIR_GAP), (0, PAIR_GAP), (0, 0)), constant_values=255)
        rows = [np.concatenate(list(pad(images)), 1) for images in (synthetic.images[order], real)]
        (folder / f"closest_{space}.png").write_bytes(encode_png(np.concatenate(rows, 0)))


def describe(results: dict[str, Any]) -> str:
    """Return the audit's results in a few lines."""
    by_name = {(check["name"], check["space"]): check for check in results["privacy"]}
    lines = [f"{results['removed']:,} of {results['candidates']:,} candidates were too near to a training patch"]
    for name in ("membership_patches", "membership_patients"):
        texts = [
            f"{check['value']:.3f} ({check['low']:.3f} to {check['high']:.3f}) by {space}"
            for (other, space), check in by_name.items()
            if other == name and check["passed"] is not None
        ]
        lines.append(f"{name.replace('_', ' ')}, ROC AUC (0.5 is chance): {', '.join(texts)}")
    for name, network in results["utility"]["networks"].items():
        released, real = (network[kind]["roc_auc"]["value"] for kind in ("released", "real"))
        lines.append(f"{name}, test ROC AUC: trained on the release {released:.3f}, on real patches {real:.3f}")
    return "\n".join(lines)
