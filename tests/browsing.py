"""What the tests that drive a real browser share: Debian's chromium under playwright, and what every page is held to.

Only a test that asks for the browser skips without one; those beside it run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

BROWSER = next((found for n in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(n))), None)
sync: Any = None
axe: Any = None
with suppress(ImportError):
    from axe_playwright_python import sync_playwright as axe
    from playwright import sync_api as sync
WAIT = 60_000
SCREENS = tuple((width, scheme) for width in (1280, 420) for scheme in ("light", "dark"))
CONTRAST = """() => {
  const rgb = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
  const behind = (e) => {
    const c = e ? rgb(getComputedStyle(e).backgroundColor) : [255, 255, 255, 1];
    return c[3] === 1 ? c.slice(0, 3) : over(c, behind(e.parentElement));
  };
  const bad = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest(":disabled, .unseen, .skip, option, svg")) continue;
    const back = behind(e), [a, b] = [light(over(rgb(getComputedStyle(e).color), back)), light(back)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) bad.push(`${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 30)} ${contrast.toFixed(2)}`);
  }
  for (const e of document.querySelectorAll("input, select, textarea, button, progress"))
    if (!(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim())) bad.push(`${e.tagName}#${e.id} has no name`);
  return bad;
}"""

LABELS = """() => [
  ...[...document.querySelectorAll("svg text")].filter((e) => e.textContent && e.getClientRects().length)
    .map((e) => parseFloat(getComputedStyle(e).fontSize) * Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b)),
  ...[...document.querySelectorAll("img.still")].filter((e) => e.clientWidth).flatMap((e) =>
    [...atob(e.src.split(",")[1]).matchAll(/font-size="([\\d.]+)px"/g)].map((m) => Number(m[1]) * e.clientWidth / e.naturalWidth)),
].filter((size) => size < 10)"""
"""Sizes on the screen of the labels of charts, live and still, that are under ten pixels."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser that waits as long as a busy machine needs.  Without one the test skips."""
    if BROWSER is None:
        pytest.skip("no chromium is installed (Debian: apt install chromium)")
    if sync is None:
        pytest.skip("playwright or axe-playwright-python is not installed (pip install '.[test]')")
    sync.expect.set_options(timeout=WAIT)
    with sync.sync_playwright() as play:
        made = play.chromium.launch(executable_path=BROWSER, chromium_sandbox=os.geteuid() != 0)
        yield made
        made.close()


@contextmanager
def opened(browser: Any, **how: Any) -> Iterator[Any]:
    """A page whose console complains of nothing and that shows no dialog, whatever is done to it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **how)
    made, complaints = context.new_page(), []
    made.set_default_timeout(WAIT)
    made.on("console", lambda m: complaints.append(m.text) if m.type in {"error", "warning"} else None)
    made.on("pageerror", lambda e: complaints.append(str(e)))
    made.on("dialog", lambda d: (complaints.append(f"dialog {d.message}"), d.dismiss()))
    made.complaints = complaints
    yield made
    context.close()
    assert not complaints, complaints


def held(page: Any) -> None:
    """Nothing wider than the window, readable, named, labels of 10 pixels: at both widths, in both colour schemes."""
    for width, scheme in SCREENS:
        _on(page, width, scheme)
        for _ in range(50):  # a chart is drawn anew after the window has changed
            if (wider := page.evaluate("document.documentElement.scrollWidth - innerWidth")) <= 0:
                break
            page.wait_for_timeout(100)
        assert wider <= 0, (page.url, width)
        assert page.evaluate(CONTRAST) == [], (page.url, width, scheme)
        assert page.evaluate(LABELS) == [], (page.url, width)
    _on(page, *SCREENS[0])


def accessible(page: Any, *screens: tuple[int, str]) -> None:
    """With everything open, axe-core finds nothing that it calls moderate, serious or critical (by default narrow and dark)."""
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for width, scheme in screens or SCREENS[-1:]:
        _on(page, width, scheme)
        found = axe.Axe().run(page).response["violations"]
        bad = [(v["impact"], v["id"], n["target"], n["html"][:200]) for v in found for n in v["nodes"]]
        assert not [b for b in bad if b[0] != "minor"], (page.url, width, scheme)
    _on(page, *SCREENS[0])


def _on(page: Any, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
