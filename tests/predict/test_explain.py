import shutil
from pathlib import Path

import numpy as np
import pytest

from bcgan import cli
from bcgan.predict import model as models
from tests.conftest import use_few_samples, write_png
from tests.predict.conftest import find_paths, read_patches


@pytest.fixture(autouse=True)
def of_few_samples(monkeypatch, eagerly):
    use_few_samples(monkeypatch)


def test_explanations_are_drawn_and_a_slide_is_refused(exported, model, idc_folder, tmp_path, capsys):
    path = find_paths(idc_folder)[0]
    slide = tmp_path / "<b>slide.png"
    write_png(slide, np.zeros((200, 200, 3), np.uint8))
    for arguments, code in (([path], 0), ([slide], 3), ([slide, path], 3)):
        with pytest.raises(SystemExit) as stop:
            cli.main(["explain", *map(str, arguments), "--model", str(exported), "--out", str(tmp_path / "out")])
        assert stop.value.code == code
    assert "slide.png has 200x200 pixels" in capsys.readouterr().err
    assert (tmp_path / f"out/0001-{path.stem}.png").stat().st_size > 10_000
    page = (tmp_path / "out/index.html").read_text()
    predictions = model.predict(read_patches([path]))
    for words in (
        f'src="0001-{path.stem}.png"',
        f"{predictions.probability[0]:.3f}",
        "Research use only",
        "200x200 pixels",
    ):
        assert words in page
    assert "<b>" not in page


def test_a_patch_at_another_scale_is_explained_when_its_scale_is_given(exported, model, idc_folder, tmp_path, capsys):
    card = model.card.model_copy(update={"microns_per_pixel": 4.0})
    folder, patch = shutil.copytree(exported, tmp_path / "model"), find_paths(idc_folder)[0]
    (folder / models.CARD).write_text(card.model_dump_json(), "utf-8")
    write_png(tmp_path / "large" / patch.name, read_patches([patch])[0].repeat(4, 0).repeat(4, 1))

    def page(file: Path, *options) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(["explain", str(file), "--model", str(folder), "--out", str(tmp_path / "out"), *options])
        assert stop.value.code == (0 if file == patch or options == ("--mpp", "1") else 3)
        return (tmp_path / "out/index.html").read_text().replace(str(file), "") if not stop.value.code else ""

    large = tmp_path / "large" / patch.name
    assert not page(large)
    message = "200x200 pixels and would be cut into patches, but states no resolution. Give its microns per pixel with"
    assert message in capsys.readouterr().err
    assert not page(large, "--mpp", "4")
    assert "200x200 pixels, and a patch 50x50. Check its microns per pixel" in capsys.readouterr().err
    assert page(large, "--mpp", "1") == page(patch)
