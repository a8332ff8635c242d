"""The laboratory in a real browser: the three places, by mouse and by keyboard, and what a stranger's words and pages can do.

Chromium as the system has it, driven by playwright.  Held at 1280 and 420 pixels, light and dark: nothing is wider than the
window, no text has less contrast than 4.5 : 1 (measured on what is painted), every field has a name.  Looked for beside what
the issue names: errors of scripts and of the content policy (none), what a sandboxed report can reach, two tabs at one bench,
a page left open after its server ended.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
from collections.abc import Iterator
from queue import Queue
from typing import Any

import pytest
from made_runs import HOSTILE, kept

from browsing import SCREENS, WAIT, accessible, chromium, held, opened, sync
from headlab.cli import main
from headlab.store import Store
from headlab.view.app import serve
from headlab.view.worker import Job


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture
def address(home: Store) -> Iterator[str]:
    """A server over a store of three runs and a stranger's."""
    kept(home, 60, slug="strange", words=HOSTILE)
    told: Queue[Any] = Queue()
    home_again = Store(home.root, hold=True)
    thread = threading.Thread(target=serve, args=(home_again,), kwargs={"ready": lambda *both: told.put(both)})
    thread.start()
    found, server = told.get(timeout=60)
    yield found
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that came by the printed address."""
    with opened(browser) as made:
        made.goto(address)
        made.wait_for_url(lambda url: "token" not in url)
        yield made


def test_runs_are_filtered_sorted_and_compared(page: Any) -> None:
    expect, rows = sync.expect, page.locator("#runs tbody tr:visible")
    expect(rows).to_have_count(4)
    held(page)
    accessible(page)
    page.fill("#words", "decimals-null")
    expect(rows).to_have_count(1)
    page.fill("#words", "")
    page.click(".strip button[data-outcome=refuted]")
    expect(rows).to_have_count(1)
    page.click(".strip button[data-outcome=refuted]")
    page.select_option("#model", "decimals-planted-even")
    expect(rows).to_have_count(2)
    page.select_option("#model", "")
    page.get_by_role("button", name="Claim").click()
    assert page.locator("#runs tbody th").first.inner_text().startswith("head-count")
    for box in page.locator("#runs input[type=checkbox]").all()[:2]:
        box.check()
    page.click("#compare")
    expect(page.locator("h1")).to_have_text("What differs")
    held(page)


def test_words_of_a_stranger_stay_words(page: Any, home: Store) -> None:
    """In the table; and a stranger's whole page in the place of a report runs where it reaches nothing."""
    sync.expect(page.locator("#runs")).to_contain_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0
    run = next(p.name for p in home.root.glob("strange*"))
    home.keep_page(
        run, "<!DOCTYPE html><h1>forged</h1><script>document.title = 'it ran'</script><img src='/static/view.css'>"
    )
    page.click("#runs tr:has-text('strange') a")
    sync.expect(page).to_have_title("it ran")
    assert page.evaluate("origin") == "null"
    assert page.evaluate("fetch('/').then(() => 'reached', () => 'refused')") == "refused"
    assert page.evaluate("(() => { try { return document.cookie; } catch { return 'refused'; } })()") == "refused"
    page.complaints.clear()  # that the policy refused this stands in the console


def test_a_stranger_s_page_reaches_nothing(browser: Any, page: Any, address: str) -> None:
    """In the browser that has the cookie: another site can neither read, nor frame, nor post."""
    host = address.partition("/?")[0]
    other = page.context.new_page()
    other.route("http://evil.example/", lambda r: r.fulfill(body="<h1>elsewhere</h1>", content_type="text/html"))
    other.goto("http://evil.example/")
    ask = "(u) => fetch(u[0], u[1]).then((a) => a.text(), () => 'refused')"
    for how in (
        {},
        {"mode": "no-cors", "credentials": "include"},
        {"method": "POST", "body": "{}", "credentials": "include"},
    ):
        assert other.evaluate(ask, [f"{host}/", how]) in {"refused", ""}
    other.evaluate(
        "(u) => { const f = document.createElement('iframe'); f.src = u; document.body.append(f); }", f"{host}/"
    )
    other.wait_for_timeout(300)
    assert not any("Runs" in (f.content() if f != other.main_frame else "") for f in other.frames)
    stranger = browser.new_context().new_page()  # another program on this machine, without the token
    assert stranger.goto(f"{host}/").status == 403
    stranger.context.close()


def on_the_bench(page: Any, host: str, looked_at: int = 12, pairs: int = 24) -> None:
    """Choose a model and a task, and wait for the grid."""
    page.goto(f"{host}/bench")
    page.select_option("#shipped", "decimals-natural")
    page.fill("#looked_at", str(looked_at))
    page.fill("#pairs", str(pairs))
    page.click("[type=submit]")
    page.wait_for_url("**/bench/*")
    sync.expect(page.locator(".cell")).to_have_count(48)


def test_a_head_is_opened_by_keyboard_and_patched(page: Any, address: str) -> None:
    """Choose a model, go to a head by the arrow keys, see its pattern, patch it, another too; the draft follows; a second tab."""
    expect = sync.expect
    on_the_bench(page, address.partition("/?")[0])
    page.locator(".cell[tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#head-title")).to_have_text("Head L1H3")
    expect(page.locator(".token").first).to_be_visible()
    expect(page.locator("#direct")).to_contain_text("logits, the mean over 12 clean prompts")
    page.locator(".token").nth(5).click()
    expect(page.locator("#from")).to_contain_text("(token 5)")
    page.click("#add")
    expect(page.locator("#effect")).to_contain_text("L1H3, the clean run's written in the corrupted run")
    expect(page.locator(".line")).to_have_count(8)
    page.click(".cell[data-head=L0H14]")
    page.click("#add")
    expect(page.locator("#effect")).to_contain_text("L0H14 L1H3")
    expect(page.locator("#claim")).to_contain_text("L0H14 L1H3 give the answer back")
    told = "48 heads looked at on 12 pairs (grids: attribution; 2 edit(s) tried; 2 pattern(s) opened)"
    expect(page.locator("#looked")).to_contain_text(told)
    held(page)
    accessible(page)
    tab = page.context.new_page()
    tab.set_default_timeout(WAIT)
    tab.goto(page.url)
    expect(tab.locator(".cell.chosen")).to_have_count(2)
    tab.fill("#heads", "L2H1")
    tab.locator("#heads").press("Enter")
    expect(tab.locator("#effect")).to_contain_text("L2H1,")
    page.reload()
    expect(page.locator("#heads")).to_have_value("L2H1")
    page.click("a.button:has-text('To trial')")
    expect(page.locator("#seal")).to_contain_text("24 test prompts are sealed")
    accessible(page)


SEEN = """() => {
  const e = document.activeElement, s = getComputedStyle(e);
  if (e === document.body) return "nowhere";
  const box = e.getBoundingClientRect();
  if (!box.width || box.bottom < 1 || box.top > innerHeight - 1) return "out of sight";
  if (box.right < 1 || box.left > innerWidth - 1) return "out of sight";
  return s.outlineStyle === "none" || parseFloat(s.outlineWidth) < 2 ? "not marked" : "";
}"""
"""What is wrong with the place of the keyboard: nowhere, out of sight, or not marked."""


def tab_to(page: Any, where: str, most: int, key: str = "Tab") -> None:
    """Press Tab until the keyboard is there, in at most so many steps, its place always to be seen."""
    for _ in range(most):
        page.keyboard.press(key)
        bad = page.evaluate(SEEN)
        assert not bad, (bad, page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))
        if page.evaluate("(where) => document.activeElement.matches(where)", where):
            return
    raise AssertionError(f"no {where} in {most} steps")


def chosen_by_keyboard(page: Any, value: str) -> None:
    """Go down the list that the keyboard is on, from its beginning."""
    page.keyboard.press("Home")
    for _ in range(page.evaluate("document.activeElement.length")):
        if page.evaluate("document.activeElement.value") == value:
            return
        page.keyboard.press("ArrowDown")
    raise AssertionError(f"no {value} in the list")


def typed(page: Any, words: str) -> None:
    page.keyboard.press("Control+A")
    page.keyboard.type(words)


@pytest.mark.parametrize("width", [1280, 420])
def test_from_a_model_to_a_verdict_by_keyboard_alone(page: Any, address: str, home: Store, width: int) -> None:
    """No mouse anywhere: choose model and prompts, walk the grid, open a head and one of its tokens, choose two heads, patch and
    zero them, go to trial, be asked, register.  At each step the keyboard's place is on the page, in sight and marked."""
    expect, press = sync.expect, page.keyboard.press
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(address.partition("/?")[0])
    tab_to(page, ".skip", 1)
    tab_to(page, "nav a[href='/bench']", 3)
    press("Enter")
    page.wait_for_url("**/bench")
    tab_to(page, "#shipped", 8)
    chosen_by_keyboard(page, "decimals-natural")
    tab_to(page, "#task", 2)
    assert page.evaluate("document.activeElement.value") == "decimals"
    for field, value in (("#looked_at", "4"), ("#pairs", "8")):
        tab_to(page, field, 1)
        typed(page, value)
    tab_to(page, "[type=submit]", 2)
    press("Enter")
    page.wait_for_url("**/bench/*")
    expect(page.locator(".cell")).to_have_count(48)

    tab_to(page, "#score", 8)
    tab_to(page, ".cell", 2)
    for key in (
        "ArrowLeft",
        "ArrowUp",
        "End",
        "ArrowRight",
        "Home",
        "ArrowDown",
        "ArrowRight",
        "ArrowRight",
        "ArrowRight",
    ):
        press(key)
        assert not page.evaluate(SEEN), key
    press("Enter")
    expect(page.locator("#head-title")).to_have_text("Head L1H3")
    expect(page.locator("#direct")).to_contain_text("logits, the mean over 4 clean prompts")
    assert page.evaluate("document.activeElement.dataset.head") == "L1H3"
    press("Space")
    expect(page.locator("[aria-selected=true]")).to_have_count(1)
    expect(page.locator(".cell[data-head=L1H3]")).to_have_attribute("aria-label", re.compile("chosen$"))
    expect(page.locator("#effect")).to_contain_text("L1H3, the clean run's written in the corrupted run")
    tab_to(page, "#add", 8)
    press("Space")
    expect(page.locator("[aria-selected=true]")).to_have_count(0)
    tab_to(page, "#directs summary", 1)
    press("Enter")
    expect(page.locator("#each .line")).to_have_count(4)
    tab_to(page, "#own", 4)
    page.keyboard.type("7.9 or 7.25? Answer:")
    tab_to(page, ".token", 1)  # the pattern that comes now takes the place of the one that the keyboard is on
    expect(page.locator("#next")).to_contain_text("Next:")
    press("Home")
    assert page.evaluate("document.activeElement.matches('.token:first-child')")
    press("ArrowRight")
    press("Enter")
    expect(page.locator("#from")).to_contain_text("(token 1)")
    tab_to(page, ".cell", 24, "Shift+Tab")
    for key in ("ArrowUp", "End", "ArrowLeft", "Space"):
        press(key)
    press("ArrowLeft")
    press("Space")
    expect(page.locator("#heads")).to_have_value("L0H14 L0H13")
    expect(page.locator("#effect")).to_contain_text("L0H13 L0H14, the clean run's")
    tab_to(page, "#heads", 16)
    tab_to(page, "#write", 1)
    chosen_by_keyboard(page, "zero")
    expect(page.locator("#effect")).to_contain_text("L0H13 L0H14, zero written in the clean run")
    chosen_by_keyboard(page, "patch")
    expect(page.locator("#effect")).to_contain_text("L0H13 L0H14, the clean run's")
    accessible(page, (width, "light"))
    page.set_viewport_size({"width": width, "height": 900})
    tab_to(page, "a.button.first", 4)
    press("Enter")

    page.wait_for_url("**/trial")
    expect(page.locator("#yaml")).to_have_value(re.compile("n: 999"))
    tab_to(page, "#words", 12)
    page.keyboard.type("two heads matter")
    press("Enter")
    expect(page.locator("#says")).to_contain_text("two heads matter")
    assert not page.evaluate(SEEN)
    tab_to(page, "#yaml", 1)
    typed(page, page.input_value("#yaml").replace("n: 999", "n: 19"))
    tab_to(page, "#register", 1)
    press("Enter")
    expect(page.locator("#error")).to_contain_text("Register it once more")
    assert not page.evaluate(SEEN)
    press("Space")
    expect(page.locator("#verdict")).to_be_visible()
    expect(page.locator("#verdict")).to_be_focused()
    assert not page.evaluate(SEEN)
    tab_to(page, "#page", 1)
    press("Enter")
    expect(page.locator(".claim").first).to_contain_text("two heads matter")


def test_a_job_that_is_cancelled_leaves_the_keyboard_where_it_was_begun(
    page: Any, address: str, going_on: threading.Event
) -> None:
    """The button to cancel goes; the keyboard stands on what began the job, and the job can be begun again."""
    expect, press = sync.expect, page.keyboard.press
    on_the_bench(page, address.partition("/?")[0], 4, 8)
    going_on.clear()
    page.locator("#score").focus()
    page.select_option("#score", "zero")
    expect(page.locator("#cancel")).to_be_visible()
    tab_to(page, "#cancel", 1)
    press("Enter")
    expect(page.locator("#error")).to_contain_text("cancelled")
    expect(page.locator("#score")).to_be_focused()


def test_what_cannot_be_loaded_is_said_on_the_page(page: Any, address: str) -> None:
    page.goto(address.partition("/?")[0] + "/bench")
    held(page)
    page.fill("#other", "./no-such-model")
    page.click("[type=submit]")
    sync.expect(page.locator("#error")).to_contain_text("no-such-model")
    page.fill("#other", "")
    page.select_option("#task", "")
    page.fill("#text", "clean,answer\n1 + 1 =,")
    page.click("[type=submit]")
    sync.expect(page.locator("#error")).to_contain_text("answer")
    page.complaints.clear()  # that it was refused stands in the console


def test_own_pairs_go_to_a_verdict_that_decides(page: Any, address: str) -> None:
    """A newcomer's file of 120 pairs, first with its columns the wrong way round: how many are sealed is set so that a patch
    can be tried, what is the matter is said on the bench, and with the columns put right the trial decides."""
    expect, host = sync.expect, address.partition("/?")[0]
    rows = [(f"{a}.{b} or {a}.{c}? Answer:", f"Q: Which is bigger: {a}.{b} or {a}.{c}? A:", f"{a}.{b}", f"{a}.{c}")
            for a in range(1, 13) for b in (7, 9) for c in (11, 17, 23, 31, 43)]  # fmt: skip
    for turned in (True, False):
        page.goto(f"{host}/bench")
        page.select_option("#shipped", "decimals-natural")
        page.select_option("#task", "")
        lines = [",".join([y, x, r, w] if turned else [x, y, r, w]) for x, y, r, w in rows]
        text = "\n".join(["clean,corrupted,answer,wrong", *lines]).encode()
        page.set_input_files("#file", {"name": "mine.csv", "mimeType": "text/csv", "buffer": text})
        expect(page.locator("#counted")).to_have_text("Of 120 prompts, 20 to look at and 100 sealed.")
        held(page)
        page.click("[type=submit]")
        page.wait_for_url("**/bench/*")
        page.fill("#heads", "L0H14 L1H3")
        page.locator("#heads").press("Enter")
        expect(page.locator("#effect")).to_contain_text("L0H14 L1H3")
        if turned:
            expect(page.locator("#answered")).to_contain_text("Are clean and corrupted the wrong way round?")
            held(page)
            accessible(page)
    expect(page.locator("#answered")).to_be_hidden()
    expect(page.locator("#looked")).to_contain_text(
        "1 edit(s) tried"
    )  # Enter asks once, though the field has changed too
    page.click("a.button:has-text('To trial')")
    expect(page.locator("#seal")).to_contain_text("100 test prompts are sealed")
    expect(page.locator("#says")).to_contain_text("between the 100 prompts")
    page.fill("#yaml", page.input_value("#yaml").replace("n: 999", "n: 19"))
    page.click("#register")
    expect(page.locator("#verdict")).to_be_visible()
    expect(page.locator("#outcome")).to_have_text(re.compile("upheld|refuted|undecided"))


@pytest.fixture
def going_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is clear, a job waits in the middle of its work, until it is set or the job is told to stop: what is done to a
    trial that runs is then done in time, however fast the trial."""
    on, real = threading.Event(), Job.progress
    on.set()

    def waiting(job: Job, what: str, done: int, total: int) -> None:
        real(job, what, done, total)
        for _ in range(600) if total > 1 else ():
            if on.is_set() or job.stop.wait(0.1):
                break
        real(job, what, done, total)

    monkeypatch.setattr(Job, "progress", waiting)
    return on


def test_a_claim_is_registered_and_its_verdict_and_page_are_shown(page: Any, home: Store, address: str) -> None:
    """The way below in little, every day: few pairs, few sets, so few that the page asks first."""
    expect = sync.expect
    on_the_bench(page, address.partition("/?")[0], 4, 8)
    page.fill("#heads", "L0H14 L1H3")
    page.locator("#heads").press("Enter")
    expect(page.locator("#effect")).to_contain_text("L0H14 L1H3")
    page.click("a.button:has-text('To trial')")
    expect(page.locator("#yaml")).to_have_value(re.compile("n: 999"))
    page.fill("#yaml", page.input_value("#yaml").replace("n: 999", "n: 19"))
    page.click("#register")
    expect(page.locator("#error")).to_contain_text("eligibility needs at least 100 pairs, given 8")
    expect(page.locator("#seal")).to_contain_text("8 test prompts are sealed")
    page.click("#register")
    expect(page.locator("#verdict")).to_be_visible()
    expect(page.locator("#seal")).to_contain_text("were opened")
    page.click("#page")
    expect(page.locator(".claim").first).to_contain_text("L0H14 L1H3")
    assert len(list(home.root.glob("claim-*/record.json"))) == 1


@pytest.mark.accept  # a trial and its report
def test_from_a_look_to_a_verdict(page: Any, home: Store, address: str, going_on: threading.Event) -> None:
    """Fresh to a verdict by the explorer alone, the claim a stranger's: hostile words in every field that takes any.  Cancelled
    once on the way; in the end they are text on the page, in the report, in the table and on the terminal."""
    expect = sync.expect
    host = address.partition("/?")[0]
    on_the_bench(page, host)
    page.fill("#heads", "L0H14 L1H3")
    page.locator("#heads").press("Enter")
    expect(page.locator("#effect")).to_contain_text("L0H14 L1H3")
    accessible(page, *SCREENS)
    page.click("a.button:has-text('To trial')")
    expect(page.locator("#seal")).to_contain_text("24 test prompts are sealed")
    page.fill("#words", HOSTILE)
    page.locator("#words").press("Enter")  # registers nothing
    expect(page.locator("#says")).to_contain_text(HOSTILE)
    page.select_option("#write", "zero")
    expect(page.locator("#says")).to_contain_text("zero was asked for")
    held(page)
    yaml, words = page.input_value("#yaml"), json.dumps(HOSTILE)
    for field in ('source: "a hunch"', "only_because: zero was asked for"):
        assert field in yaml
        yaml = yaml.replace(field, f"{field.partition(':')[0]}: {words}")
    yaml = yaml.replace('words: "more than 20% of the lead is lost"', f"words: {words}")
    yaml = yaml.replace("words: more than other sets of heads", f"words: {words}")
    yaml += f"waive: {{whole: {words}}}\n"
    page.fill("#yaml", yaml)
    going_on.clear()
    page.click("#register")
    page.click("#cancel")
    expect(page.locator("#error")).to_contain_text("goes on where it stopped")
    page.click("#register")
    expect(page.locator("#progress")).to_contain_text(" of ")
    page.reload()  # the trial goes on, and the page that comes back shows it
    going_on.set()
    expect(page.locator("#seal")).to_contain_text("were opened")
    expect(page.locator("#verdict")).to_be_visible()
    expect(page.locator("#sentence")).to_contain_text(HOSTILE)
    expect(page.locator("#counted")).to_contain_text("48 heads looked at on 12 pairs")
    expect(page.locator("#seal")).to_contain_text("were opened")
    held(page)
    accessible(page, *SCREENS)
    page.click("#page")
    expect(page.locator(".claim").first).to_contain_text(HOSTILE)
    accessible(page, *SCREENS)
    assert page.get_by_text("48 heads looked at on 12 pairs").count() == 1
    assert page.locator("img[src=x]").count() == 0 and page.evaluate("origin") == "null"
    page.goto(f"{host}/")
    expect(page.locator("#runs tbody tr")).to_have_count(5)
    accessible(page, *SCREENS)
    assert page.locator("img[src=x]").count() == 0
    run = next(p.name for p in home.root.glob("claim-*"))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["show", run, "--store", str(home.root)]) == 0
    assert "onerror=alert(1)" in said.getvalue() and "\x1b" not in said.getvalue()
