import csv
import doctest
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bcgan
from bcgan import cli
from bcgan.errors import InputError
from bcgan.predict import explain, images, maps, predict
from bcgan.predict import model as models
from tests.conftest import write_png
from tests.predict.conftest import command


def test_the_classifier_that_comes_with_bcgan_works_and_its_example_runs():
    judge = bcgan.load()
    noise = np.random.default_rng(0).integers(0, 255, (3, 50, 50, 3), dtype=np.uint8)
    assert (judge.predict(noise).verdict == models.VERDICTS.index("out_of_distribution")).all()
    assert doctest.testmod(models).attempted > 0
    assert doctest.testmod(models).failed == 0


def test_an_image_of_empty_glass_has_a_verdict(model, tmp_path):
    write_png(tmp_path / "glass.png", np.full((200, 200, 3), 255, np.uint8))
    out = io.StringIO()
    assert predict.predict(model, [tmp_path / "glass.png"], out, True)["out_of_distribution"] == 1
    assert json.loads(out.getvalue())["probability"] is None


def test_the_side_car_is_checked_before_anything_is_loaded(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(models.engines, "choose", lambda *given: pytest.fail("a network was loaded"))
    for name, change in (
        ("classifier.keras", lambda path: path.write_bytes(path.read_bytes() + b" ")),
        ("classifier.tflite", lambda path: path.write_bytes(path.read_bytes() + b" ")),
        ("selector.npz", lambda path: path.unlink()),
        (models.CARD, lambda path: path.write_text("{}")),
        (models.CARD, lambda path: path.write_text(path.read_text().replace('"benign"', '"malign"'))),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(exported, copy)
        change(copy / name)
        with pytest.raises(InputError, match=rf"{name}.*bcgan export"):
            models.load(copy)
        shutil.rmtree(copy)


def test_what_is_too_small_to_judge_is_refused(patches, tmp_path):
    """Not filled up with glass and called benign; patches at the edge of a slide are narrow."""
    little = "too little to judge"
    for height, width, scale, words in (
        (50, 50, 4.0, little), (256, 256, 8.0, little), (1, 1, 1.0, little), (37, 37, 1.0, little),
        (50, 50, 0.01, "enlarged 100 times"), (38, 1, 1.0, None), (50, 50, 0.125, None),
    ):  # fmt: skip
        write_png(tmp_path / "image.png", np.resize(patches[0], (height, width, 3)))
        if words is None:
            assert len(images.read(tmp_path / "image.png", 50, scale).patches)
            continue
        with pytest.raises(ValueError, match=words):
            images.read(tmp_path / "image.png", 50, scale)


def test_what_has_no_colour_is_no_stained_tissue(patches):
    """Grey tissue would be called benign beyond doubt; glass is white on any slide."""
    model = bcgan.load()
    grey = patches.mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1)
    strange = models.VERDICTS.index("out_of_distribution")
    assert (model.predict(grey).verdict == strange).all()
    assert not models._colourless(patches).any()
    assert not models._colourless(np.full((1, 50, 50, 3), 255, np.uint8)).any()
    half = patches.copy()
    half[:, :25] = grey[:, :25]  # some colour is enough
    assert not models._colourless(half).any()


def test_patches_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match="must be uint8"):
        model.predict(np.zeros((1, 32, 32, 3), np.uint8))


def test_what_was_there_stays_until_all_is_judged(exported, idc_folder, tmp_path, monkeypatch):
    out = tmp_path / "calls.csv"
    out.write_text("of yesterday")

    def stopped(judge, paths, file, *_):
        file.write("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "predict", stopped)
    assert command(idc_folder, "--model", exported, "--out", out) == 130
    assert out.read_text() == "of yesterday"


def test_files_folders_patterns_and_lists_are_found(tmp_path):
    for name in ("a/one.png", "a/b/two.jpg", "three.txt", "a/four [x].png", "a/._one.png"):
        write_png(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    assert [path.name for path in images.find([str(tmp_path)])] == ["two.jpg", "four [x].png", "one.png"]
    assert [path.name for path in images.find([str(tmp_path / "**/*.jpg")])] == ["two.jpg"]
    assert images.find([str(tmp_path / "a/four [x].png")]) == [tmp_path / "a/four [x].png"]
    assert images.find(["-"], ["x y.png\n", "\n", "z.png"]) == [Path("x y.png"), Path("z.png")]
    with pytest.raises(InputError, match="nowhere"):
        images.find([str(tmp_path / "nowhere")])


def test_a_large_image_is_tiled_where_it_holds_tissue(tmp_path):
    image = np.full((130, 220, 3), 255, np.uint8)
    image[:100, 50:150] = (150, 80, 140)
    write_png(tmp_path / "slide.png", image)
    tiles = images.read(tmp_path / "slide.png", 50, 1.0)
    assert sorted(map(tuple, tiles.places)) == [(50, 0), (50, 50), (100, 0), (100, 50)]
    assert not tiles.whole
    assert (tiles.patches == (150, 80, 140)).all()
    half = images.read(tmp_path / "slide.png", 50, 2.0)
    assert half.scale == 2
    assert len(half.patches) == 2


def test_every_file_has_its_verdict(model, idc_folder, tmp_path, exported, capsys):
    real = images.find([str(idc_folder)])[:3]
    (tmp_path / "broken.png").write_bytes(real[0].read_bytes()[:200])
    (tmp_path / "empty.png").write_bytes(b"")
    write_png(tmp_path / "noise.png", np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8))
    out = tmp_path / "new" / "out.csv"
    assert command(*real, tmp_path, "--model", exported, "--out", out) == 3
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert tuple(rows[0]) == predict.COLUMNS
    verdicts = {Path(row["path"]).name: row["verdict"] for row in rows}
    assert verdicts["broken.png"] == verdicts["empty.png"] == "unreadable"
    assert verdicts["noise.png"] == "out_of_distribution"
    assert all(verdicts[path.name] in ("scored", "abstained") for path in real)
    for row in rows:
        assert (row["label"] != "") == (row["verdict"] == "scored")
        assert (row["probability"] != "") == (row["verdict"] in ("scored", "abstained"))
    assert "broken.png is a truncated PNG" in capsys.readouterr().err


def test_a_slide_that_cannot_be_read_here_is_told_and_the_others_go_on(model, idc_folder, tmp_path, monkeypatch):
    real, out = [images.find([str(idc_folder / patient)])[0] for patient in ("100", "101")], io.StringIO()

    def unread(*_):
        raise InputError("slide.svs needs OpenSlide")

    (tmp_path / "slide.svs").write_bytes(b"a slide")
    monkeypatch.setattr(predict.slides, "read", unread)
    counts = predict.predict(model, [real[0], tmp_path / "slide.svs", real[1]], out, True)
    assert counts["unreadable"] == 1
    assert [json.loads(line)["path"] for line in out.getvalue().splitlines()][1] == str(tmp_path / "slide.svs")


def test_a_list_may_name_files_in_any_bytes(monkeypatch):
    assert images.find(["-"], ["a.png\n", "b.png\r\n", "\n"]) == [Path("a.png"), Path("b.png")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff.png\n"), "utf-8"))
    assert [os.fsencode(line.strip()) for line in cli._listed(("-",))] == [b"a\xff.png"]
    assert cli._listed(("a.png",)) == ()


def test_json_lines_say_the_same(model, idc_folder):
    paths = images.find([str(idc_folder)])[:2]
    lines, table = io.StringIO(), io.StringIO()
    predict.predict(model, paths, lines, True)
    predict.predict(model, paths, table, False)
    one = [json.loads(line) for line in lines.getvalue().splitlines()]
    other = list(csv.DictReader(io.StringIO(table.getvalue())))
    assert [row["probability"] for row in one] == [float(row["probability"]) for row in other]


def test_a_slide_gets_a_map_and_outlines(model, patches, tmp_path):
    slide = patches[:12].reshape(3, 4, 50, 50, 3).swapaxes(1, 2).reshape(150, 200, 3)
    write_png(tmp_path / "slide.png", slide)
    counts = predict.predict(model, [tmp_path / "slide.png"], io.StringIO(), False, maps=tmp_path / "maps")
    found = json.loads((tmp_path / "maps/slide.png.geojson").read_text())
    assert len(found["features"]) == sum(counts.values()) == 12
    ring = np.array(found["features"][5]["geometry"]["coordinates"][0])
    assert ring.min(0).tolist() == [50, 50] and ring.max(0).tolist() == [100, 100]
    for kind in ("map", "heat"):
        assert images.images.decode((tmp_path / f"maps/slide.png.{kind}.png").read_bytes(), kind).ndim == 3
    assert set(maps.ROUND) >= {1, 50, 200, 1000}


@pytest.mark.parametrize("tissue", [True, False])
def test_a_map_has_tissue_or_none_and_stripes_where_there_is_no_probability(tissue):
    """Magenta is no colour of the map; the third square is of a patch that the model does not know."""
    card = models.Card.model_validate_json((models.SHIPPED / models.CARD).read_text("utf-8"))
    image = np.zeros((50, 150, 3), np.uint8) + np.array([255, 0, 255], np.uint8)
    places = np.array([[0, 0], [50, 0], [100, 0]])
    tiles = images.Tiles(np.zeros((3, 50, 50, 3), np.uint8), places, 1.0, image, False, 1.0, 50)
    verdict = np.array([models.VERDICTS.index(one) for one in ("scored", "abstained", "out_of_distribution")])
    found = models.Judged(np.array([0.1, 0.9, 0.9]), np.zeros(3), np.array([0, 1, 1]), verdict)
    over = maps.squares(tiles, found, card, 1.0, (50, 150), 1.0)
    np.testing.assert_allclose(over[:, :50] - maps.COLOURS(maps.turning(card)(0.1)), 0, atol=1e-9)
    np.testing.assert_allclose(over[:, 50:100] - maps.COLOURS(maps.turning(card)(0.9)), 0, atol=1e-9)
    assert {tuple(pixel) for pixel in over[:, 100:].reshape(-1, 4)} == set(maps.STRIPES)
    target = io.BytesIO()
    maps.draw_map(target, "slide", tiles, found, card, tissue)
    red, green, blue = images.images.decode(target.getvalue(), "map").astype(int).reshape(-1, 3).T
    assert ((red > 100) & (blue > 100) & (np.minimum(red, blue) - green > 60)).any() == tissue


def test_what_is_not_a_model_is_named(tmp_path, capsys):
    assert command("nowhere.png", "--model", tmp_path) == 2
    assert "nowhere.png" in capsys.readouterr().err
    write_png(tmp_path / "patch.png", np.zeros((50, 50, 3), np.uint8))
    assert command(tmp_path / "patch.png", "--model", tmp_path) == 2
    assert "classifier.json does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("name", [r"$\frac$ <i>.png", os.fsdecode(b"no\xfftext.png"), "two\nlines.png"])
def test_names_may_hold_anything_in_pictures_too(model, patches, tmp_path, name):
    """Matplotlib would read dollars as mathematics, and refuses what is no text."""
    write_png(tmp_path / "a" / name, np.concatenate(list(patches[:4])))
    write_png(tmp_path / "b" / name, patches[0])
    predict.predict(model, [tmp_path / "a" / name], io.StringIO(), False, maps=tmp_path / "maps")
    assert (tmp_path / f"maps/{name}.map.png").stat().st_size > 10_000
    assert explain.write(model, [tmp_path / "b" / name], tmp_path / "out") == 0
    assert (tmp_path / f"out/0000-{Path(name).stem}.png").stat().st_size > 10_000


def test_slides_of_one_name_have_maps_of_their_own(model, patches, tmp_path):
    paths = [tmp_path / "a/slide.png", tmp_path / "b/slide.png", tmp_path / "b/other.png"]
    for path in paths:
        write_png(path, np.concatenate(list(patches[:2])))
    predict.predict(model, paths, io.StringIO(), False, maps=tmp_path / "maps")
    names = {path.name for path in (tmp_path / "maps").glob("*.geojson")}
    assert names == {"0000-slide.png.geojson", "0001-slide.png.geojson", "other.png.geojson"}


def test_litert_says_what_keras_says(exported, model, patches):
    quick, slow = (bcgan.load(exported, engine).predict(patches) for engine in ("litert", "keras"))
    assert 0 < model.card.litert < 0.01
    assert model.card.bfloat16 is None or 0 < model.card.bfloat16 <= 0.01
    np.testing.assert_allclose(quick.probability, slow.probability, atol=0.01)
    near = np.abs(slow.probability - model.card.calls.threshold) < 0.01
    np.testing.assert_array_equal(quick.called[~near], slow.called[~near])
    # OpenVINO and LiteRT read the same file and add up in another order.
    np.testing.assert_allclose(model.predict(patches[:1]).probability, quick.probability[:1], atol=1e-4)


def test_a_network_that_was_changed_after_it_was_checked_is_not_loaded(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    found = models.load(folder, "litert")
    (folder / "classifier.keras").write_bytes(b"another one")
    with pytest.raises(InputError, match="was changed after it was checked"):
        _ = found.network


def test_an_older_export_has_keras_alone(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "old")
    card = json.loads((folder / "classifier.json").read_text())
    card["sha256"] = {name: digest for name, digest in card["sha256"].items() if not name.endswith(".tflite")}
    (folder / "classifier.json").write_text(json.dumps(card))
    assert bcgan.load(folder).engine == "keras"
    with pytest.raises(InputError, match=r"engine litert: .* holds no classifier.tflite; export it anew"):
        bcgan.load(folder, "litert")


def test_a_patch_is_judged_without_tensorflow(exported, idc_folder):
    code = (
        "import sys; from bcgan.cli import main\n"
        f"try: main(['predict', {str(next(idc_folder.rglob('*.png')))!r}, '--model', {str(exported)!r}])\n"
        "except SystemExit as stop: assert stop.code in (0, 3), stop.code\n"
        "sys.exit(bool({'tensorflow', 'keras', 'sklearn', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("path,x,y,probability")
