"""Benches that are open, and what their pages ask: each question is a job of the one worker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headlab import organisms
from headlab.effects import Progress
from headlab.heads import Head, Heads
from headlab.store import Store
from headlab.store.records import Plain
from headlab.tasks import TASKS
from headlab.view.looks import Looks
from headlab.view.worker import Job, Worker

if TYPE_CHECKING:
    from headlab.view.bench import Bench

OPEN = 4
"""Benches that are kept; the one that was asked longest ago goes."""


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
        from headlab.view.bench import Asked, opened

        asked = Asked.from_plain(await body(request))

        def run(progress: Progress) -> Plain:
            made = opened(asked, self.folder, self.looks, progress)
            self.known[made.key] = made
            while len(self.known) > OPEN:
                self.known.popitem(last=False)
            return {"key": made.key}

        return await self.pages.waited(self.pages.worker.put(f"open {asked.model}", run))

    async def _asked(self, request: Request, what: str, run: Callable[[Bench, Plain, Progress], Plain]) -> Response:
        bench, given = self.bench(request), await body(request)
        return await self.pages.waited(self.pages.worker.put(what, lambda progress: run(bench, given, progress)))

    async def grid(self, request: Request) -> Response:
        from headlab.view.bench import grid

        return await self._asked(request, "measure every head", lambda b, g, p: grid(b, str(g.get("name")), p))

    async def pattern(self, request: Request) -> Response:
        from headlab.view.bench import pattern

        def run(bench: Bench, given: Plain, progress: Progress) -> Plain:
            prompt = given.get("prompt", 0)
            if not isinstance(prompt, int) or isinstance(prompt, bool):
                raise ValueError(f"prompt is {prompt!r}; expected a whole number")
            return pattern(bench, Head.parse(str(given.get("head"))), prompt, str(given.get("run", "clean")), progress)

        return await self._asked(request, "read a pattern", run)

    async def edit(self, request: Request) -> Response:
        from headlab.view.bench import edit

        def run(bench: Bench, given: Plain, progress: Progress) -> Plain:
            return edit(bench, list(Heads.parse(str(given.get("heads", "")))), str(given.get("write")), progress)

        return await self._asked(request, "edit some heads", run)

    async def draft(self, request: Request) -> Response:
        from headlab.view import drafts

        def run(bench: Bench, given: Plain, _: Progress) -> Plain:
            drafts.choose(bench, given)
            return drafts.draft(bench)

        return await self._asked(request, "write the draft", run)

    async def register(self, request: Request) -> Response:
        from headlab.view import drafts

        bench, given = self.bench(request), str((await body(request)).get("yaml", ""))
        root = self.pages.store.root
        job = self.pages.worker.put("try the claim", lambda p: drafts.register(bench, given, root, p))
        return await self.pages.waited(job, 0.2)

    def routes(self) -> list[Route]:
        posts = {
            "grid": self.grid,
            "pattern": self.pattern,
            "edit": self.edit,
            "draft": self.draft,
            "register": self.register,
        }
        return [
            Route("/bench", self.start),
            Route("/bench", self.open, methods=["POST"]),
            Route("/trial", self.last),
            Route("/bench/{key}", self.at),
            Route("/bench/{key}/trial", self.trial),
            Route("/bench/{key}/state", self.state),
            *(Route(f"/bench/{{key}}/{name}", asked, methods=["POST"]) for name, asked in posts.items()),
        ]


async def body(request: Request) -> Plain:
    """A request's JSON mapping.  Raises ValueError for anything else."""
    try:
        given = await request.json()
    except (ValueError, RecursionError) as error:
        raise ValueError("the request is no JSON") from error
    if not isinstance(given, dict):
        raise ValueError("expected a JSON mapping")
    return given
