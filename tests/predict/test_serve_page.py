"""The page of `bcgan serve` in a real browser, against a real server."""

import socket
import threading
import time

import numpy as np
import pytest
import uvicorn

from bcgan.predict import serve
from tests.browser import DESK, PHONE, check
from tests.conftest import write_png
from tests.predict.conftest import read_patches


@pytest.fixture(scope="module")
def address(model):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(serve.make_app(model), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_dropped_patch_is_predicted_and_explained(opened, address, idc_folder, model, width, colours):
    path = next(idc_folder.rglob("*.png"))
    predictions = model.predict(read_patches([path]))
    page = opened(address, width, colours)
    page.set_input_files("#file", path)
    page.wait_for_selector("#picture:not([hidden])")
    assert f"{predictions.probability[0]:.3f}" in page.inner_text("#rows")
    assert "Research use only" in page.inner_text("main")
    assert "patients" in page.inner_text("#card")
    check(page, width)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_patch_of_a_large_image_is_explained_on_request(opened, address, tmp_path, width):
    tissue = np.random.default_rng(0).integers(90, 200, (150, 200, 3), dtype=np.uint8)
    write_png(tmp_path / "slide.png", tissue)
    page = opened(address, width)
    page.fill("#mpp", "4")
    page.set_input_files("#file", tmp_path / "slide.png")
    page.get_by_role("button", name="Explain the patch at 150, 100").click()
    page.wait_for_selector("#explained:not([hidden])")
    assert page.get_attribute("#explained", "alt").endswith("150, 100")
    check(page, width)


def test_a_large_image_is_scored_again_when_its_scale_is_entered(opened, address, tmp_path):
    from playwright.sync_api import expect

    tissue = np.random.default_rng(0).integers(90, 200, (150, 200, 3), dtype=np.uint8)
    write_png(tmp_path / "slide.png", tissue)
    page = opened(address)
    page.set_input_files("#file", tmp_path / "slide.png")
    expect(page.locator("#answer")).to_contain_text("states no resolution")
    assert page.locator("#rows").is_hidden()
    for mpp, count in (("4", 12), ("8", 48)):
        page.fill("#mpp", mpp)
        page.press("#mpp", "Enter")
        expect(page.locator("#scale")).to_have_text(f"Read at {mpp} microns a pixel, as entered.")
        expect(page.locator("#rows tbody tr")).to_have_count(count)
    page.fill("#mpp", "0")
    page.press("#mpp", "Enter")
    assert page.locator("#rows tbody tr").count() == 48  # an invalid scale changes nothing


def test_a_file_that_is_no_image_is_refused_in_words(opened, address, tmp_path):
    from playwright.sync_api import expect

    (tmp_path / "<b>notes.txt").write_text("no image")
    page = opened(address)
    with page.expect_response("**/predict?**") as answer:
        page.set_input_files("#file", tmp_path / "<b>notes.txt")
    assert answer.value.status == 422
    expect(page.locator("#answer")).to_contain_text("notes.txt")
    assert page.locator("#answer b").count() == 0
    assert page.locator("#picture").is_hidden()
