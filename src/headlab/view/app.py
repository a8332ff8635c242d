"""Pages and answers.  What they say is made in :mod:`headlab.view.runs`, :mod:`headlab.view.bench` and the report's rooms."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from importlib import resources
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from headlab import report
from headlab.reading.shown import cleaned
from headlab.report import differences
from headlab.report.render import environment
from headlab.report.view import MEANINGS, SIGNS
from headlab.store import Store, StoreError, StoreLookupError
from headlab.view import runs
from headlab.view.benches import Benches
from headlab.view.guard import REPORT_POLICY, Guard, Keys
from headlab.view.worker import Job, Worker

PATIENCE = 1.0
"""Seconds for which an answer waits for its job; after that the page asks again."""
STATIC = {"view.css": "text/css"} | {
    f"{name}.js": "text/javascript" for name in ("view", "runs", "start", "bench", "trial")
}

Explain = Callable[[BaseException], str]


def one_line(error: BaseException) -> str:
    """An exception as one line."""
    return " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())[:400]


class Pages:
    """The application over one store."""

    def __init__(self, store: Store, keys: Keys, explain: Explain = one_line) -> None:
        self.store, self.keys, self.explain = store, keys, explain
        self.worker = Worker(explain)
        self._templates = environment("headlab.view")

    def page(self, name: str, status: int = 200, **values: object) -> HTMLResponse:
        """A template, filled in."""
        more = {"csrf": self.keys.form, "signs": SIGNS, "meanings": MEANINGS, "place": ""}
        return HTMLResponse(self._templates.get_template(name).render({**more, **values}), status)

    def json(self, data: object, status: int = 200) -> JSONResponse:
        """Plain data, what is hidden in its texts made visible."""
        return JSONResponse(cleaned(data), status)

    async def waited(self, job: Job, patience: float = PATIENCE) -> JSONResponse:
        """The job when it ends soon; else as it stands, to be asked about again."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(job.ended)), patience)
        return self.json(job.plain())

    # -- runs ---------------------------------------------------------------------------------------------------

    def runs(self, request: Request) -> Response:
        return self.page("runs.html.j2", table=runs.table(self.store), root=str(self.store.root), place="runs")

    def report(self, request: Request) -> Response:
        """A run's page: the stored one where it is that of the record, else made now (and not stored)."""
        id = self.store.find(request.path_params["id"])
        kept = self.store.page(id)
        made = report.of_run(self.store, id) if kept is None else kept.read_text("utf-8")
        return HTMLResponse(made, headers={"content-security-policy": REPORT_POLICY})

    def compare(self, request: Request) -> Response:
        given = [request.query_params.get(name, "") for name in ("a", "b")]
        found = differences.differences(*(self.store.record(id) for id in given))
        return self.page("compare.html.j2", found=found, place="runs")

    # -- what pages are made of ---------------------------------------------------------------------------------

    def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404)
        return Response((resources.files("headlab.view") / "static" / name).read_bytes(), media_type=STATIC[name])

    def job(self, request: Request) -> Response:
        return self.json(self.worker.job(request.path_params["id"]).plain())

    async def cancel(self, request: Request) -> Response:
        job = self.worker.job(request.path_params["id"])
        job.stop.set()
        return self.json(job.plain())

    async def failed(self, request: Request, error: Exception) -> Response:
        """One line: as JSON to a script, as a page to a reader."""
        status, line = _status(error), self.explain(error)
        if isinstance(error, HTTPException):
            line = f"there is no page {request.url.path}" if error.status_code == 404 else str(error.detail)
        if request.method == "POST" or request.url.path.startswith("/jobs/"):
            return self.json({"error": line}, status)
        return self.page("error.html.j2", status, line=line)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.runs),
            Route("/report/{id}", self.report),
            Route("/compare", self.compare),
            Route("/static/{name}", self.static),
            Route("/jobs/{id}", self.job),
            Route("/jobs/{id}/cancel", self.cancel, methods=["POST"]),
        ]


def _status(error: Exception) -> int:
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, StoreLookupError | KeyError):
        return 404
    return 400 if isinstance(error, ValueError | StoreError) else 500


def make_app(store: Store, keys: Keys, explain: Explain = one_line) -> ASGIApp:
    """The application, behind its guard."""
    pages = Pages(store, keys, explain)
    scratch = tempfile.TemporaryDirectory(prefix="headlab-view-")
    benches = Benches(pages, Path(scratch.name))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(pages.worker.close)
        scratch.cleanup()

    handlers = {kind: pages.failed for kind in (HTTPException, ValueError, KeyError, StoreError, OSError)}
    app = Starlette(routes=[*pages.routes(), *benches.routes()], lifespan=lifespan, exception_handlers=handlers)  # type: ignore[arg-type]
    return Guard(app, keys)


def serve(
    store: Store,
    *,
    port: int = 0,
    explain: Explain = one_line,
    ready: Callable[[str, uvicorn.Server], object] = lambda address, _: print(address),
) -> None:
    """Serve a store on 127.0.0.1 until Ctrl-C, or until the server that ``ready`` is handed with the address is told to exit.
    ``port`` 0: a free one.

    Raises ValueError for a port that is taken.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(
                f"port {port} cannot be had ({error.strerror}); name another, or none for a free one"
            ) from error
        keys = Keys(listening.getsockname()[1])
        config = uvicorn.Config(
            make_app(store, keys, explain),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        ready(keys.address, server)
        server.run(sockets=[listening])
