"""Who may ask, and what a browser may do with the answer.

A page of this application can start trials and shows what is in a store.  So nobody may ask but the browser of whoever
started it, and that browser only from these pages:

- the server listens on loopback;
- ``Host`` is one of its own names, so that a stranger's domain that resolves to 127.0.0.1 reaches nothing;
- ``Origin`` and ``Sec-Fetch-Site``, where the browser sends them, say that the request comes from these pages (or from
  the address line);
- the address that is printed has a token; it is exchanged once for a cookie that scripts cannot read and that no other
  site's request carries;
- what changes anything is a POST of JSON with a header that only these pages know (CSRF).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 8 * 2**20
"""Of a request's body: prompts that somebody pasted."""
METHODS = frozenset({"GET", "HEAD", "POST"})

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of a stored page: an origin of its own, which reaches neither these pages nor a network, whatever stands in it."""
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Keys:
    """The secrets of one server.  ``token`` opens it, ``cookie`` keeps it open, ``form`` stands in every POST."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def form(self) -> str:
        return hmac.new(self.cookie.encode(), b"form", sha256).hexdigest()

    @property
    def cookie_name(self) -> str:
        """Cookies do not tell ports apart, so the name does."""
        return f"headlab-{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(f"{name}:{self.port}" for name in ("127.0.0.1", "localhost", "[::1]"))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"


class Refused(Exception):
    """A request that is not answered; ``status`` of the answer that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """Lets through what the pages of this server ask, and nothing else."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # no web sockets here
            return await send({"type": "websocket.close", "code": 1008})
        answer: ASGIApp = self.app
        try:
            headers = _headers(scope)
            self._ways(scope, headers)
            if (opened := self._opened(scope)) is not None:
                answer = opened
            else:
                self._known(headers)
                self._posted(scope, headers)
        except Refused as refused:
            answer = PlainTextResponse(f"headlab view: {refused}\n", refused.status)
        await answer(scope, _bounded(receive), _with_headers(send))

    def _ways(self, scope: Scope, headers: Mapping[str, list[str]]) -> None:
        """How the request came here."""
        if scope["method"] not in METHODS:
            raise Refused(405, "this is neither read nor posted")
        host = headers.get("host", [])
        if len(host) != 1 or host[0].lower() not in self.keys.hosts:
            raise Refused(421, f"it answers to {self.keys.hosts[0]} and {self.keys.hosts[1]} only")
        origins = headers.get("origin", [])
        if any(origin != f"http://{host[0].lower()}" for origin in origins) or (
            scope["method"] == "POST" and len(origins) != 1
        ):
            raise Refused(403, "the request comes from another page")
        entering = scope["path"] == "/" and b"token=" in scope["query_string"]  # a link in a notebook or a mail
        sites = headers.get("sec-fetch-site", [])
        if any(site not in {"same-origin", "none"} for site in sites) and not entering:
            raise Refused(403, "the request comes from another page")

    def _opened(self, scope: Scope) -> Response | None:
        """The address with its token gives the cookie and leads on; None for every other request."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if scope["method"] != "GET" or scope["path"] != "/" or not given:
            return None
        if len(given) != 1 or not _equal(given[0], self.keys.token):
            raise Refused(403, "this address is of another session; open the one that `headlab view` printed last")
        # a page, no redirect: what follows is then asked by a page of this server, and the cookie goes along
        head = '<!DOCTYPE html><html lang="en"><title>headlab</title><link rel="icon" href="data:,">'
        page = f'{head}<p><a href="/">Open the laboratory</a>'
        response = HTMLResponse(page, headers={"refresh": "0; url=/"})
        response.set_cookie(self.keys.cookie_name, self.keys.cookie, httponly=True, samesite="strict", path="/")
        return response

    def _known(self, headers: Mapping[str, list[str]]) -> None:
        jar: SimpleCookie = SimpleCookie()
        try:
            for line in headers.get("cookie", []):
                jar.load(line)
        except CookieError:
            jar.clear()
        held = jar.get(self.keys.cookie_name)
        if held is None or not _equal(held.value, self.keys.cookie):
            raise Refused(403, "open the address that it printed, token included")

    def _posted(self, scope: Scope, headers: Mapping[str, list[str]]) -> None:
        if scope["method"] != "POST":
            return
        if headers.get("content-type", [""])[0].partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "expected JSON")
        if not _equal(headers.get("x-headlab", [""])[0], self.keys.form):
            raise Refused(
                403, "the request does not come from a page that was served here since it started; reload the page"
            )
        length = headers.get("content-length", [""])[0]
        if not length.isdecimal() or int(length) > MOST_BYTES:
            raise Refused(413, f"expected at most {MOST_BYTES // 2**20} MB")


def _equal(given: str, own: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), own.encode())


def _headers(scope: Scope) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        out.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return out


def _bounded(receive: Receive) -> Receive:
    """Bodies that are longer than they say end the request."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > MOST_BYTES else message

    return bounded


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            every = {**ALWAYS, "content-security-policy": POLICY}
            more = [(k.encode(), v.encode()) for k, v in every.items() if k.encode() not in names]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return wrapped
