"""The tutorials run from the first cell to the last in an empty folder, with small settings."""

import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bcgan import cli
from bcgan.evaluate import probes, synthetic, translations
from bcgan.report import page
from tests.conftest import draw_coarsely, untraced, use_few_samples

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
SMALL = {
    "gan.steps": 2, "gan.batch_size": 8, "gan.base_channels": 4, "gan.latent_dim": 8,
    "gan.projected_discriminator_weight": 0, "gan.projected_discriminator_3x3_steps": 0, "gan.sample_grid_interval": 2,
    "gan.checkpoint_interval": 2, "translate.steps": 0, "features.num_synthetic": 16,
    "features.quality_filter.steps": 2, "pretrain.weights": "none", "classify.batch_size": 16,
    "classify.models": '{"gan_only":{"epochs":1},"cnn":{"epochs":1}}', "evaluate.ensemble_models": '["cnn"]',
    "evaluate.bootstrap_samples": 20,
    "evaluate.num_gan_samples": 20, "evaluate.probe_seeds": "[]", "evaluate.num_explained_patches": 0,
    "evaluate.tta_views": 1, "precision": "float32", "data.max_patches_per_class": 5,
}  # fmt: skip
DRAWN = {"fig07_count_plot": page.FIGURES["data"]["fig07_count_plot"]}


def run_cells(name: str, folder: Path, monkeypatch, **environment: str) -> dict:
    """Run a tutorial in a folder: its Python and, of lines that begin with `# !`, its commands; return its names."""
    monkeypatch.chdir(folder)
    draw_coarsely(monkeypatch)
    use_few_samples(monkeypatch)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    names: dict = {"__name__": "__main__"}
    for kind, cell in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", (FOLDER / name).read_text("utf-8"), re.MULTILINE):
        if "markdown" in kind:
            continue
        for command in re.findall(r"^# !bcgan (.+)$", cell, re.MULTILINE):
            words = shlex.split(re.sub(r"\$(\w+)", lambda match: str(names[match[1]]), command))
            with untraced(), pytest.raises(SystemExit) as stop:
                cli.main(words)
            assert stop.value.code in (0, 3), f"bcgan {command}"  # 3: something was refused
        exec(compile(cell, name, "exec"), names)
    return names


def test_the_papers_pipeline(finished, tmp_path, monkeypatch, capsys):
    """One figure is drawn; `tests/report` draws all of this run."""
    monkeypatch.setattr(page, "FIGURES", {section: {} for section in page.FIGURES} | {"data": DRAWN})
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "pipelines").mkdir()
    (tmp_path / "run" / "tiny.yaml").rename(tmp_path / "run" / "pipelines" / "tiny.yaml")
    names = run_cells("paper_on_phantom.py", tmp_path / "run", monkeypatch, BCGAN_TUTORIAL_EXPERIMENT="tiny")
    assert {"gan_resnet", "gan_only"} <= set(names["table"].index)
    assert "fig07_count_plot.png" in names["figures"]
    assert len(list((tmp_path / "run" / "tutorial_samples").glob("*.png"))) == 4


def test_own_patches(tmp_path, monkeypatch, capsys, undrawn):
    for module in (probes, synthetic, translations):  # `finished` has their ImageNet features
        monkeypatch.setattr(module, "has_weights", lambda _: False)
    options = " ".join(f"--set {shlex.quote(f'{key}={value}')}" for key, value in SMALL.items())
    run_cells("own_patches.py", tmp_path, monkeypatch, BCGAN_TUTORIAL_OPTIONS=options)
    assert (tmp_path / "my_report" / "report.html").exists()
    assert (tmp_path / "my_model" / "classifier.json").exists()
    table = pd.read_csv(tmp_path / "summary.csv")
    patients = table[table["slide"].isna()]
    assert list(patients["patient"]) == [f"patient{number:02d}" for number in range(16)]
    assert patients["slides"].sum() == len(table) - 16


def test_a_slide_to_a_map(tmp_path, monkeypatch, capsys):
    names = run_cells("slide_to_qupath.py", tmp_path, monkeypatch)
    assert len(names["features"]) == len(names["calls"]) == 12


def test_every_tutorial_is_run():
    source = Path(__file__).read_text("utf-8")
    assert all(f'"{path.name}"' in source for path in FOLDER.glob("*.py"))
