"""The console in a real browser, on the real servers, while people click."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from headwater_client import encode
from headwater_client.topics import AUDIT
from msgspec.structs import replace
from playwright.sync_api import Browser

from bench.harness.processes import folder_variables
from deploy.console.audit import AuditLog, make_entry
from deploy.console.pages import PAGES
from features.kafka import write_message
from tests.harness.console import Console, visiting
from tests.harness.servers import asleep
from tests.harness.waiting import wait_until
from tests.harness.workers import environment

pytestmark = pytest.mark.integration
NAMES = {"person": "p1", "item": "i1", "name": "home", "version": "1"}
# Which lists, rollouts and letters there are the tests of these pages know.
ELSEWHERE = ("/recommendations/", "/rollouts/", "/quality/letters/", "/quality/faults")
PATHS = [page.path.format_map(NAMES) for page in PAGES if not page.path.startswith(ELSEWHERE)]
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


def test_each_page_can_be_used_by_all_in_both_themes_and_asks_no_other_host(
    console: Console, browser: Browser
) -> None:
    with console.replaying(), visiting(browser, console) as visit:
        for path in PATHS:
            visit.page.emulate_media(color_scheme="light")
            visit.go(path)
            assert visit.page.locator("h1").count() == 1, path
            assert visit.find_faults() == [], path
            visit.page.emulate_media(color_scheme="dark")
            assert visit.find_faults("color-contrast") == [], path
        assert visit.faults == []


def test_figures_move_while_somebody_looks(console: Console, browser: Browser) -> None:
    with visiting(browser, console, "viewer") as visit:
        visit.go("/")
        events = "[data-now='events.0.in_log']"
        before = visit.value(events)
        with console.replaying():
            wait_until(lambda: visit.value(events) > before, 20)
        assert visit.page.inner_text("#live") == "live"

        def is_told() -> bool:
            (clicks, *_) = console.take("GET", "/v1/admin/now")["events"]
            return visit.value(events) == clicks["in_log"]

        wait_until(is_told, 20)

        visit.page.click("#pause")
        assert visit.page.inner_text("#live") == "paused"
        held = visit.value(events)
        with console.replaying():
            wait_until(lambda: not is_told(), 20)
        assert visit.value(events) == held
        visit.page.click("#pause")
        wait_until(is_told, 20)
        assert visit.faults == []


DRAW = """async () => {
  const { lines } = await import("/static/charts.js");
  const element = document.createElement("div");
  document.querySelector("main").append(element);
  const series = [{ name: "share" }, { name: "low", hidden: true }, { name: "high", hidden: true }];
  series[0] = { ...series[0], low: 2, high: 3 };
  lines(element, { label: "A share", series }).set([[0, 60, 120], [2, 3, 4], [1, 2, 3], [3, 4, 5]]);
}"""
INK = """() => {
  const canvas = document.querySelector("main canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.filter((value, at) => at % 4 === 3 && value > 0).length;
}"""


def test_charts_are_drawn_and_named_in_both_themes(console: Console, browser: Browser) -> None:
    with visiting(browser, console) as visit:
        visit.go("/fairness")
        visit.page.evaluate(DRAW)
        for theme in ("light", "dark"):
            visit.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            wait_until(lambda: visit.page.evaluate(INK) > 1000, 10)
            assert visit.find_faults() == []
        assert visit.page.get_by_role("img", name="A share").count() == 1
        assert visit.faults == []


def test_pages_fit_a_phone(console: Console, browser: Browser) -> None:
    with visiting(browser, console, **PHONE) as visit:
        for path in PATHS:
            visit.go(path)
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert visit.page.evaluate(wide) <= 0, path


def test_one_gets_about_by_keyboard(console: Console, browser: Browser) -> None:
    with visiting(browser, console) as visit:
        visit.go("/")
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.className") == "skip"
        visit.page.keyboard.press("Enter")
        assert visit.page.evaluate("document.activeElement.id") == "main"
        visit.page.get_by_role("link", name="Audit").focus()
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_url("**/audit")


def test_pages_are_whole_without_scripts(console: Console, browser: Browser) -> None:
    with visiting(browser, console, java_script_enabled=False) as visit:
        visit.go("/")
        assert visit.value("[data-now='knowledge.lag']") >= 0
        assert "Event to answer, p99" in visit.page.inner_text("main")


# As a page's own module might be: it imports the one that loads it.
CIRCLE = """
import "./live.js";
window.loaded = (window.loaded ?? 0) + 1;
export function update(sample) {
  window.samples = (window.samples ?? 0) + Boolean(sample.time);
}
"""


def test_a_module_may_import_the_one_that_loads_it(console: Console, browser: Browser) -> None:
    """Neither waits for the other, and nothing is loaded or followed twice."""
    with visiting(browser, console) as visit:
        visit.page.route(
            "**/static/now.js",
            lambda route: route.fulfill(body=CIRCLE, content_type="text/javascript"),
        )
        asked: list[str] = []
        ended: list[str] = []
        visit.page.on("request", lambda request: asked.append(request.url))
        visit.page.on("requestfinished", lambda request: ended.append(request.url))
        visit.page.on("requestfailed", lambda request: ended.append(request.url))
        visit.go("/")
        wait_until(lambda: visit.page.evaluate("window.samples ?? 0") > 1, 30)
        assert asked.count(f"{console.url}/static/live.js") == 1
        assert visit.page.evaluate("window.loaded") == 1
        # A stream that ended is asked for again.
        live = f"{console.url}/v1/admin/live"
        assert asked.count(live) - ended.count(live) <= 1
        assert visit.page.inner_text("#live") == "live"
        assert visit.faults == []


def test_a_page_without_its_module_is_whole_and_says_so(console: Console, browser: Browser) -> None:
    with visiting(browser, console) as visit:
        visit.page.route("**/static/now.js", lambda route: route.abort())
        visit.go("/")
        visit.page.wait_for_selector("#live[data-state='away']")
        assert "a part of this page is missing" in visit.page.inner_text("#live")
        assert visit.page.locator("nav").is_visible()
        assert visit.value("[data-now='knowledge.lag']") >= 0
        assert visit.faults


def test_a_page_that_has_nothing_to_edit_loads_no_editor(
    console: Console, browser: Browser
) -> None:
    with visiting(browser, console) as visit:
        visit.go("/placements/home?revision=987654")
        assert "no rules of revision 987654" in visit.page.inner_text("main")
        assert [each for each in visit.faults if "404" not in each] == []


def test_a_server_that_sleeps_is_named_and_the_page_stays(
    console: Console, browser: Browser
) -> None:
    with visiting(browser, console) as visit:

        def is_away() -> bool:
            visit.go("/")
            assert visit.page.locator("nav").is_visible()
            return "A server is away" in visit.page.inner_text("main")

        with asleep(console.local, "kafka"):
            wait_until(is_away, 60)
        wait_until(lambda: not is_away(), 60)


def test_who_logs_out_is_out(console: Console, browser: Browser) -> None:
    with visiting(browser, console, "operator") as visit:
        assert "operator, operator" in visit.page.inner_text("header")
        visit.page.click("text=Log out")
        visit.page.wait_for_url("**/login")
        visit.go("/quality")
        assert visit.page.url.endswith("/login?next=%2Fquality")


def test_what_is_changed_is_on_record(console: Console, browser: Browser) -> None:
    count = console.take("GET", "/v1/admin/audit")["count"]
    status, problem = console.call("PUT", "/v1/placements/home", {"limit": 3}, "operator")
    assert (status, problem["remedy"]) == (403, "use one with the scope administer")
    console.take("PUT", "/v1/placements/home", {"limit": 3})
    status, _ = console.call("DELETE", "/v1/placements/nowhere")
    assert status == 404
    found = console.take("GET", "/v1/admin/audit", key="viewer")
    assert (found["count"], found["breaks"]) == (count + 4, [])
    failed, _, done, asked = found["entries"][:4]
    assert [each["outcome"] for each in (asked, done)] == ["asked", "done"]
    assert asked["action_id"] == done["action_id"]
    assert (done["who"], done["role"], done["operation"]) == (
        "admin",
        "administrator",
        "put_placement",
    )
    assert "name='home', limit=3" in done["target"]
    assert failed["outcome"].startswith("failed: ")
    with visiting(browser, console, "viewer") as visit:
        visit.go("/audit")
        assert "put_placement" in visit.page.inner_text("table")


def audit_command(console: Console, *words: str) -> subprocess.CompletedProcess[str]:
    variables = environment(console.settings, "audit") | folder_variables(console.settings)
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", "audit", *words],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_consoles_that_write_at_once_make_one_chain_and_a_stranger_breaks_it(
    console: Console,
) -> None:
    logs = [AuditLog(console.settings.kafka) for _ in range(2)]

    def write(number: int) -> None:
        entry = make_entry(
            action_id=f"at-once-{number}",
            who="test",
            role="operator",
            operation="test",
            target="",
            reason="\x1b[31m[bold]no markup",
            outcome="done",
        )
        logs[number % 2].append(entry)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(8)))
    chain = AuditLog(console.settings.kafka).read()
    assert chain.breaks == []
    written = [each.action_id for each in chain.entries if each.action_id.startswith("at-once")]
    assert sorted(written) == [f"at-once-{number}" for number in range(8)]
    told = audit_command(console)
    assert told.returncode == 0, told.stderr
    assert f"{len(chain.entries)} entries fit together" in told.stdout
    assert chain.digest in told.stdout
    assert "\x1b" not in told.stdout
    assert len(audit_command(console, "--json").stdout.splitlines()) == len(chain.entries)
    newest = chain.entries[-1]
    write_message(console.settings.kafka, AUDIT, "x", encode(replace(newest, who="stranger")))
    broken = audit_command(console)
    assert broken.returncode == 4, broken.stderr
    assert f"entry {newest.number} does not follow" in broken.stderr
