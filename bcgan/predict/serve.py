"""`bcgan serve`: predict images over HTTP, with a web page and an API (see /openapi.json). No image is stored."""

import asyncio
import base64
import io
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict

from bcgan import __version__
from bcgan.errors import InputError
from bcgan.predict import maps
from bcgan.predict.model import Card, Model
from bcgan.predict.predict import predict_grid, prediction_rows, read_grid, unscored_row
from bcgan.slides.scale import Scale

MAX_UPLOAD_BYTES = 32 * 2**20  # bytes
UPLOAD_TIMEOUT_S = 60  # an upload that never ends would occupy its slot forever
PAGE = Path(__file__).with_name("page.html")
# The request body and the error codes, for /openapi.json.
UPLOAD = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    "responses": {408: {}, 413: {}, 422: {}, 503: {}},
}
Name = Annotated[str, Query(max_length=200)]
Microns = Annotated[
    float | None, Query(gt=0, le=100, description="microns per pixel of the image; what the file states, if absent")
]
Coordinate = Annotated[int, Query(ge=0, description="of the patch, as the rows of /predict have it")]
# The page loads no script and no data from other servers.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'"
)


class Row(BaseModel):
    """The prediction for a patch, with the columns of `bcgan predict`, and those of more than two classes."""

    model_config = ConfigDict(extra="allow")

    path: str
    x: int
    y: int
    probability: float | None
    uncertainty: float | None
    label: str | None
    verdict: str
    mpp: float | None
    mpp_source: str | None


class Explanation(BaseModel):
    """An explanation of one patch."""

    picture: str  # PNG as a data URL: the patch, and by each method which pixels support a class


class Answer(BaseModel):
    """The predictions for an image, with a picture."""

    rows: list[Row]
    explained: bool  # whether the picture is an explanation; else it is a heat map
    picture: (
        str  # PNG as a data URL: the explanation of a single patch, or the heat map of a larger image; "": no tissue
    )
    scale: str  # microns per pixel and where they come from, in words
    use: str  # the intended use


def make_app(model: Model, concurrent: int = 2) -> FastAPI:
    """Build the web application.

    Args:
        concurrent: Number of images predicted at a time; further requests get status 503. Defaults to 2.
    """
    _ = model.network  # explanations need it: load it now, not in the first request
    app = FastAPI(
        title="bcgan", version=__version__, description=model.card.intended_use, docs_url=None, redoc_url=None
    )
    slots = threading.BoundedSemaphore(concurrent)

    @app.middleware("http")
    async def guard(request: Request, call_next):
        """Add security headers to every response: a content policy, and no guessing of content types."""
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.get("/card")
    def card() -> Card:
        """Return the model card: what the classifier is, how it was measured, and what it is for."""
        return model.card

    async def process_upload(request: Request, work: Callable[[bytes], Any]) -> Any:
        """Return the result of `work` for the image in the request, in one of the slots."""
        if not slots.acquire(blocking=False):
            raise HTTPException(503, "Busy with other images. Come again in a moment.", {"Retry-After": "2"})
        try:
            async with asyncio.timeout(UPLOAD_TIMEOUT_S):
                data = await _read_body(request)
            return await run_in_threadpool(work, data)
        except TimeoutError as error:
            raise HTTPException(
                408, f"The image did not arrive within {UPLOAD_TIMEOUT_S} seconds. Send it again."
            ) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        finally:
            slots.release()

    @app.post("/predict", **UPLOAD)
    async def predict(request: Request, name: Name = "image", mpp: Microns = None) -> Answer:
        """Predict an image: a PNG, JPEG, TIFF or slide as the body."""
        return await process_upload(request, lambda data: score_image(model, data, name, mpp))

    @app.post("/explain", **UPLOAD)
    async def explain(
        request: Request, x: Coordinate, y: Coordinate, name: Name = "image", mpp: Microns = None
    ) -> Explanation:
        """Explain one patch of an image, which has to be sent again: no image is stored."""
        return await process_upload(request, lambda data: explain_patch(model, data, name, mpp, x, y))

    return app


def check_free(host: str, port: int) -> None:
    """Check that the server can listen on an address, before the classifier is loaded.

    Raises:
        InputError: If it cannot.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:  # as uvicorn chooses
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
        except OSError as error:
            raise InputError(f"{host}:{port}: {error.strerror}. Choose others with --host and --port.") from error


def score_image(model: Model, data: bytes, name: str, microns_per_pixel: float | None) -> Answer:
    """Predict an image and draw its explanation or heat map: the answer of /predict.

    Args:
        data: Bytes of the encoded image.
        name: For error messages and titles.
        microns_per_pixel: Of the image. `None` means as the file states.

    Raises:
        ValueError: If the bytes are no readable image, or its scale is not known.
    """
    grid = read_grid(model, data, microns_per_pixel, name)
    scale = describe_scale(grid.scale)
    if not len(grid.patches):
        row = Row(**unscored_row(name, "no_tissue", model.card.classes, grid.scale))
        return Answer(rows=[row], explained=True, picture="", scale=scale, use=model.card.intended_use)
    predictions = predict_grid(model, grid)
    picture = io.BytesIO()
    if grid.is_single_patch:
        maps.draw_explanation(picture, name, grid.patches[0], model, predictions)
    else:
        maps.draw_map(picture, name, grid, predictions, model.card)
    rows = [Row(**row) for row in prediction_rows(name, grid, predictions, model.card.classes)]
    return Answer(
        rows=rows, explained=grid.is_single_patch, picture=_data_url(picture), scale=scale, use=model.card.intended_use
    )


def explain_patch(model: Model, data: bytes, name: str, microns_per_pixel: float | None, x: int, y: int) -> Explanation:
    """Draw the explanation of the patch at (x, y), pixels of the image: the answer of /explain.

    Raises:
        ValueError: If the bytes are no readable image, its scale is not known, or no patch with tissue begins there.
    """
    grid = read_grid(model, data, microns_per_pixel, name)
    (matches,) = np.nonzero((grid.image_coords == (x, y)).all(1))
    if not len(matches):
        raise ValueError(f"{name}: no patch with tissue begins at x={x}, y={y}. Give those of a row of /predict")
    picture = io.BytesIO()
    title = name if grid.is_single_patch else f"x {x}, y {y}, called without its neighbours: {name}"
    patch = grid.patches[matches[0]]
    predictions = model.predict(patch[None], has_tissue=np.ones(1, bool))
    maps.draw_explanation(picture, title, patch, model, predictions)
    return Explanation(picture=_data_url(picture))


def describe_scale(scale: Scale) -> str:
    """Return a sentence on the scale at which an image was read, and where it comes from."""
    if scale.mpp is None:
        return "The model does not know its scale; the image was read as one patch."
    x, y = scale.mpp
    value = f"{x:.4g}" if x == y else f"{x:.4g} (across) and {y:.4g} (down)"
    origin = {
        "user": "as entered",
        "assumed": "assumed, since the file states none and the image is as large as a patch",
    }.get(scale.source, f"from the file's {scale.source} metadata")
    return f"Read at {value} microns a pixel, {origin}."


def _data_url(picture: io.BytesIO) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"


async def _read_body(request: Request) -> bytes:
    """Read the body of a request into memory.

    Raises:
        HTTPException: If it has more than MAX_UPLOAD_BYTES, whatever its header claims.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_UPLOAD_BYTES:
            raise HTTPException(413, f"More than {MAX_UPLOAD_BYTES // 2**20} MiB. Send a smaller image.")
    return bytes(data)
