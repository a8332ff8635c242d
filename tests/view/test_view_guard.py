"""A stranger's page, site or program reaches nothing; whoever has the printed address reaches every page.

Broken on purpose, one at a time: each check of ``Guard`` left out, the cookie without HttpOnly or SameSite, the report
without its sandbox; each lets a test here fail.  Looked for beside what the issue names: two Host headers, Host in other
cases, ``Origin: null`` (a sandboxed page), other ports of this machine (same site, another origin), a token that is given
twice, methods that are neither, bodies that are longer than they say, web sockets, ids that lead out of the store.
"""

from __future__ import annotations

import pytest
from made_runs import PORT
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from headlab.store import Store
from headlab.view.guard import MOST_BYTES, Keys

OWN = f"http://127.0.0.1:{PORT}"
PAGES = ["/", "/bench", "/compare?a=head-count&b=head-count", "/static/view.js", "/jobs/1"]


@pytest.mark.parametrize("path", PAGES)
def test_without_the_token_nothing_is_read(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 403 and "token" in answer.text and "parity" not in answer.text


def test_the_token_is_exchanged_for_a_cookie_that_no_script_reads(client: TestClient, keys: Keys) -> None:
    answer = client.get("/", params={"token": keys.token})
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 200 and keys.token not in answer.text + cookie
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and str(PORT) in cookie.partition("=")[0]
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("token", ["", "x", "é" * 43, "x&token=y"])
def test_another_token_opens_nothing(client: TestClient, keys: Keys, token: str) -> None:
    assert client.get(f"/?token={token}").status_code == 403
    assert client.get(f"/?token={keys.token}&token=x").status_code == 403
    assert client.get("/").status_code == 403


def test_a_token_opens_no_other_session(known: TestClient, keys: Keys) -> None:
    """A cookie of another server, or one that was guessed, is none."""
    for value in ("", "x", Keys(PORT).cookie, keys.token, keys.form):
        known.cookies.clear()
        assert known.get("/", headers={"cookie": f"{keys.cookie_name}={value}"}).status_code == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        f"evil.example:{PORT}",
        "127.0.0.1",
        f"127.0.0.1:{PORT + 1}",
        "",
        f"127.0.0.1.evil.example:{PORT}",
    ],
)
def test_a_name_that_was_rebound_reaches_nothing(known: TestClient, keys: Keys, host: str) -> None:
    assert known.get("/", headers={"host": host}).status_code == 421
    assert known.get("/", params={"token": keys.token}, headers={"host": host}).status_code == 421


def test_two_hosts_are_none(known: TestClient) -> None:
    assert known.get("/", headers=[("host", f"127.0.0.1:{PORT}"), ("host", "evil.example")]).status_code == 421


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        f"http://127.0.0.1:{PORT + 1}",
        f"https://127.0.0.1:{PORT}",
        f"http://localhost:{PORT}",
    ],
)
def test_another_origin_reads_and_posts_nothing(known: TestClient, keys: Keys, origin: str) -> None:
    assert known.get("/", headers={"origin": origin}).status_code == 403
    headers = {"origin": origin, "x-headlab": keys.form}
    assert known.post("/jobs/1/cancel", json={}, headers=headers).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_elsewhere_embeds_nothing(known: TestClient, site: str) -> None:
    for path in PAGES:
        assert known.get(path, headers={"sec-fetch-site": site}).status_code == 403


def test_every_post_needs_origin_json_and_the_form_s_key(known: TestClient, keys: Keys) -> None:
    good = {"origin": OWN, "x-headlab": keys.form, "content-type": "application/json"}
    path = "/jobs/1/cancel"
    assert known.post(path, content="{}", headers=good).status_code == 404  # it came through: there is no such job
    for missing, status in (("origin", 403), ("x-headlab", 403), ("content-type", 415)):
        assert (
            known.post(path, content="{}", headers={k: v for k, v in good.items() if k != missing}).status_code
            == status
        )
    assert known.post(path, content="{}", headers=good | {"x-headlab": "0" * 64}).status_code == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert known.post(path, content="{}", headers=good | {"content-type": kind}).status_code == 415
    assert known.post(path, content=b"x" * (MOST_BYTES + 1), headers=good).status_code == 413


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_else_is_asked(known: TestClient, keys: Keys, method: str) -> None:
    assert known.request(method, "/", headers={"origin": OWN, "x-headlab": keys.form}).status_code == 405


def test_no_web_socket(known: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), known.websocket_connect("/"):
        pass


PATHS = [
    "/report/.%2e", "/report/%2e%2e%2f%2e%2e", "/report/..%2fsecret", "/report/secret", "/report/PARITY", "/report/%00",
    "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/app.py",
    "/compare?a=../secret&b=head-count", "/compare?a=..&b=..", "/compare",
]  # fmt: skip


REACHING = {"/report/.%2e", "/report/PARITY", "/report/%00", "/compare?a=../secret&b=head-count", "/compare?a=..&b=.."}


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_the_store(known: TestClient, home: Store, path: str) -> None:
    secret = home.root.parent / "secret"
    secret.mkdir()
    (secret / "record.json").write_text("SECRET")
    (secret / "report.html").write_text("SECRET")
    answer = known.get(path)
    assert answer.status_code in {400, 403, 404} and "SECRET" not in answer.text and "def " not in answer.text
    if path in REACHING:  # refused as no id, before anything is opened
        assert "expected a-z, 0-9 and -" in answer.text


def test_what_a_browser_may_do_with_a_page(known: TestClient) -> None:
    policy = known.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
    assert "<script>" not in known.get("/").text and " style=" not in known.get("/").text
    for path in PAGES:
        headers = known.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"] and headers["cache-control"] == "no-store"


def test_a_report_has_an_origin_of_its_own(known: TestClient, home: Store) -> None:
    """Whoever can write a report into the store reaches neither the pages nor a network with it."""
    run = next(p.name for p in home.root.glob("parity*"))
    home.keep_page(run, "<!DOCTYPE html><p>kept</p>")
    answer = known.get(f"/report/{run}")
    policy = answer.headers["content-security-policy"]
    assert "kept" in answer.text and policy.startswith("sandbox allow-scripts allow-downloads;")
    assert "allow-same-origin" not in policy and "default-src 'none'" in policy


@pytest.mark.accept  # draws a report
def test_a_report_that_was_changed_is_made_anew(known: TestClient, home: Store) -> None:
    run = next(p.name for p in home.root.glob("parity*"))
    home.keep_page(run, "<!DOCTYPE html><p>kept</p>")
    changed = home.root / run / "report.html"
    changed.write_text("<script>alert(1)</script>")
    again = known.get(f"/report/{run}")
    assert again.status_code == 200 and "alert(1)" not in again.text and "Even heads repair the bug." in again.text
    assert changed.read_text() == "<script>alert(1)</script>", "the store is only read"
