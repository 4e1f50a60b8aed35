"""`bcgan sample`: write synthetic patches of a class that the quality filter accepts, and a manifest.

The generator is that of a run, or the one that comes with bcgan."""

import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import keras
import numpy as np

from bcgan import progress, runs
from bcgan.artifacts import MANIFEST
from bcgan.classify import reference_cnn
from bcgan.data.records import CLASSES
from bcgan.errors import InputError, WorkError
from bcgan.gan import quality_filter, steering
from bcgan.gan.train import sample
from bcgan.models import weights
from bcgan.preprocess import properties
from bcgan.settings import Features

SHIPPED = Path(__file__).parents[1] / "shipped" / "idc"
CANDIDATES = 128  # made at a time
PATIENCE = 40  # candidates for every patch wanted before we give up


class Source(NamedTuple):
    """A generator with what selects its patches. threshold: haematoxylin optical density that counts as nucleus.
    digests: SHA-256 of the three files."""

    generator: keras.Model
    reference_cnn: keras.Model
    quality_filter: quality_filter.QualityFilter
    threshold: float
    digests: dict[str, str]


def load(name: str | None) -> Source:
    """The files of a run, runs/<name>, or those shipped where name is None.

    Raises:
        InputError: a file is missing.
    """
    root = runs.ROOT / name if name else SHIPPED
    stage_of = {"generator.keras": "gan", "reference_cnn.keras": "features", "quality_filter.npz": "features"}
    files = {file: (root / stage if name else root) / file for file, stage in stage_of.items()}
    for path in files.values():
        if not path.is_file():
            remedy = f"Run: bcgan run {name} --until features" if name else "Install bcgan again"
            raise InputError(f"{path} does not exist. {remedy}.")
    digests = {file: runs.hash_file(path) for file, path in files.items()}
    # In float32: the shipped generator's weights are in half precision, which changes a grey level by one at most.
    networks = [
        weights.in_float32(weights.load_model(files[file])) for file in ("generator.keras", "reference_cnn.keras")
    ]
    threshold = Features().nuclear_od_threshold
    if name and (manifest := root / "features" / MANIFEST).exists():
        threshold = runs.read_json(manifest)["settings"]["features"]["nuclear_od_threshold"]
    return Source(*networks, quality_filter.load(files["quality_filter.npz"]), threshold, digests)


def write(source: Source, label: int, number: int, seed: int, out: Path, density: float | None = None) -> dict:
    """Write <class>_<n>.png and manifest.json.

    Args:
        label: integer. 0 benign, 1 malignant.
        number: int. Patches wanted.
        out: Path. A folder that is empty or does not exist.
        density: float. Nuclear density, share of tissue, to steer towards; None: as the generator likes.

    Returns:
        The manifest: digests, class, seed, tried, refused {reason: count}, density {asked, range, median, low, high},
        files. range: what the generator's patches of the class reach, where a density is asked for.

    Raises:
        InputError: the folder holds files, or the density is out of the generator's reach.
        WorkError: If too few patches are accepted.
    """
    out = out.resolve()  # "." has no name to be renamed to
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty. Choose another folder with --out.")
    name, direction = CLASSES[label], None
    if density is not None:
        direction = steering.directions(source.generator, label, source.threshold, seed)["density"]
        if not direction.low <= density <= direction.high:
            raise InputError(
                f"--nuclear-density {density:g}: this generator's {name} patches reach {direction.low:.2f} to "
                f"{direction.high:.2f}. Choose a value between."
            )
    files, refused, tried = [], dict.fromkeys(quality_filter.RESULTS[1:], 0), 0
    part = out.with_name(f"{out.name}.part")  # renamed when it is whole
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with progress.bar(number, "sample", "patch") as bar:
        while len(files) < number:
            if tried >= PATIENCE * max(number, CANDIDATES):
                raise WorkError(
                    f"Of {tried} candidates {len(files)} were accepted, {number} were requested ({refused}). "
                    "Ask for fewer, or train the GAN for longer."
                )
            images = _candidates(source.generator, label, (seed, label, tried), direction, density)
            table = reference_cnn.apply_quality_filter(
                source.reference_cnn, source.quality_filter, images, np.full(len(images), label)
            )
            table["density"] = properties.measure(images, source.threshold)["density"]
            for row in table.itertuples():
                if len(files) == number:
                    break
                tried += 1
                if row.filter_result in refused:
                    refused[row.filter_result] += 1
                    continue
                file = f"{name}_{len(files) + 1:05d}.png"
                encoded = cv2.imencode(".png", cv2.cvtColor(images[row.Index], cv2.COLOR_RGB2BGR))[1]
                (part / file).write_bytes(encoded.tobytes())
                measured = {key: round(float(getattr(row, key)), 4) for key in ("confidence", "distance", "density")}
                files.append({"file": file, "candidate": tried - 1, **measured})
                bar.update()
    densities = [file["density"] for file in files]
    density_of_files = {
        "asked": density, "range": [direction.low, direction.high] if direction else None,
        "median": float(np.median(densities)), "low": min(densities), "high": max(densities),
    }  # fmt: skip
    manifest = {
        "what": "synthetic patches of breast tissue, made by a GAN; research use only",
        "model": source.digests, "class": name, "label": label, "seed": seed, "density": density_of_files,
        "tried": tried, "refused": refused, "files": files,
    }  # fmt: skip
    runs.write_json(part / "manifest.json", manifest)
    if out.exists():
        out.rmdir()
    part.rename(out)
    return manifest


def _candidates(
    network: keras.Model,
    label: int,
    seed: tuple[int, ...],
    direction: steering.Direction | None,
    density: float | None,
) -> np.ndarray:
    """Return CANDIDATES patches of a class, steered along `direction` to `density` where they are given."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((CANDIDATES, network.inputs[0].shape[-1]))
    if direction:
        noise = direction.move(noise, np.full(CANDIDATES, density))
    return sample(network, np.full(CANDIDATES, label, np.int32), int(rng.integers(2**31)), noise)
