"""`bcgan release`: generate a set of synthetic patches, audit it, and write it only if the audit passes.

runs/<experiment>/release/ has what is for the owner of the data alone: audit.json, which names the training patient
that stands out most, pictures of the closest pairs of a synthetic and a training patch, and attempts.json, the result
of every attempt, so that a set cannot be drawn until one passes without a trace.
"""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bcgan import __version__, machine, runs
from bcgan.artifacts import DEFINITIONS, MANIFEST, Cache
from bcgan.classify.train import Patches
from bcgan.errors import InputError, WorkError
from bcgan.experiment import Experiment
from bcgan.gan.distances import PIXEL_SIDE, orientations
from bcgan.predict import sample
from bcgan.predict.export import check_one_scale, model_scale
from bcgan.preprocess import store
from bcgan.preprocess.images import encode_png
from bcgan.progress import log
from bcgan.release import attacks, dataset, privacy, repeats, synthesis, utility

FOLDER = "release"  # in a run's folder
AUDIT, ATTEMPTS = "audit.json", "attempts.json"
NUM_PAIRS, PAIR_GAP = 16, 2  # closest pairs in a picture, and pixels between them
MIN_PATCHES = 100  # of each class: with fewer, quantiles of 1 % say nothing
# Files of the run that a release depends on.
INPUTS = {
    "preprocess": ("patches.npy", "index.csv"),
    "gan": ("generator.keras",),
    "features": ("reference_cnn.keras", "quality_filter.npz"),
}


class Request(NamedTuple):
    """What is to be released, and by whom."""

    number: int  # of patches
    license_name: str
    creator: str
    seed: int  # of the patches; the audit has its own


class Audit(NamedTuple):
    """The results of an audit.

    Attributes:
        results: As JSON, without names of patients.
        exposed_patient: The training patient that stands out most; `None` if the attacks were not made.
        failures: A sentence for each failed check.
    """

    results: dict[str, Any]
    exposed_patient: str | None
    failures: list[str]


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
    _check_request(request, out, patches, experiment)
    folder = root / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / AUDIT).unlink(missing_ok=True)  # of another request
    xla = machine.configure(experiment)
    bundle = sample.load(experiment.name)
    cache, inputs = Cache(root, FOLDER), input_digests(root)
    extract, network_name = privacy.make_feature_fn(root)
    sets = _load_sets(cache, inputs, patches, extract, network_name)
    log.info("release: distances of unseen patients' patches")
    proximity = privacy.fit_proximity(sets)
    counts = synthesis.count_by_class(request.number, experiment.num_classes)
    limits = synthesis.Limits(proximity.limits, repeats.fit_limits(sets, patches.index["label"].to_numpy(), counts))
    settings = {"counts": counts, "seed": request.seed, "limits": limits._asdict(), "features": network_name}

    def generate(target: Path) -> None:
        generated = synthesis.generate(bundle, counts, request.seed, sets, limits, extract)
        synthesis.save(generated, target)

    synthetic = synthesis.load(cache.get_or_build("patches", settings, inputs, generate))
    _write_closest_pairs(folder, synthetic, patches)
    earlier = _read_attempts(folder, inputs, request)
    audit = _audit_privacy(experiment, root, patches, sets, proximity, synthetic)
    facts = {
        "bcgan": __version__, "definition": DEFINITIONS[FOLDER], "inputs": inputs,
        "number": request.number, "seed": request.seed,
        "size": int(synthetic.images.shape[1]), "generator": bundle.digests, "features": network_name,
        "confidence_level": attacks.CONFIDENCE_LEVEL, "resamples": attacks.RESAMPLES, "earlier_attempts": earlier,
        **_count_members(patches, sets),
    }  # fmt: skip
    if not audit.failures:
        digest = hashlib.sha256(synthetic.images.tobytes()).hexdigest()
        task = utility.Task(experiment, root, patches, cache, inputs, digest, xla)
        audit = _add_utility(audit, task, synthetic)
    results = facts | audit.results | {"passed": not audit.failures}
    _append_attempt(folder, inputs, {"number": request.number, "seed": request.seed, "passed": results["passed"]})
    if results["passed"]:
        mpp = model_scale(experiment, patches.index, experiment.data.size).mpp
        identity = dataset.Identity(
            f"{experiment.name}-synthetic", request.license_name, request.creator, experiment.data.class_names, mpp,
            request.seed, bundle.digests,
        )  # fmt: skip
        dataset.write(out, identity, synthetic, results, time.strftime("%Y-%m-%d"))
    runs.write_json(folder / AUDIT, results | {"most_exposed_patient": audit.exposed_patient})
    if audit.failures:
        raise WorkError(
            f"The audit failed, and {out} was not written. {' '.join(audit.failures)} All results: {folder / AUDIT}"
        )
    return results


def _check_request(request: Request, out: Path, patches: store.Store, experiment: Experiment) -> None:
    """Check a request before anything is generated.

    Raises:
        InputError: If something is missing or impossible.
    """
    for option, text in (("--license", request.license_name), ("--creator", request.creator)):
        if not text.strip() or not text.isprintable():
            raise InputError(f"{option} {text!r} is empty or has a line break. Write one line, such as CC-BY-4.0.")
    num_classes = experiment.num_classes
    if request.number < MIN_PATCHES * num_classes:
        raise InputError(
            f"--number {request.number}: the audit needs {MIN_PATCHES} patches of each class. Ask for "
            f"{MIN_PATCHES * num_classes} or more."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder. Choose another with --out.")
    parent = next(folder for folder in out.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{out} cannot be written: {parent} takes no files from this user. Choose another with --out.")
    privacy.check_patients(patches)
    check_one_scale(experiment, patches.index)


def input_digests(root: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of the run that a release depends on, by name."""
    return {
        f"{stage}/{file}": runs.read_json(root / stage / MANIFEST)["outputs"][file]
        for stage, files in INPUTS.items()
        for file in files
    }


def _load_sets(
    cache: Cache,
    inputs: dict[str, str],
    patches: store.Store,
    extract: Callable[[np.ndarray], np.ndarray],
    network_name: str,
) -> privacy.Sets:
    """Return the real patches of the audit; their representation in every space is cached.

    Args:
        inputs: SHA-256 of the run's files that they depend on, by name.
        extract: Maps patches, uint8 (n, size, size, 3), to features, (n, d).
        network_name: Of the network that computes the features.
    """
    rows = np.concatenate(privacy.select_rows(patches))

    def build(folder: Path) -> None:
        """Write the representations of the real patches."""
        log.info("release: features of %d real patches by %s", len(rows), network_name)
        np.savez(folder / "real.npz", **privacy.represent(patches.images.select(rows), extract))

    settings = {
        "features": network_name,
        "orientations": 8,  # that features are means over
        "side": PIXEL_SIDE,
        "patient_patches": privacy.MAX_PATIENT_PATCHES,
    }
    folder = cache.get_or_build("real-patches", settings, inputs, build)
    return privacy.make_sets(patches, runs.read_arrays(folder / "real.npz"))


def _audit_privacy(
    experiment: Experiment,
    root: Path,
    patches: store.Store,
    sets: privacy.Sets,
    proximity: privacy.Proximity,
    synthetic: synthesis.SyntheticSet,
) -> Audit:
    """Make the privacy checks.

    If too many candidates were too near to training patches, the audit has failed, and the attacks are skipped.
    """
    checks, exposed = privacy.check_proximity(synthetic.candidates, proximity), None
    if checks[0].passed:  # removed_fraction
        log.info("release: attacks on %d patches", len(synthetic.images))
        attacked, exposed = privacy.attack(sets, synthetic.values)
        checks += attacked + privacy.attack_discriminators(root, patches, sets, experiment.num_classes)
    results = {
        "removed": len(synthetic.removed), "repeats": int(synthetic.candidates["is_repeat"].sum()),
        "candidates": len(synthetic.candidates), "privacy": privacy.as_json(checks), "utility": None,
    }  # fmt: skip
    return Audit(results, exposed, privacy.describe_failures(checks))


def _add_utility(audit: Audit, task: utility.Task, synthetic: synthesis.SyntheticSet) -> Audit:
    """Return the audit with what the set is worth: networks trained on it, and checks of their loss of ROC AUC."""
    measured = utility.measure(task, Patches(synthetic.images, synthetic.table["label"].to_numpy()))
    checks = utility.checks(measured)
    results = audit.results | {"utility": measured | {"checks": privacy.as_json(checks)}}
    return audit._replace(results=results, failures=privacy.describe_failures(checks))


def _count_members(patches: store.Store, sets: privacy.Sets) -> dict[str, dict[str, int]]:
    """Count the patients and patches of members, who are training patients, and of non-members, whom the GAN never saw.

    Args:
        sets: The audit's patches. Its `rows` are those that the attacks use, the compared patches.

    Returns:
        {"members" or "non_members": {"patients", "patches", "compared_patches"}}.
    """
    index = patches.index
    groups = {"members": index["role"] == "train", "non_members": index["role"].isin(privacy.UNSEEN_ROLES)}
    is_compared = np.isin(np.arange(len(index)), sets.rows)
    return {
        name: {
            "patients": int(index["patient"][is_in_group].nunique()), "patches": int(is_in_group.sum()),
            "compared_patches": int((is_in_group & is_compared).sum()),
        }
        for name, is_in_group in groups.items()
    }  # fmt: skip


def _read_attempts(folder: Path, inputs: dict[str, str], request: Request) -> list[dict[str, Any]]:
    """Return [{number, seed, passed}] of all other attempts with the same files of the run."""
    current_request = (request.number, request.seed)
    return [
        attempt["request"]
        for attempt in _read_all_attempts(folder)
        if attempt["inputs"] == inputs and (attempt["request"]["number"], attempt["request"]["seed"]) != current_request
    ]


def _append_attempt(folder: Path, inputs: dict[str, str], result: dict[str, Any]) -> None:
    """Add an attempt, {number, seed, passed}, to attempts.json, unless it is there."""
    attempts, attempt = _read_all_attempts(folder), {"inputs": inputs, "request": result}
    if attempt not in attempts:
        runs.write_json(folder / ATTEMPTS, [*attempts, attempt])


def _read_all_attempts(folder: Path) -> list[dict[str, Any]]:
    """Return [{inputs, request: {number, seed, passed}}] of all attempts; empty if there are none."""
    path = folder / ATTEMPTS
    return runs.read_json(path) if path.exists() else []


def _write_closest_pairs(folder: Path, synthetic: synthesis.SyntheticSet, patches: store.Store) -> None:
    """Write closest_<space>.png, a picture of the NUM_PAIRS synthetic patches that are most like a training patch.

    Above are the synthetic patches, removed ones included, with the highest scores: the log ratio of the distance to
    the nearest unseen patch and that to the nearest training patch. Below each is that training patch, in the
    orientation in which it resembles the synthetic one most.
    """
    images = np.concatenate([synthetic.removed_images, synthetic.images])
    for space in privacy.PATCH_SPACES:
        scores, training_rows = (
            np.concatenate([table[f"{name}_{space}"].to_numpy() for table in (synthetic.removed, synthetic.table)])
            for name in ("score", "row")
        )
        pairs = [
            _pad_right(np.concatenate(_turn_alike(images[index], patches.images[training_rows[index]])))
            for index in np.argsort(-scores)[:NUM_PAIRS]
        ]
        (folder / f"closest_{space}.png").write_bytes(encode_png(np.concatenate(pairs, 1)))


def _turn_alike(image: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a synthetic patch with a gap below, and a real one in the orientation with the least difference."""
    views = [view.reshape(real.shape) for view in orientations(real[None].reshape(1, -1), len(real))]
    differences = [np.abs(view.astype(int) - image).sum() for view in views]
    return np.pad(image, ((0, PAIR_GAP), (0, 0), (0, 0)), constant_values=255), views[int(np.argmin(differences))]


def _pad_right(image: np.ndarray) -> np.ndarray:
    """Return an image with PAIR_GAP white pixels added on the right."""
    return np.pad(image, ((0, 0), (0, PAIR_GAP), (0, 0)), constant_values=255)


def describe(results: dict[str, Any]) -> str:
    """Return the results of an audit that passed as text, a few lines."""
    lines = [
        f"Of {results['candidates']:,} candidates, {results['removed']:,} were too near to a training patch and "
        f"{results['repeats']:,} repeated another one"
    ]
    for name in ("membership_patches", "membership_patients"):
        texts = [
            f"{check['value']:.3f} ({check['low']:.3f} to {check['high']:.3f}) by {check['space']}"
            for check in results["privacy"]
            if check["name"] == name and check["passed"] is not None
        ]
        lines.append(f"{privacy.TITLES[name]}, 0.5 is chance: {', '.join(texts)}")
    for name, network in results["utility"]["networks"].items():
        released, real = (network[kind]["roc_auc"]["value"] for kind in ("released", "real"))
        lines.append(f"{name}, test ROC AUC: trained on the release {released:.3f}, on real patches {real:.3f}")
    return "\n".join(lines)
