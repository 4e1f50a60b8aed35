"""Write a classifier as the folder that WSInfer and QuPath's WSInfer extension load.

Formats: WSInfer Model Zoo, model-config schema 1.0 (Kaczmarzyk et al. 2024, "Open and reusable deep learning for
pathology with WSInfer and QuPath").
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from bcgan import runs
from bcgan.errors import InputError, WorkError
from bcgan.models.fast import resizing_matrix
from bcgan.predict import torch_files
from bcgan.predict.model import FILES, NO_TISSUE, OUT_OF_DISTRIBUTION, REJECTIONS, Model


def write(model: Model, patches: np.ndarray, folder: Path) -> tuple[np.ndarray, float]:
    """Write torchscript_model.pt and config.json, and compare the network in it with the model.

    The network takes a patch as it was scanned and gives the logarithms of calibrated probabilities of the classes,
    averaged over the card's orientations, of no tissue and of out of distribution. Neighboring patches are not used.

    Args:
        patches: uint8, (n, size, size, 3). For the comparison.
        folder: Created if missing; files of the same names are replaced.

    Returns:
        The probabilities by the file, float (n, classes + 2), and the seconds that it took for a patch.

    Raises:
        InputError: As `check`.
        WorkError: If the conversion fails.
    """
    check(model)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        _write_parts(model, patches, work)
        _run_conversion(work)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(work / torch_files.TORCHSCRIPT, folder)
        results = runs.read_arrays(work / torch_files.RESULTS)
    (folder / torch_files.CONFIG).write_text(json.dumps(config(model), indent=2) + "\n", "utf-8")
    return results["probabilities"], float(results["seconds"])


def check(model: Model) -> None:
    """Check that the classifier can be written for WSInfer.

    Raises:
        InputError: If PyTorch is not installed, the scale of the patches is not known, or the networks differ in size.
    """
    card = model.card
    if importlib.util.find_spec("torch") is None:
        raise InputError(f"WSInfer's files need the package torch. Run: {torch_files.INSTALL}")
    if card.microns_per_pixel is None:
        raise InputError(
            "WSInfer needs the scale of the patches, and this classifier's card has none. Set data.mpp, train and "
            "export again."
        )
    if card.reference_cnn_size != card.size:
        raise InputError(
            f"The reference CNN takes {card.reference_cnn_size} pixels and the classifier {card.size}. "
            "Export the run again, or use bcgan predict."
        )


def config(model: Model) -> dict:
    """Return the contents of config.json."""
    card = model.card
    names = [*card.classes, *REJECTIONS]
    return {
        "spec_version": "1.0",
        "architecture": "+".join(name.rsplit("-", 1)[0] for name in card.training_data.get("networks", [])) or "bcgan",
        "num_classes": len(names),
        "class_names": names,
        "patch_size_pixels": card.size,
        "spacing_um_px": card.microns_per_pixel,
        "transform": [{"name": "ToTensor"}],  # the network resizes
    }


def expected_probabilities(model: Model, patches: np.ndarray) -> np.ndarray:
    """Return what the file should give for patches by themselves: float, (n, classes + 2)."""
    predictions = model.predict(patches)
    rejected = np.stack([predictions.verdict == verdict for verdict in (NO_TISSUE, OUT_OF_DISTRIBUTION)], 1)
    return np.concatenate([np.nan_to_num(predictions.class_probabilities), rejected], 1)


def _write_parts(model: Model, patches: np.ndarray, work: Path) -> None:
    """Write what `bcgan.predict.torch_module` reads: networks, matrices, quality filter, parameters and patches.

    Args:
        patches: uint8, (n, size, size, 3).
        work: The folder that both processes use.
    """
    card = model.card
    classifier, reference_cnn = (model.load_network(name) for name in FILES[:2])  # for this alone: layers are renamed
    features = keras.Model(reference_cnn.inputs, reference_cnn.get_layer("logit").input, name="features")
    for network, name in ((classifier, torch_files.NETWORK), (features, torch_files.FEATURES)):
        for layer in network._flatten_layers(include_self=False):
            layer.name = layer.name.replace(".", "_")  # PyTorch's parameters have no dots in their names
        network.save(work / name)
    np.savez(work / torch_files.MATRICES, **resizing_matrices(classifier) | resizing_matrices(features))
    shutil.copy2(model.checked_file(FILES[2]), work / torch_files.QUALITY_FILTER)
    np.save(work / torch_files.PATCHES, patches)
    parameters = {
        "size": card.size, "tta_views": card.tta_views, "min_tissue": card.min_tissue,
        "ood_threshold": card.ood_threshold,
        **card.calibration._asdict(), **card.enhancement.model_dump(),
    }  # fmt: skip
    (work / torch_files.PARAMETERS).write_text(json.dumps(parameters), "utf-8")


def resizing_matrices(network: keras.Model) -> dict[str, np.ndarray]:
    """Return the matrices by which PyTorch resizes as TensorFlow does, for all resizing layers of a network.

    Returns:
        {`<old side>-<new side>-<interpolation>`: float32, (new, old)}. Rows and columns of a map are multiplied by one.
    """
    matrices = {}
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.Resizing):
            for old, new in zip(layer.input.shape[1:3], (layer.height, layer.width), strict=True):
                matrices[f"{old}-{new}-{layer.interpolation}"] = resizing_matrix(old, new, layer.interpolation)
    return matrices


def _run_conversion(work: Path) -> None:
    """Run `bcgan.predict.torch_module`.

    Raises:
        WorkError: With the last line of its errors, if it fails.
    """
    environment = os.environ | {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))
    command = [sys.executable, "-W", "ignore", "-m", "bcgan.predict.torch_module", str(work)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise WorkError(f"PyTorch could not write the network ({lines[-1]}).")
