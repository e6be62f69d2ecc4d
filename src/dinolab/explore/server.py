"""The page and its answers over HTTP, for one browser on this machine."""

import errno
import json
import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dinolab.errors import UserError, reason
from dinolab.explore.collection import Gone
from dinolab.explore.guard import TOKEN, Guard
from dinolab.explore.later import Busy
from dinolab.explore.options import ExploreOptions
from dinolab.explore.pictures import Image, encoded
from dinolab.explore.session import STATIC, Session
from dinolab.options import EXPLORER_PORT

log = logging.getLogger(__name__)
EVERYWHERE = ("", "0.0.0.0", "::")  # no browser opens these, and other names of a server are refused
LARGEST_DROP = 32 << 20  # bytes
LARGEST_LIST = 64 << 20  # bytes of a list of decisions
NEXT_PORTS = 20  # that are tried where the first one is taken
LONGEST_SIDE = 4096  # pixels of an image that is sent


class Json(JSONResponse):
    """JSON in ASCII: names of files need not be text in UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Answers:
    """A function for each address below api/."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def about(self, request: Request) -> Response:
        return Json(self.session.about())

    def listing(self, request: Request) -> Response:
        return Json(self.session.listing())

    def column(self, request: Request) -> Response:
        column = self.session.columns.get(request.path_params["id"])
        if column is None:
            raise Gone("there is no such column")
        return binary(column.array())

    def map(self, request: Request) -> Response:
        survey = self.session.surveys[self.encoder(request)]
        found = {"pca": survey.pca, "umap": survey.umap}.get(request.path_params["kind"])
        if found is None:
            raise Gone("there is no such map")
        return binary(found.get())

    def changes(self, request: Request) -> Response:
        return Json(self.session.changes.get())

    def findings(self, request: Request) -> Response:
        return Json(self.session.findings)

    def decisions(self, request: Request) -> Response:
        return Json(self.session.reviews.listed())

    def health(self, request: Request) -> Response:
        return Json({"memory_bytes": resident()})

    async def decide(self, request: Request) -> Response:
        data = await body(request, LARGEST_LIST)
        try:
            decided = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UserError("decisions: not JSON") from error
        return Json(await run_in_threadpool(self.session.reviews.save, decided))

    async def look(self, request: Request) -> Response:
        data = await body(request, LARGEST_DROP)
        return Json({"image": await run_in_threadpool(self.session.pictures.drop, data)})

    def atlas(self, request: Request) -> Response:
        return Response(self.session.pictures.atlas(request.path_params["page"]), media_type="image/jpeg")

    def image(self, request: Request) -> Response:
        asked = request.query_params.get("side", "1024")
        side = 1024 if (found := number_in(asked)) is None else found
        data = self.session.pictures.jpeg(self.picture(request), min(max(side, 1), LONGEST_SIDE))
        return Response(data, media_type="image/jpeg")

    def detail(self, request: Request) -> Response:
        return Json(self.session.detail(self.encoder(request), self.picture(request)))

    def patches(self, request: Request) -> Response:
        return binary(self.looker(request).patches(self.picture(request)))

    def pixels(self, request: Request) -> Response:
        pixels = self.looker(request).fitted(self.picture(request)).permute(1, 2, 0)
        return Response(encoded(np.ascontiguousarray(pixels), "PNG"), media_type="image/png")

    def attention(self, request: Request) -> Response:
        return binary(self.looker(request).attention(self.picture(request)))

    def mask(self, request: Request) -> Response:
        return binary(self.looker(request).mask(self.picture(request)))

    def pca(self, request: Request) -> Response:
        return binary(self.looker(request).pca(self.picture(request)))

    def looker(self, request: Request) -> Any:
        return self.session.lookers[self.encoder(request)]

    def encoder(self, request: Request) -> int:
        number = request.path_params["encoder"]
        if number >= len(self.session.lookers):
            raise Gone("there is no such encoder")
        return number

    def picture(self, request: Request) -> Image:
        """The image that an address names: a number, or the name of one that was dropped in."""
        word = request.path_params["image"]
        number = number_in(word)
        if number is not None and number < len(self.session.images):
            return number
        if word[0] == "u" and number_in(word[1:]) is not None:
            return word
        raise Gone("there is no such image")


def number_in(word: str) -> int | None:
    """The whole number that a word is; None for any other word."""
    return int(word) if re.fullmatch("[0-9]{1,9}", word) else None


async def body(request: Request, most: int) -> bytes:
    """The body of a request. Raises UserError where it has more than `most` bytes, without reading them all."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise UserError(f"too large: {most >> 20} MB at most")
    return bytes(data)


def resident() -> int:
    """Memory of this process in bytes; 0 where it is unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def binary(array: np.ndarray) -> Response:
    """An array as its bytes, little endian, and its shape in a header."""
    shape = ",".join(map(str, array.shape))
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return Response(data, media_type="application/octet-stream", headers={"X-Shape": shape})


def routes(answers: Answers) -> list[Any]:
    found: list[tuple[str, Callable[[Request], Any]]] = [
        ("about.json", answers.about),
        ("images.json", answers.listing),
        ("columns/{id}", answers.column),
        ("maps/{encoder:int}/{kind}", answers.map),
        ("changes.json", answers.changes),
        ("findings.json", answers.findings),
        ("decisions.json", answers.decisions),
        ("health.json", answers.health),
        ("atlas/{page:int}", answers.atlas),
        ("images/{image}", answers.image),
        ("detail/{encoder:int}/{image}", answers.detail),
        ("patches/{encoder:int}/{image}", answers.patches),
        ("pixels/{encoder:int}/{image}", answers.pixels),
        ("attention/{encoder:int}/{image}", answers.attention),
        ("mask/{encoder:int}/{image}", answers.mask),
        ("pca/{encoder:int}/{image}", answers.pca),
    ]
    return [
        Route("/", page),
        *(Route(f"/api/{path}", answer) for path, answer in found),
        Route("/api/decisions", answers.decide, methods=["POST"]),
        Route("/api/look", answers.look, methods=["POST"]),
        Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
    ]


def page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html")


def failed(request: Request, error: Exception) -> Response:
    """The one line about what went wrong."""
    if isinstance(error, Busy):
        return Json({"done": error.done, "message": error.message}, 202)
    if isinstance(error, HTTPException):
        return Json({"error": error.detail.lower()}, error.status_code)
    status = 404 if isinstance(error, Gone) else 400 if isinstance(error, UserError) else 500
    return Json({"error": reason(error)}, status)


def make_app(session: Session, token: str, hosts: list[str]) -> Any:
    """The server as an ASGI application; arguments as of `Guard`."""
    handlers = dict.fromkeys((Busy, UserError, HTTPException, Exception), failed)
    app = Starlette(routes=routes(Answers(session)), exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, token, hosts)


def listen(host: str, port: int) -> socket.socket:
    """A socket at a port, or at the next free one; a warning says so.

    Raises:
        UserError: no port is free, or there is no such host.
    """
    if host in EVERYWHERE:
        raise UserError(f"host={host}: name the one address of this machine that browsers are to open")
    for tried in range(port, min(port + NEXT_PORTS, 1 << 16)):
        try:
            listening = socket.create_server((host, tried))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            why = (error.strerror or str(error)).partition(" (while attempting")[0]  # which repeats the address
            raise UserError(f"host={host} port={tried}: cannot be used ({why})") from error
        if tried != port:
            log.warning(
                "port %d is taken, so the explorer is at port %d; links in reports lead to %d",
                port,
                tried,
                EXPLORER_PORT,
            )
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or answers may wait for 40 ms
        return listening
    raise UserError(
        f"port={port}: this one and those after it are taken; choose another one, or 0 for any that is free"
    )


class Server:
    """The page at an address of this machine.

    Args:
        session: what it shows.
        host: the address, as browsers name it.
        listening: a socket there, of `listen`.

    Attributes:
        address: what to open, with the token.
    """

    def __init__(self, session: Session, host: str, listening: socket.socket) -> None:
        self.listening = listening
        port = listening.getsockname()[1]
        names = [host, "localhost"] if host == ExploreOptions.host else [host]
        hosts, token = [f"{name}:{port}" for name in names], secrets.token_urlsafe(32)
        self.address = f"http://{hosts[0]}/?{TOKEN}={token}"
        app = make_app(session, token, hosts)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        """Answer until the process is interrupted, or `close` is called."""
        self.server.run(sockets=[self.listening])

    def close(self) -> None:
        """End a server that runs in its thread."""
        self.server.should_exit = True
        self.thread.join()
