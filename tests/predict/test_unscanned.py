"""Areas of a slide that were not scanned and are black: every way to score a patch reads them as glass."""

import io
import json

import numpy as np
import pytest

import bcgan
from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.predict import explain, serve
from bcgan.predict.model import VERDICTS
from bcgan.predict.predict import predict, predict_image
from bcgan.slides.files import find_images
from bcgan.slides.patches import read_one_patch
from bcgan.slides.scale import user_mpp
from tests.conftest import write_png


@pytest.fixture(scope="module")
def model():
    """The included classifier, which refuses no tissue here."""
    loaded = bcgan.load()
    loaded.card = loaded.card.model_copy(update={"ood_threshold": np.inf})
    return loaded


def blacken(image: np.ndarray, band: int, side: str) -> np.ndarray:
    image = image.copy()
    window = {"top": np.s_[:band], "right": np.s_[:, -band:]}[side]
    image[window] = 0
    return image


def predict_rows(model, path) -> list[dict]:
    out = io.StringIO()
    predict(model, find_images([str(path)]), out, True, lambda image: user_mpp(4.0))
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("side", ["top", "right"])
@pytest.mark.parametrize("band", [4, 12])
def test_a_patch_is_explained_with_the_probability_of_its_row(model, tmp_path, band, side):
    """Also that of an image of up to 1.5 patches, of which the center is read."""
    for number, patch in enumerate(example_patches(8)[0]):
        image = blacken(patch if number % 2 else np.pad(patch, ((9, 9), (9, 9), (0, 0)), "reflect"), band, side)
        write_png(tmp_path / f"{number}.png", image)
        (row,) = predict_image(model, tmp_path / f"{number}.png", 4.0)
        grid = read_one_patch(tmp_path / f"{number}.png", model.scale)
        described = explain._describe(model, grid.patches[0], explain.predict_patch(model, grid))
        assert described["probability"] == pytest.approx(row["probability"])
        words = {"scored": "Called", "abstained": "No call", "out_of_distribution": "unlike", "no_tissue": "no tissue"}
        assert words[row["verdict"]] in described["call"]


def test_the_picture_of_the_server_has_the_call_of_its_row(model, tmp_path, monkeypatch):
    """The tissue of the whole image decides, not that of its center alone."""
    drawn = []
    monkeypatch.setattr(serve.maps, "draw_explanation", lambda *arguments: drawn.append(arguments[-1]))
    patch = example_patches(1)[0][0]
    tinted = np.full((72, 72, 3), (200, 190, 215), np.uint8)
    tinted[11:61, 11:61] = patch
    write_png(tmp_path / "a.png", tinted)
    answer = serve.score_image(model, (tmp_path / "a.png").read_bytes(), "a.png", 4.0)
    (predictions,) = drawn
    assert VERDICTS[predictions.verdict[0]] == answer.rows[0].verdict != "no_tissue"
    assert predictions.probability[0] == pytest.approx(answer.rows[0].probability)


def test_tiles_are_filled_as_the_whole_slide_is(model, tmp_path):
    """A strip that was not scanned crosses tiles, and covers some of them."""
    patches = example_patches(16)[0]
    slide = np.concatenate([np.concatenate(patches[row * 4 : row * 4 + 4], 1) for row in range(4)])
    slide = np.pad(slide, ((0, 0), (0, 100), (0, 0)), constant_values=245)
    slide[:, 180:] = 0
    slide[:, 190:230] = 245
    write_png(tmp_path / "slide.png", slide)
    for x in range(0, slide.shape[1], 50):
        for y in range(0, slide.shape[0], 50):
            write_png(tmp_path / f"tiles/s_x{x}_y{y}.png", slide[y : y + 50, x : x + 50])
    whole = {(row["x"], row["y"]): row for row in predict_rows(model, tmp_path / "slide.png")}
    tiles = {
        tuple(map(int, row["path"][:-4].rsplit("_x")[1].split("_y"))): row
        for row in predict_rows(model, tmp_path / "tiles")
    }
    scored = [place for place, row in tiles.items() if row["verdict"] != "no_tissue"]
    assert set(scored) == {place for place, row in whole.items() if row["verdict"] != "no_tissue"} and len(scored) >= 16
    for place in scored:
        assert tiles[place]["verdict"] == whole[place]["verdict"]
        assert tiles[place]["probability"] == pytest.approx(whole[place]["probability"], abs=0.02)
