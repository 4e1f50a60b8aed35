"""`bcgan serve`: a page and an HTTP API, /openapi.json describes it, that score an image. Nothing is stored."""

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
from pydantic import BaseModel

from bcgan import __version__
from bcgan.errors import InputError
from bcgan.predict import maps
from bcgan.predict.model import Card, Model
from bcgan.predict.predict import predict_grid, read_grid, rows_of, unscored_row
from bcgan.slides.scale import Scale

LARGEST_UPLOAD = 32 * 2**20  # bytes
PATIENCE = 60  # seconds for an image to arrive: one that never does would keep its slot for good
PAGE = Path(__file__).with_name("page.html")
# What arrives and what may go wrong with it, for the description.
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
Place = Annotated[int, Query(ge=0, description="of the patch, as the rows of /predict have it")]
# Everything comes from here: no script of others, no request to others.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'"
)


class Row(BaseModel):
    """A patch: the columns of `bcgan predict`."""

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
    """picture: a PNG as a data address: the patch, and where the evidence for its call lies by each method."""

    picture: str


class Answer(BaseModel):
    """picture: a PNG as a data address: where the evidence lies in a patch, or a larger image under its map; "" where
    no tissue was found. explained: which of the two it is. scale: the image's microns per pixel and where they come
    from, in words."""

    rows: list[Row]
    explained: bool
    picture: str
    scale: str
    use: str


def make_app(model: Model, concurrent: int = 2) -> FastAPI:
    """The application.

    Args:
        concurrent: int. Images scored at a time; further requests get status 503. Defaults to 2.
    """
    _ = model.network  # explanations need it: read now, and not while the first image waits
    app = FastAPI(
        title="bcgan", version=__version__, description=model.card.intended_use, docs_url=None, redoc_url=None
    )
    slots = threading.BoundedSemaphore(concurrent)

    @app.middleware("http")
    async def guard(request: Request, call_next):
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.get("/card")
    def card() -> Card:
        """What the classifier is, how it was measured, and what it is for."""
        return model.card

    async def received(request: Request, work: Callable[[bytes], Any]) -> Any:
        """What `work` makes of the image in the request, in a slot of its own."""
        if not slots.acquire(blocking=False):
            raise HTTPException(503, "Busy with other images. Come again in a moment.", {"Retry-After": "2"})
        try:
            async with asyncio.timeout(PATIENCE):
                data = await _body(request)
            return await run_in_threadpool(work, data)
        except TimeoutError as error:
            raise HTTPException(408, f"The image did not arrive within {PATIENCE} seconds. Send it again.") from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        finally:
            slots.release()

    @app.post("/predict", **UPLOAD)
    async def predict(request: Request, name: Name = "image", mpp: Microns = None) -> Answer:
        """Score an image: a PNG, JPEG, TIFF or slide as the body."""
        return await received(request, lambda data: judge(model, data, name, mpp))

    @app.post("/explain", **UPLOAD)
    async def explain(request: Request, x: Place, y: Place, name: Name = "image", mpp: Microns = None) -> Explanation:
        """Explain one patch of an image, which is sent again: nothing of it was kept."""
        return await received(request, lambda data: explain_patch(model, data, name, mpp, x, y))

    return app


def check_free(host: str, port: int) -> None:
    """Before a classifier is read in vain.

    Raises:
        InputError: nothing can listen there.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:  # as uvicorn chooses
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
        except OSError as error:
            raise InputError(f"{host}:{port}: {error.strerror}. Choose others with --host and --port.") from error


def judge(model: Model, data: bytes, name: str, microns_per_pixel: float | None) -> Answer:
    """What /predict answers.

    Args:
        microns_per_pixel: float. Of the image. Defaults to what the file states.

    Raises:
        ValueError: If the bytes are no readable image, or its scale is not known.
    """
    grid = read_grid(model, data, microns_per_pixel, name)
    scale = describe_scale(grid.scale)
    if not len(grid.patches):
        row = Row(**unscored_row(name, "no_tissue", grid.scale))
        return Answer(rows=[row], explained=True, picture="", scale=scale, use=model.card.intended_use)
    predictions = predict_grid(model, grid)
    picture = io.BytesIO()
    if grid.is_single_patch:
        maps.draw_explanation(picture, name, grid.patches[0], model)
    else:
        maps.draw_map(picture, name, grid, predictions, model.card)
    rows = [Row(**row) for row in rows_of(name, grid, predictions)]
    return Answer(
        rows=rows, explained=grid.is_single_patch, picture=_address(picture), scale=scale, use=model.card.intended_use
    )


def explain_patch(model: Model, data: bytes, name: str, microns_per_pixel: float | None, x: int, y: int) -> Explanation:
    """What /explain answers.

    Raises:
        ValueError: If the bytes are no readable image, its scale is not known, or no patch with tissue lies there.
    """
    grid = read_grid(model, data, microns_per_pixel, name)
    (matches,) = np.nonzero((grid.image_coords == (x, y)).all(1))
    if not len(matches):
        raise ValueError(f"{name}: no patch with tissue begins at x={x}, y={y}. Give those of a row of /predict")
    picture = io.BytesIO()
    title = name if grid.is_single_patch else f"x {x}, y {y}, called without its neighbours: {name}"
    maps.draw_explanation(picture, title, grid.patches[matches[0]], model)
    return Explanation(picture=_address(picture))


def describe_scale(scale: Scale) -> str:
    """A sentence on the scale at which an image was read, and where it comes from."""
    if scale.mpp is None:
        return "The model does not know its scale; the image was read as one patch."
    x, y = scale.mpp
    value = f"{x:.4g}" if x == y else f"{x:.4g} (across) and {y:.4g} (down)"
    origin = {
        "user": "as entered",
        "assumed": "assumed, since the file states none and the image is as large as a patch",
    }.get(scale.source, f"from the file's {scale.source} metadata")
    return f"Read at {value} microns a pixel, {origin}."


def _address(picture: io.BytesIO) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"


async def _body(request: Request) -> bytes:
    """The request's body, in memory, up to LARGEST_UPLOAD bytes whatever its header claims."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST_UPLOAD:
            raise HTTPException(413, f"More than {LARGEST_UPLOAD // 2**20} MiB. Send a smaller image.")
    return bytes(data)
