"""Benches that are open, and what their pages ask: each question is a job of the one worker."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headlab import organisms
from headlab.effects import Progress
from headlab.heads import Head, Heads
from headlab.store import Store
from headlab.store.records import Plain
from headlab.tasks import TASKS
from headlab.view.asked import Asked
from headlab.view.looks import Looks
from headlab.view.worker import Job, Worker

if TYPE_CHECKING:
    from headlab.view.bench import Bench

OPEN = 4
"""Benches that are kept; the one that was asked longest ago goes."""


@runtime_checkable
class Pages(Protocol):
    """What a bench needs of the application."""

    store: Store
    worker: Worker

    def page(self, name: str, status: int = 200, **values: object) -> Response: ...
    def json(self, data: object, status: int = 200) -> JSONResponse: ...
    async def waited(self, job: Job, patience: float = ...) -> JSONResponse: ...


class Benches:
    """Open benches by key; ``looks`` by model and selection prompts, so that a bench opened again counts on."""

    def __init__(self, pages: Pages, folder: Path) -> None:
        self.pages, self.folder = pages, folder
        self.known: OrderedDict[str, Bench] = OrderedDict()
        self.looks: dict[tuple[str, str], Looks] = {}

    def bench(self, request: Request) -> Bench:
        """The bench of a page.  Raises KeyError with a sentence."""
        key = request.path_params["key"]
        if key not in self.known:
            raise KeyError(f"this bench is not open any more ({OPEN} are kept); open it again")
        self.known.move_to_end(key)
        return self.known[key]

    # -- pages --------------------------------------------------------------------------------------------------

    def start(self, request: Request) -> Response:
        thinking = set(organisms.names("thoughts"))
        models = [(n, next((t for t in TASKS if n.startswith(t)), "")) for n in organisms.names() if n not in thinking]
        tasks = [(name, TASKS[name].question) for name in TASKS]
        still = [(key, b.lab.name, b.asked.task or "own prompts") for key, b in reversed(self.known.items())]
        return self.pages.page("start.html.j2", models=models, tasks=tasks, open=still, place="bench")

    def at(self, request: Request) -> Response:
        return self.pages.page("bench.html.j2", bench=self.bench(request), place="bench")

    def trial(self, request: Request) -> Response:
        return self.pages.page("trial.html.j2", bench=self.bench(request), place="trial")

    def last(self, request: Request) -> Response:
        """The trial of the bench that was used last."""
        key = next(reversed(self.known), None)
        if key is None:
            return self.start(request)
        return self.pages.page("trial.html.j2", bench=self.known[key], place="trial")

    def state(self, request: Request) -> Response:
        return self.pages.json(self.bench(request).plain())

    # -- questions ----------------------------------------------------------------------------------------------

    async def open(self, request: Request) -> Response:
        asked = Asked.from_plain(await body(request))

        def run(progress: Progress) -> Plain:
            progress("loading what models need", 0, 1)
            from headlab.view.bench import opened

            made = opened(asked, self.folder, self.looks, progress)
            self.known[made.key] = made
            while len(self.known) > OPEN:
                self.known.popitem(last=False)
            return {"key": made.key}

        return await self.pages.waited(self.pages.worker.put(f"open {asked.model}", run))

    async def asked(self, request: Request) -> Response:
        """One of :data:`QUESTIONS` about a bench."""
        bench, given, name = self.bench(request), await body(request), request.path_params["name"]
        if name not in QUESTIONS:
            raise HTTPException(404)
        root = self.pages.store.root
        job = self.pages.worker.put(QUESTIONS[name], lambda progress: answer(name, bench, given, progress, root))
        if name == "register":  # the verdict does not wait for its page
            bench.trying = job
            self.pages.worker.put("write the report", lambda _: _report(job, root))
        return await self.pages.waited(job)

    def routes(self) -> list[Route]:
        return [
            Route("/bench", self.start),
            Route("/bench", self.open, methods=["POST"]),
            Route("/trial", self.last),
            Route("/bench/{key}", self.at),
            Route("/bench/{key}/trial", self.trial),
            Route("/bench/{key}/state", self.state),
            Route("/bench/{key}/{name}", self.asked, methods=["POST"]),
        ]


QUESTIONS = {
    "grid": "measure every head",
    "pattern": "read a pattern",
    "direct": "read direct effects",
    "edit": "edit some heads",
    "draft": "write the draft",
    "register": "try the claim",
}
"""What is asked about a bench, and what that is called while it runs."""


def answer(name: str, bench: Bench, given: Plain, progress: Progress, root: Path) -> Plain:
    """The answer to a question, made in the worker's thread.  What models need is imported here, so that pages answer meanwhile."""
    from headlab.view import bench as table
    from headlab.view import drafts

    if name == "grid":
        return table.grid(bench, str(given.get("name")), progress)
    if name == "edit":
        return table.edit(bench, list(Heads.parse(str(given.get("heads", "")))), str(given.get("write")), progress)
    if name == "draft":
        drafts.choose(bench, given)
        return drafts.draft(bench)
    if name == "register":
        return drafts.register(bench, str(given.get("yaml", "")), root, progress, anyway=given.get("anyway") is True)
    head, prompt = Head.parse(str(given.get("head"))), given.get("prompt", 0)
    if name == "direct":
        return table.direct(bench, head, progress)
    if not isinstance(prompt, int) or isinstance(prompt, bool):
        raise ValueError(f"prompt is {prompt!r}; expected a whole number")
    return table.pattern(bench, head, prompt, str(given.get("run", "clean")), progress, str(given.get("text") or ""))


def _report(job: Job, root: Path) -> None:
    from headlab.view import drafts

    if isinstance(job.result, dict):
        drafts.keep_report(job.result["id"], root)


async def body(request: Request) -> Plain:
    """A request's JSON mapping.  Raises ValueError for anything else."""
    try:
        given = await request.json()
    except (ValueError, RecursionError) as error:
        raise ValueError("the request is no JSON") from error
    if not isinstance(given, dict):
        raise ValueError("expected a JSON mapping")
    return given
