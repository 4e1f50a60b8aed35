"""`bcgan serve`: a page and an HTTP API, /openapi.json describes it, where an image is judged. Nothing is kept."""

import asyncio
import base64
import io
import threading
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import BaseModel

from bcgan import __version__
from bcgan.predict import images, maps
from bcgan.predict.model import Card, Model
from bcgan.predict.predict import rows_of, scale_of

LARGEST_UPLOAD = 32 * 2**20  # bytes
PATIENCE = 60  # seconds for an image to arrive: one that never does would keep its slot for good
PAGE = Path(__file__).with_name("page.html")
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


class Answer(BaseModel):
    """picture: a PNG as a data address: a patch with where its evidence lies, or a larger image under its map."""

    rows: list[Row]
    picture: str | None
    use: str


def make_app(model: Model, concurrent: int = 2) -> FastAPI:
    """The application.

    Args:
        concurrent: int. Images judged at a time; a request beyond is told to come again (503). Defaults to 2.
    """
    _ = model.network  # explanations need it: read now, and not while the first image waits
    app = FastAPI(title="bcgan", version=__version__, description=model.card.use, docs_url=None, redoc_url=None)
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

    @app.post(
        "/predict",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
        responses={408: {}, 413: {}, 422: {}, 503: {}},
    )
    async def predict(
        request: Request,
        name: Annotated[str, Query(max_length=200)] = "image",
        mpp: Annotated[float | None, Query(gt=0, le=100, description="microns per pixel of the image")] = None,
    ) -> Answer:
        """Judge an image: a PNG, JPEG or TIFF as the body."""
        if not slots.acquire(blocking=False):
            raise HTTPException(503, "Busy with other images. Come again in a moment.", {"Retry-After": "2"})
        try:
            async with asyncio.timeout(PATIENCE):
                data = await _body(request)
            return await run_in_threadpool(judge, model, data, name, mpp)
        except TimeoutError as error:
            raise HTTPException(408, f"The image did not arrive within {PATIENCE} seconds. Send it again.") from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        finally:
            slots.release()

    return app


def judge(model: Model, data: bytes, name: str, microns_per_pixel: float | None) -> Answer:
    """What /predict answers.

    Raises:
        ValueError: the bytes are no readable image, or no tissue is on it.
    """
    tiles = images.cut(data, name, model.card.size, scale_of(model, microns_per_pixel))
    if not len(tiles.patches):
        raise ValueError(f"{name}: no tissue found, every tile is empty glass")
    found = model.predict(tiles.patches, None if tiles.whole else tiles.places)
    picture = io.BytesIO()
    if tiles.whole:
        maps.draw_explanation(picture, name, tiles.patches[0], model)
    else:
        maps.draw_map(picture, name, tiles, found, model.card)
    encoded = base64.b64encode(picture.getvalue()).decode()
    rows = [Row(**row) for row in rows_of(Path(name), tiles, found)]
    return Answer(rows=rows, picture=f"data:image/png;base64,{encoded}", use=model.card.use)


async def _body(request: Request) -> bytes:
    """The request's body, in memory, up to LARGEST_UPLOAD bytes whatever its header claims."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST_UPLOAD:
            raise HTTPException(413, f"More than {LARGEST_UPLOAD // 2**20} MiB. Send a smaller image.")
    return bytes(data)
