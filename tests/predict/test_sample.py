import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from bcgan import cli, runs
from bcgan.gan import steering
from bcgan.predict import sample as sampling


def bcgan(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return stop.value.code


def _with_limits(source: sampling.GeneratorBundle, limits: np.ndarray) -> sampling.GeneratorBundle:
    return source._replace(quality_filter=source.quality_filter._replace(limits=limits, confidence=0.0))


@pytest.fixture
def workspace(finished, tmp_path, monkeypatch):
    """The tiny run without limits of the quality filter, which would reject a GAN of four steps."""
    work = shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(work)
    load = sampling.load
    monkeypatch.setattr(sampling, "load", lambda name: _with_limits(load(name), np.full(2, np.inf)))
    return work


def test_a_run_whose_labels_are_turned_around_is_refused(workspace, capsys):
    """An earlier bcgan took the order of data.classes where benign and malignant were in capitals."""
    path = workspace / "runs/tiny/preprocess/manifest.json"
    manifest = json.loads(path.read_text())
    for names, code in ((("Malignant", "Benign"), 2), (("Benign", "Malignant"), 0)):
        manifest["settings"]["data"]["classes"] = [[name, []] for name in names]
        path.write_text(json.dumps(manifest))
        assert bcgan("sample", "tiny", "--label", "malignant", "--count", 1, "--out", f"out/{names[0]}") == code
    assert "was trained with Malignant as label 0, and now benign is. Run it again" in capsys.readouterr().err


def test_patches_of_a_run_with_their_manifest(workspace, capsys):
    assert bcgan("sample", "tiny", "--label", "benign", "--count", 5, "--out", "out/a") == 0
    manifest = json.loads((workspace / "out/a/manifest.json").read_text())
    assert manifest["class"] == "benign"
    assert [entry["file"] for entry in manifest["files"]] == [f"benign_{n:05d}.png" for n in range(1, 6)]
    densities = sorted(entry["density"] for entry in manifest["files"])
    assert manifest["density"] == {
        "asked": None, "range": None, "median": densities[2], "low": densities[0], "high": densities[4],
    }  # fmt: skip
    assert f"nuclear density: median {densities[2]:.2f}" in capsys.readouterr().out
    assert manifest["tried"] == 5 + sum(manifest["refused"].values())
    assert manifest["model"]["generator.keras"] == runs.hash_file(workspace / "runs/tiny/gan/generator.keras")
    pictures = [cv2.imread(str(workspace / "out/a" / entry["file"])) for entry in manifest["files"]]
    assert {picture.shape for picture in pictures} == {(50, 50, 3)}
    assert len({picture.tobytes() for picture in pictures}) == 5


def test_the_requested_density_steers_the_latents(workspace, monkeypatch):
    direction, drawn, sample = steering.Direction(np.ones(8), 0.05, 0.2, 0.4), [], sampling.sample

    def watched(network, labels, seed, noise):
        drawn.append(noise)
        return sample(network, labels, seed, noise)

    monkeypatch.setattr(steering, "fit_latent_directions", lambda *arguments: {"density": direction})
    monkeypatch.setattr(sampling, "sample", watched)
    manifest = sampling.write(sampling.load("tiny"), 0, 1, 0, workspace / "out/f", 0.3)
    assert (manifest["density"]["asked"], manifest["density"]["range"]) == (0.3, [0.2, 0.4])
    assert manifest["density"]["median"] == manifest["files"][0]["density"]
    np.testing.assert_allclose(drawn[0] @ direction.slope + direction.offset, 0.3)


def test_the_current_folder_may_be_the_output_folder_if_empty(workspace, tmp_path, monkeypatch):
    source = sampling.load("tiny")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert len(sampling.write(source, 0, 1, 0, Path())["files"]) == 1
    assert (tmp_path / "empty/manifest.json").exists()


def test_the_same_seed_gives_the_same_patches(workspace):
    for out, seed in (("b", 3), ("c", 3), ("d", 4)):
        assert bcgan("sample", "tiny", "--label", "malignant", "--count", 2, "--seed", seed, "--out", f"out/{out}") == 0
    first, again, different = ((workspace / f"out/{out}/malignant_00001.png").read_bytes() for out in "bcd")
    assert first == again
    assert first != different


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--label", "benign"], ["runs/nowhere/gan/generator.keras", "bcgan run nowhere"]),
        (["tiny", "--label", "benign", "--out", "runs"], ["not empty", "--out"]),
        (
            ["tiny", "--label", "benign", "--nuclear-density", "0.6", "--out", "out/e"],
            ["--nuclear-density 0.6", "0.20 to 0.40"],
        ),
        (["tiny", "--label", "stroma"], ["stroma"]),
    ],
)
def test_wrong_use_is_reported_in_one_sentence(workspace, capsys, monkeypatch, arguments, words):
    reach = {"density": steering.Direction(np.ones(8), 0.0, 0.2, 0.4)}
    monkeypatch.setattr(steering, "fit_latent_directions", lambda *arguments: reach)
    assert bcgan("sample", *arguments) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message


def test_too_few_accepted_patches_fail_with_the_counts(workspace, capsys, monkeypatch):
    strict = _with_limits(sampling.load("tiny"), np.full(2, 1e-9))
    monkeypatch.setattr(sampling, "load", lambda name: strict)
    monkeypatch.setattr(sampling, "MAX_TRIES_PER_PATCH", 1)
    assert bcgan("sample", "tiny", "--label", "benign", "--count", 2, "--out", "out/f") == 1
    assert "0 were accepted, 2 were requested" in capsys.readouterr().err
    assert not (workspace / "out/f/manifest.json").exists()


def test_the_shipped_generator_needs_no_training(in_folder):
    assert bcgan("sample", "--label", "malignant", "--count", 12, "--out", "shipped") == 0
    manifest = json.loads((in_folder / "shipped/manifest.json").read_text())
    assert manifest["tried"] < 40
    assert sum(path.stat().st_size for path in sampling.SHIPPED.iterdir()) < 8 * 2**20
    assert all(entry["confidence"] >= 0.6 and entry["distance"] <= 1 for entry in manifest["files"])
    pictures = np.stack([cv2.imread(str(in_folder / "shipped" / entry["file"])) for entry in manifest["files"]])
    assert pictures.astype(float).std((1, 2, 3)).min() > 10
    # Malignant patches are stained with haematoxylin: blue above green.
    assert pictures[..., 0].mean() > pictures[..., 1].mean()
