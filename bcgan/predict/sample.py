"""`bcgan sample`: write synthetic patches of a class that the quality filter accepts, and a manifest.

The generator is that of a run, or the one bundled with bcgan.
"""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd

from bcgan import progress, runs
from bcgan.artifacts import MANIFEST
from bcgan.classes import CLASSES, canonical_class, class_names, parse_classes
from bcgan.classify import reference_cnn
from bcgan.errors import InputError, WorkError
from bcgan.gan import quality_filter, steering
from bcgan.gan.train import sample
from bcgan.models import weights
from bcgan.preprocess import properties
from bcgan.preprocess.images import encode_png
from bcgan.settings import Features

SHIPPED = Path(__file__).parents[1] / "shipped" / "idc"
NUM_CANDIDATES = 128  # generated at a time
MAX_TRIES_PER_PATCH = 40  # candidates for each requested patch, after which sampling stops with an error


class GeneratorBundle(NamedTuple):
    """A generator, the networks that filter its patches, and what the manifest needs.

    Attributes:
        generator: From noise, label and pixel noise to patches.
        reference_cnn: Gives the confidence and the features that the filter uses.
        quality_filter: The fitted filter.
        nuclear_od_threshold: Hematoxylin optical density above which a pixel counts as nucleus.
        digests: SHA-256 of the three files, by name.
        classes: In the order of their labels.
    """

    generator: keras.Model
    reference_cnn: keras.Model
    quality_filter: quality_filter.QualityFilter
    nuclear_od_threshold: float
    digests: dict[str, str]
    classes: tuple[str, ...] = CLASSES


def load(name: str | None) -> GeneratorBundle:
    """Load the generator and filter of a run, runs/<name>, or those bundled with bcgan if the name is `None`.

    Raises:
        InputError: If a file is missing.
    """
    root = runs.root() / name if name else SHIPPED
    stage_of = {"generator.keras": "gan", "reference_cnn.keras": "features", "quality_filter.npz": "features"}
    files = {file: (root / stage if name else root) / file for file, stage in stage_of.items()}
    for path in files.values():
        if not path.is_file():
            remedy = f"Run: bcgan run {name} --until features" if name else "Install bcgan again"
            raise InputError(f"{path} does not exist. {remedy}.")
    digests = {file: runs.hash_file(path) for file, path in files.items()}
    # The bundled generator's weights are in half precision, which changes a gray level by two at most.
    networks = [
        weights.cast_to_float32(weights.load_model(files[file])) for file in ("generator.keras", "reference_cnn.keras")
    ]
    threshold, classes = Features().nuclear_od_threshold, CLASSES
    if name and (manifest := root / "features" / MANIFEST).exists():
        threshold = runs.read_json(manifest)["settings"]["features"]["nuclear_od_threshold"]
    if name and (manifest := root / "preprocess" / MANIFEST).exists():
        classes = _read_classes(manifest)
    return GeneratorBundle(*networks, quality_filter.load(files["quality_filter.npz"]), threshold, digests, classes)


def _read_classes(manifest: Path) -> tuple[str, ...]:
    """Return the names of a run's classes, in the order of their labels.

    Raises:
        InputError: If an earlier bcgan trained it with benign and malignant in the other order.
    """
    pairs = runs.read_json(manifest)["settings"]["data"].get("classes")
    names, trained = class_names(parse_classes(pairs)), class_names(tuple((name, ()) for name, _ in pairs or ()))
    if tuple(map(canonical_class, trained)) != names:
        raise InputError(
            f"{manifest.parent.parent} was trained with {trained[0]} as label 0, and now {names[0]} is. Run it again: "
            f"bcgan run {manifest.parent.parent.name}."
        )
    return names


def find_label(bundle: GeneratorBundle, name: str) -> int:
    """Return the label of a class.

    Raises:
        InputError: If the generator has no class of that name.
    """
    if canonical_class(name) not in bundle.classes:
        raise InputError(f"--label {name}: this generator's classes are {', '.join(bundle.classes)}. Name one of them.")
    return bundle.classes.index(canonical_class(name))


def write(
    bundle: GeneratorBundle, label: int, count: int, seed: int, out: Path, density: float | None = None
) -> dict[str, Any]:
    """Write <class>_<n>.png and manifest.json.

    Args:
        label: Index into the bundle's classes.
        count: Number of patches to write.
        out: A folder that is empty or does not exist.
        density: Target nuclear density, share of the tissue. Defaults to `None`: not steered.

    Returns:
        The manifest: digests, class, seed, tried, refused {reason: count}, density {asked, range, median, low, high},
        files. `range` is what the generator's patches of the class can reach; `None` without a target density.

    Raises:
        InputError: If the folder is not empty, or the generator cannot reach the density.
        WorkError: If too few patches are accepted.
    """
    out = out.resolve()  # "." has no name to be renamed to
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty. Choose another folder with --out.")
    direction = None if density is None else _density_direction(bundle, label, density, seed)
    part = out.with_name(f"{out.name}.part")  # renamed when it is complete
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    files: list[dict[str, Any]] = []
    candidates = iterate_candidates(bundle, label, seed, direction, density)
    refused, tried = dict.fromkeys(quality_filter.RESULTS[1:], 0), 0
    with progress.bar(count, "sample", "patch") as bar:
        while len(files) < count:
            if tried >= MAX_TRIES_PER_PATCH * max(count, NUM_CANDIDATES):
                raise WorkError(
                    f"Of {tried} candidates {len(files)} were accepted, {count} were requested ({refused}). "
                    "Request fewer, or train the GAN for longer."
                )
            images, filtered = next(candidates)
            for row in filtered.itertuples():
                if len(files) == count:
                    break
                tried += 1
                if row.filter_result in refused:
                    refused[row.filter_result] += 1
                    continue
                file = f"{bundle.classes[label]}_{len(files) + 1:05d}.png"
                (part / file).write_bytes(encode_png(images[row.Index]))
                measured = {key: round(float(getattr(row, key)), 4) for key in ("confidence", "distance", "density")}
                files.append({"file": file, "candidate": tried - 1, **measured})
                bar.update()
    densities = [file["density"] for file in files]
    manifest = {
        "what": "synthetic patches of breast tissue, made by a GAN; research use only",
        "model": bundle.digests, "class": bundle.classes[label], "label": label, "seed": seed,
        "density": {
            "asked": density, "range": [direction.low, direction.high] if direction else None,
            "median": float(np.median(densities)), "low": min(densities), "high": max(densities),
        },
        "tried": tried, "refused": refused, "files": files,
    }  # fmt: skip
    runs.write_json(part / "manifest.json", manifest)
    if out.exists():
        out.rmdir()
    part.rename(out)
    return manifest


def _density_direction(bundle: GeneratorBundle, label: int, density: float, seed: int) -> steering.Direction:
    """Return the latent direction of nuclear density for a class.

    Args:
        density: Target, share of the tissue that is nuclei.
        seed: Of the noise from which the direction is fitted.

    Raises:
        InputError: If the generator cannot reach the density.
    """
    directions = steering.fit_latent_directions(bundle.generator, label, bundle.nuclear_od_threshold, seed)
    direction = directions["density"]
    if not direction.low <= density <= direction.high:
        raise InputError(
            f"--nuclear-density {density:g}: this generator's {bundle.classes[label]} patches reach "
            f"{direction.low:.2f} to {direction.high:.2f}. Choose a value between."
        )
    return direction


def iterate_candidates(
    bundle: GeneratorBundle,
    label: int,
    seed: int,
    direction: steering.Direction | None = None,
    density: float | None = None,
) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """Yield, without end, NUM_CANDIDATES patches of a class and the results of the quality filter.

    Args:
        direction: Of nuclear density, along which patches are moved to `density`. Defaults to `None`: not steered.

    Yields:
        uint8 patches, (NUM_CANDIDATES, size, size, 3), and a table with a row for each: confidence, distance,
        filter_result (one of `quality_filter.RESULTS`) and density (share of the tissue that is nuclei).
    """
    apply_filter = reference_cnn.make_filter_fn(bundle.reference_cnn, bundle.quality_filter)
    labels, latent_dim = np.full(NUM_CANDIDATES, label, np.int32), bundle.generator.inputs[0].shape[-1]
    for start in itertools.count(0, NUM_CANDIDATES):
        rng = np.random.default_rng((seed, label, start))
        noise = rng.standard_normal((NUM_CANDIDATES, latent_dim))
        if direction:
            noise = direction.move(noise, np.full(NUM_CANDIDATES, density))
        images = sample(bundle.generator, labels, int(rng.integers(2**31)), noise)
        table = apply_filter(images, np.full(len(images), label))
        table["density"] = properties.patch_features(images, bundle.nuclear_od_threshold)["density"]
        yield images, table
