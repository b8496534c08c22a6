"""The HTTP service: images in, predictions out. A request is accepted, read, checked, predicted in a batch with others,
and answered; what fails before the network is answered at once and never reaches it."""

from __future__ import annotations

import asyncio
import codecs
import errno
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import PIL.Image
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import mtseg
from mtseg.core.errors import UserError, first_line
from mtseg.core.files import without_formulas
from mtseg.core.masks import polygons
from mtseg.core.metadata import Metadata
from mtseg.core.tables import DIGITS
from mtseg.data.images import DECODE_ERRORS
from mtseg.inference.predictor import Predictor, load
from mtseg.inference.result import Result
from mtseg.serve.batches import Batcher, Job
from mtseg.serve.limits import Limits
from mtseg.serve.metrics import Metrics

# of Pillow's: those that people send, and none that runs another program
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
BODY_SECONDS = 60.0  # a request whose body takes longer is refused, as it holds a place in the queue
RETRY_SECONDS = 1  # after which a client that was refused for a full queue may ask again
CHARSETS = {"utf-8", "ascii", "iso8859-1"}  # Python's names; other codecs make half characters, or fail
CLIENT_GONE = 499  # nginx's status for a client that closed the connection; it only shows in the metrics


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["json", "csv", "overlay"] = Field(
        "json", description="`json`: a COCO data set of one image. `csv`: a row each. `overlay`: the image, drawn over."
    )
    mask: Literal["rle", "polygons"] = Field(
        "rle", description="In JSON: masks as compressed COCO RLE, exact, or as outlines, at most a pixel off."
    )
    score: float | None = Field(
        None, ge=0, le=1,
        description="Smallest label probability x mask quality of the main task, in place of all thresholds of the "
        "model's filter, which are the default. Requests with the same value share batches.",
    )  # fmt: skip


class ImageSize(BaseModel):
    id: int
    file_name: str = Field(description="The name of the uploaded file, or `image`.")
    height: int = Field(description="In pixels, after rotation by EXIF data.")
    width: int


class Category(BaseModel):
    id: int = Field(description="From 1.")
    name: str


class RLE(BaseModel):
    size: tuple[int, int] = Field(description="Height, width.")
    counts: str = Field(description="COCO's compressed run-length code, which `pycocotools.mask.decode` reads.")


class Annotation(BaseModel):
    id: int
    image_id: int
    category_id: int = Field(description="Class of the main task.")
    bbox: tuple[float, float, float, float] = Field(description="x, y, width, height in pixels, of the mask.")
    area: float = Field(description="Pixels of the mask.")
    iscrowd: Literal[0]
    score: float = Field(description="0 to 1: label probability x mask quality; the annotations are sorted by it.")
    mask_quality: float = Field(description="0 to 1: mean probability of the mask's pixels.")
    query: int = Field(description="Output of the network. Annotations with the same one share their mask.")
    labels: dict[str, str] = Field(description="Class of every task.")
    probabilities: dict[str, float] = Field(description="0 to 1, of the label of every task.")
    segmentation: RLE | list[list[float]] = Field(description="RLE, or polygons [x0, y0, x1, y1, ...].")


class Answer(BaseModel):
    """A COCO data set of one image."""

    images: list[ImageSize]
    categories: list[Category] = Field(description="Classes of the main task.")
    annotations: list[Annotation]


class Problem(BaseModel):
    detail: str = Field(description="One line: what is wrong, and what is allowed.")


BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"type": "object", "required": ["file"], "properties": {"file": BINARY["schema"]}}
BODY = {
    "required": True,
    "description": "One image: the field `file` of a form, or the body itself.",
    "content": {"multipart/form-data": {"schema": FORM}, "image/*": BINARY, "application/octet-stream": BINARY},
}
PROBLEMS = {
    400: "Empty, damaged or no image, or a form without the field `file`",
    408: f"The body took longer than {BODY_SECONDS:.0f} s",
    413: "Too many bytes or pixels",
    415: "Neither an image nor a form in UTF-8, by its content type",
    422: "Bad query parameter, or one in the form",
    500: "The network failed",
    503: "The queue is full: try again after the seconds of the header `Retry-After`",
}


def example(metadata: Metadata) -> dict[str, Any]:
    """An answer with the model's own tasks and classes."""
    first = {task.name: task.classes[0] for task in metadata.tasks}
    main = metadata.tasks[0]
    return {
        "images": [{"id": 1, "file_name": "image.jpg", "height": 4, "width": 6}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(main.classes, start=1)],
        "annotations": [
            {
                "id": 1, "image_id": 1, "category_id": 1, "bbox": [1.0, 1.0, 3.0, 2.0], "area": 6.0, "iscrowd": 0,
                "score": 0.91, "mask_quality": 0.96, "query": 7, "labels": first,
                "probabilities": dict.fromkeys(first, 0.95), "segmentation": {"size": [4, 6], "counts": "52220"},
            }
        ],
    }  # fmt: skip


def application(predictor: Predictor, limits: Limits) -> ASGIApp:
    """The service of a model. The thread of the network ends with its lifespan."""
    metrics, metadata = Metrics(), predictor.metadata
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="images")
    # matplotlib is not safe in several threads at once, and overlays must not take the place of images to decode
    drawing = ThreadPoolExecutor(1, thread_name_prefix="overlays")
    most_bytes, most_pixels = int(limits.megabytes * 1e6), int(limits.megapixels * 1e6)
    batcher = Batcher(
        predictor, batch=limits.batch, wait=limits.wait / 1000, pixels=most_pixels, pool=pool, metrics=metrics
    )
    metrics.waiting.set_function(lambda: len(batcher.waiting))
    accepted: set[Request] = set()
    metrics.accepted.set_function(lambda: len(accepted))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()
        pool.shutdown()
        drawing.shutdown()

    app = FastAPIOffline(
        redoc_url=None, redirect_slashes=False, title="mtseg", version=mtseg.__version__, lifespan=lifespan,
        description="Instance segmentation with several labels per instance. Tasks of this model: "
        + ", ".join(f"{task.name} ({', '.join(task.classes)})" for task in metadata.tasks),
    )  # fmt: skip
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(404, partial(_no_route, app))
    app.add_exception_handler(405, partial(_no_route, app))
    app.add_exception_handler(Exception, _failed)

    async def in_thread(work: Callable[..., Any], *given: Any, threads: ThreadPoolExecutor = pool) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, work, *given)

    @app.post(
        "/predict",
        summary="Predict on one image",
        response_class=Response,
        openapi_extra={"requestBody": BODY},
        responses={
            200: {
                "description": "The predictions, the best first",
                "model": Answer,
                "content": {"application/json": {"example": example(metadata)}, "text/csv": {}, "image/jpeg": BINARY},
            },
            **{status: {"description": text, "model": Problem} for status, text in PROBLEMS.items()},
        },
    )
    async def predict(request: Request, options: Annotated[Options, Query()]) -> Response:
        _check_once(request)
        if len(accepted) >= limits.queue:
            detail = f"the queue is full ({limits.queue} requests): try again later"
            raise HTTPException(503, detail, headers={"Retry-After": str(RETRY_SECONDS)})
        accepted.add(request)
        try:
            name, data = await read(request, most_bytes)
            job = Job(name, data, await in_thread(count_pixels, data, limits.megapixels), options.score)
            batcher.submit(job)
            try:
                result = await first_of(asyncio.wrap_future(job.future), request)
            finally:
                batcher.withdraw(job)
            return await in_thread(respond, result, options, threads=drawing if options.format == "overlay" else pool)
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        finally:
            accepted.discard(request)

    @app.get(
        "/health",
        summary="200 when the model is loaded and the network's thread runs",
        responses={503: {"description": "The thread has ended", "model": Problem}},
    )
    async def health() -> dict[str, str]:
        if not batcher.thread.is_alive():
            raise HTTPException(503, "the network's thread has ended: restart the service")
        return {"status": "ready"}

    @app.get("/metrics", summary="Counters and timings, as Prometheus reads them", response_class=Response)
    async def numbers() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/info", summary="The model: tasks, classes, input, filter, data, settings and scores of its training")
    async def info() -> Metadata:
        return metadata

    return Counted(app, metrics)


def _check_once(request: Request) -> None:
    """Raises HTTPException when a parameter is given twice, of which only one value would count."""
    times = Counter(name for name, _ in request.query_params.multi_items())
    if repeated := [name for name, count in times.items() if count > 1]:
        raise HTTPException(422, f"{repeated[0]}: given {times[repeated[0]]} times, once is allowed")


def _codec(charset: str) -> str:
    try:
        return codecs.lookup(charset).name
    except (LookupError, ValueError):  # of a character 0
        return ""


async def read(request: Request, limit: int) -> tuple[str, bytes]:
    """Name and bytes of the image in a request. Raises HTTPException."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = kind == "multipart/form-data"
    if not (form or kind.startswith("image/") or kind == "application/octet-stream"):
        detail = f"content type '{kind}': send the image as image/jpeg, another image/*, or multipart/form-data"
        raise HTTPException(415, detail)
    charset = parse_options_header(request.headers.get("content-type"))[1].get(b"charset", b"utf-8").decode("latin-1")
    if form and _codec(charset) not in CHARSETS:
        raise HTTPException(415, f"charset '{charset}': send the form in UTF-8")
    if int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(limit)
    limited = Request(request.scope, _limited(request.receive, limit))
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _of_form(limited) if form else ("image", await limited.body())
    except TimeoutError:
        raise HTTPException(408, f"the body took longer than {BODY_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise HTTPException(CLIENT_GONE, "the client closed the connection") from None


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the request is larger than {limit / 1e6:g} MB")


def _limited(receive: Receive, limit: int) -> Receive:
    """The client may send any length, or no true one."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        return message

    return counted


async def _of_form(request: Request) -> tuple[str, bytes]:
    try:
        async with request.form(max_files=1) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                fields = ", ".join(form) or "none"
                raise HTTPException(400, f"the form has no file in its field 'file' (its fields: {fields})")
            if others := [name for name in form if name != "file"]:
                detail = f"{', '.join(others)}: a form has only the field 'file'; parameters are in the URL: ?score=0.5"
                raise HTTPException(422, detail)
            return file.filename or "image", await file.read()
    except FormParserError as error:
        raise HTTPException(400, f"the form is damaged ({first_line(error)})") from None


def count_pixels(data: bytes, megapixels: float) -> int:
    """Of an image file, from its header. Raises UserError when there is none, HTTPException when it is too large."""
    if not data:
        raise UserError("the image is empty (0 bytes)")
    too_large = HTTPException(413, f"the image has more than {megapixels:g} megapixels")
    try:
        with PIL.Image.open(BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
    except PIL.Image.DecompressionBombError:
        raise too_large from None
    except DECODE_ERRORS:
        raise UserError(f"this is not an image that can be read (formats: {', '.join(FORMATS)})") from None
    if pixels > megapixels * 1e6:
        raise too_large
    return pixels


async def first_of(future: asyncio.Future[Result], request: Request) -> Result:
    """Wait for the result. Raises HTTPException when the client goes before, and what the future raises."""
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({future, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not future.done():
        future.cancel()
        raise HTTPException(CLIENT_GONE, "the client closed the connection")
    return future.result()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def respond(result: Result, options: Options) -> Response:
    if options.format == "overlay":
        drawn = result.plot()
        buffer = BytesIO()
        drawn.save(buffer, "JPEG", quality=90)
        return Response(buffer.getvalue(), media_type="image/jpeg")
    if options.format == "csv":
        return Response(without_formulas(result.to_dataframe()).to_csv(index=False), media_type="text/csv")
    return Response(json.dumps(answer(result, options.mask), ensure_ascii=False), media_type="application/json")


def answer(result: Result, mask: str) -> dict[str, Any]:
    """As COCO, with the probability of every label in place of the logits."""
    data = result.to_coco()
    for row, annotation in enumerate(data["annotations"]):
        del annotation["logits"]
        annotation["probabilities"] = {
            task: float(f"{column[row]:.{DIGITS}g}") for task, column in result.probability.items()
        }
        if mask == "polygons":
            annotation["segmentation"] = polygons(annotation["segmentation"])
    return data


async def _bad_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
    faults = {".".join(map(str, fault["loc"][1:])): fault for fault in error.errors()}
    known = f"no such parameter (valid: {', '.join(Options.model_fields)})"
    texts = [f"{name}: {known if one['type'] == 'extra_forbidden' else one['msg']}" for name, one in faults.items()]
    return JSONResponse({"detail": "; ".join(texts)}, 422)


async def _no_route(app: FastAPI, request: Request, error: HTTPException) -> JSONResponse:
    """For a path that does not exist (404), or not with this method (405)."""
    path = request.url.path
    if error.status_code == 405:
        detail = f"{request.method} {path}: this path takes {(error.headers or {}).get('Allow', 'GET')}"
    else:
        routes = [one for one in app.routes if isinstance(one, APIRoute) and one.include_in_schema]
        known = ", ".join(f"{method} {one.path}" for one in routes for method in one.methods)
        detail = f"there is no path {path} (valid: {known}; GET /docs describes them)"
    return JSONResponse({"detail": detail}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """The server logs the traceback."""
    return JSONResponse({"detail": "the service failed on this request: see its log"}, 500)


class Counted:
    """Counts every response when it starts: whoever has an answer finds it in the metrics. HEAD is answered as GET,
    whose body the server then leaves out."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.monotonic()
        if scope.get("method") == "HEAD":
            scope = {**scope, "method": "GET"}

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path, status = getattr(scope.get("route"), "path", "other"), message["status"]
                self.metrics.requests.labels(path, status).inc()
                if path == "/predict" and status == 200:
                    self.metrics.request_seconds.observe(time.monotonic() - start)
            await send(message)

        await self.app(scope, receive, counted)


def run(weights: Path, *, host: str, port: int, device: str, limits: Limits) -> None:
    """Serve a model until SIGTERM or SIGINT; the requests that were accepted are answered first. Raises UserError when
    the address cannot be used or the model cannot be loaded."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno in errno.errorcode else first_line(error)
        raise UserError(f"cannot listen on {host}, port {port}: {reason}: choose another --port or --host") from None
    with listening:
        predictor = load(weights, device=device)
        predictor.predict(np.zeros((64, 64, 3), dtype=np.uint8))  # the first image takes longer: none of a client
        server = uvicorn.Server(uvicorn.Config(application(predictor, limits), access_log=False))
        for number in (signal.SIGINT, signal.SIGTERM):  # the server raises it again when it has ended
            signal.signal(number, signal.default_int_handler)
        where = f"[{host}]" if ":" in host else host
        print(f"serving on http://{where}:{listening.getsockname()[1]}, stop with Ctrl-C", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
