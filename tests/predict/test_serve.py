import asyncio
import base64
import socket
import threading

import numpy as np
import pytest
from fastapi.testclient import TestClient

from bcgan import cli
from bcgan.predict import serve
from bcgan.predict.model import Model
from bcgan.predict.predict import read_grid
from tests.conftest import write_png
from tests.predict.conftest import find_paths, read_patches


@pytest.fixture(scope="module")
def client(model: Model) -> TestClient:
    return TestClient(serve.make_app(model, concurrent=1))


@pytest.fixture(scope="module")
def patch(idc_folder) -> bytes:
    return find_paths(idc_folder)[0].read_bytes()


def test_a_patch_is_predicted_and_explained(client, model, patch, idc_folder):
    answer = client.post("/predict", params={"name": "a.png"}, content=patch).json()
    (row,) = answer["rows"]
    alone = model.predict(read_patches(find_paths(idc_folder)[:1]))
    assert row["probability"] == pytest.approx(alone.probability[0], abs=1e-5)
    assert (row["path"], row["mpp"], row["mpp_source"]) == ("a.png", 4.0, "assumed")
    assert answer["scale"].startswith("Read at 4 microns a pixel, assumed")
    head, _, picture = answer["picture"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert "Research use only" in answer["use"]


def test_a_slide_is_tiled_at_the_scale_that_is_given(client, tmp_path):
    write_png(tmp_path / "slide.png", np.random.default_rng(0).integers(90, 200, (200, 300, 3), dtype=np.uint8))
    refused = client.post("/predict", content=(tmp_path / "slide.png").read_bytes())
    assert refused.status_code == 422
    assert "300x200 pixels and would be cut into patches, but states no resolution" in refused.json()["detail"]
    answer = client.post("/predict?mpp=4", content=(tmp_path / "slide.png").read_bytes()).json()
    assert answer["scale"] == "Read at 4 microns a pixel, as entered."
    rows = answer["rows"]
    assert len(rows) == 24
    assert max(row["x"] for row in rows) == 250
    rows = client.post("/predict?mpp=2", content=(tmp_path / "slide.png").read_bytes()).json()["rows"]
    assert len(rows) == 6
    assert max(row["x"] for row in rows) == 200


def test_a_patch_of_a_large_image_is_explained(client, model, tmp_path, monkeypatch):
    draw, drawn = serve.maps.draw_explanation, []

    def drawing(target, title, patch, *arguments):
        drawn.append(patch)
        draw(target, title, patch, *arguments)

    monkeypatch.setattr(serve.maps, "draw_explanation", drawing)
    write_png(tmp_path / "slide.png", np.random.default_rng(0).integers(90, 200, (200, 300, 3), dtype=np.uint8))
    slide = (tmp_path / "slide.png").read_bytes()
    row = client.post("/predict?mpp=2", content=slide).json()["rows"][-1]
    answers = [
        client.post("/explain", params={"x": row["x"] + off, "y": row["y"], "mpp": 2}, content=slide) for off in (0, 1)
    ]
    assert [answer.status_code for answer in answers] == [200, 422]
    np.testing.assert_array_equal(drawn, read_grid(model, slide, 2).patches[-1:])
    picture = base64.b64decode(answers[0].json()["picture"].partition(",")[2])
    assert picture.startswith(b"\x89PNG")
    assert "Give those of a row" in answers[1].json()["detail"]


@pytest.mark.parametrize(
    ("data", "query", "code"),
    [(b"", {}, 422), (b"no image", {}, 422), (b"\x89PNG\r\n\x1a\n" + b"\xff" * 40, {}, 422), (b"x", {"mpp": -1}, 422),
     (b"x" * (serve.MAX_UPLOAD_BYTES + 1), {}, 413)],
)  # fmt: skip
def test_uploads_that_cannot_be_predicted_are_refused(client, data, query, code):
    response = client.post("/predict", params=query, content=data)
    assert response.status_code == code
    assert response.json()["detail"]


@pytest.mark.parametrize("side", [50, 200])
def test_an_image_of_empty_glass_has_one_row_and_no_call(client, tmp_path, side):
    write_png(tmp_path / "glass.png", np.full((side, side, 3), 250, np.uint8))
    glass = (tmp_path / "glass.png").read_bytes()
    answer = client.post("/predict", params={"mpp": 4, "name": "glass"}, content=glass)
    assert answer.status_code == 200
    (row,) = answer.json()["rows"]
    assert row == {
        "path": "glass", "x": 0, "y": 0, "probability": None, "uncertainty": None, "label": None,
        "verdict": "no_tissue", "mpp": 4.0, "mpp_source": "user",
    }  # fmt: skip
    assert answer.json()["picture"] == ""


def test_an_image_that_its_scale_makes_huge_is_refused(client, tmp_path):
    write_png(tmp_path / "slide.png", np.full((400, 300, 3), 150, np.uint8))
    answer = client.post("/predict?mpp=100", content=(tmp_path / "slide.png").read_bytes())
    assert (answer.status_code, "microns per pixel" in answer.json()["detail"]) == (422, True)
    answer = client.post("/predict?mpp=1e-9", content=(tmp_path / "slide.png").read_bytes())
    assert (answer.status_code, "smaller than a patch" in answer.json()["detail"]) == (422, True)


def test_names_cannot_become_markup(client):
    response = client.post("/predict", params={"name": "<script>alert(1)</script>"}, content=b"no image")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]
    assert "innerHTML" not in client.get("/").text


def test_a_request_beyond_the_slots_is_told_when_to_retry(client, patch, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()
    score = serve.score_image

    def slow(*arguments):
        entered.set()
        assert go_on.wait(60)
        return score(*arguments)

    monkeypatch.setattr(serve, "score_image", slow)
    answers = []
    first = threading.Thread(target=lambda: answers.append(client.post("/predict", content=patch)))
    first.start()
    assert entered.wait(60)
    busy = client.post("/predict", content=patch)
    go_on.set()
    first.join()
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "2")
    assert answers[0].status_code == 200
    assert client.post("/predict", content=b"").status_code == 422  # the slot is free again


def test_an_upload_that_does_not_arrive_gives_its_slot_back(client, patch, monkeypatch):
    async def stalled(request):
        await asyncio.sleep(60)

    with monkeypatch.context() as patched:
        patched.setattr(serve, "UPLOAD_TIMEOUT_S", 0.05)
        patched.setattr(serve, "_read_body", stalled)
        answer = client.post("/predict", content=patch)
    assert (answer.status_code, "did not arrive" in answer.json()["detail"]) == (408, True)
    assert client.post("/predict", content=patch).status_code == 200


def test_the_server_describes_itself_and_loads_nothing_from_elsewhere(client):
    description = client.get("/openapi.json").json()
    assert set(description["paths"]) == {"/card", "/explain", "/predict"}
    page = client.get("/").text
    assert "http://" not in page and "https://" not in page
    assert client.get("/card").json()["classes"] == ["benign", "malignant"]
    for path in ("/../cli.py", "/%2e%2e/cli.py", "/docs"):
        assert client.get(path).status_code == 404


def test_only_this_machine_may_connect_by_default(monkeypatch, exported):
    server_options = {}
    monkeypatch.setattr(serve, "check_free", lambda host, port: None)
    monkeypatch.setattr("uvicorn.run", lambda app, **options: server_options.update(options))
    for arguments, host in (([], "127.0.0.1"), (["--host", "0.0.0.0"], "0.0.0.0")):
        with pytest.raises(SystemExit) as stop:
            cli.main(["serve", "--model", str(exported), *arguments])
        assert stop.value.code == 0
        assert (server_options["host"], server_options["port"]) == (host, 8000)


def test_a_port_in_use_is_reported_in_one_sentence(exported, capsys):
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        port = occupant.getsockname()[1]
        with pytest.raises(SystemExit) as stop:
            cli.main(["serve", "--model", str(exported), "--port", str(port)])
        assert f"127.0.0.1:{port}: Address already in use. Choose others" in capsys.readouterr().err
    assert stop.value.code == 2
    serve.check_free("127.0.0.1", port)
    serve.check_free("::1", port)
