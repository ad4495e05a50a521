"""Versions and rollouts at the console, with a real controller; clicks are made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import Browser

from deploy.jobs.train import model_registry
from features.schema import FeatureSchema
from tests.harness.console import Console, Visit, serving_console, visiting
from tests.harness.models import SETTINGS, untrained
from tests.harness.rollouts import TOKEN, People, controlling, steps
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration
ALIKE = {"canary": 0.3, "baseline": 0.3}
# Nothing is decided by itself: these tests steer.
STEERED = {"min_step_s": 3600, "shadow_s": 0.5}
HOSTILE = '<script>alert(1)</script> [/] "o\'clock"'
ROLLOUTS = "/v1/admin/rollouts"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """The console that may give commands, a controller, and a second version that nobody gets."""
    folder = tmp_path_factory.mktemp("rollouts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWATER_ROLLOUT__ADMIN_TOKEN", TOKEN)
        with serving_console(folder) as console:
            with closing(model_registry(console.settings, SETTINGS)) as registry:
                registry.write_version(untrained(FeatureSchema(console.settings.features), 2))
            with controlling(console.settings, folder / "controller.log", **STEERED):
                yield console


def newest(console: Console) -> Any:
    """The newest rollout, whole."""
    found = console.take("GET", ROLLOUTS, key="viewer")["rollouts"][0]["rollout"]
    return console.take("GET", f"{ROLLOUTS}/{found}", key="viewer")


def wait_for(console: Console, is_so: Callable[[Any], bool], act: Callable[[], None]) -> Any:
    """The newest rollout, once people have acted until it is so."""

    def is_reached() -> bool:
        act()
        return is_so(newest(console))

    wait_until(is_reached, 60)
    return newest(console)


def list_bounded(found: Any) -> list[Any]:
    return [each for each in found["evidence"] if each.get("lower") is not None]


def test_before_anything_was_tried_out_pages_say_what_to_do(
    console: Console, browser: Browser
) -> None:
    """Runs first: the others leave rollouts behind."""
    found = console.take("GET", ROLLOUTS, key="viewer")
    assert (found["live"], found["rollouts"], found["refused"]) == (1, [], [])
    models = console.take("GET", "/v1/admin/models", key="viewer")
    assert {each["version"]: each["state"] for each in models["versions"]} == {
        1: "live",
        2: "stored",
    }
    assert (models["live"], models["rollout"], models["quality"]) == (1, "", [])
    with visiting(browser, console, "viewer") as visit:
        visit.go("/rollouts")
        assert "Nothing was tried out yet" in visit.page.inner_text("main")
        visit.go("/models/2")
        # Who may only look is offered nothing.
        assert visit.page.locator("form.action").count() == 0
        visit.go("/models/77")
        assert "no version is named" in visit.page.inner_text("main")
        visit.go("/rollouts/none")
        assert "no rollout is named" in visit.page.inner_text("main")
    assert console.call("GET", f"{ROLLOUTS}/none")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", ROLLOUTS, {"version": 2, "reason": "a test"}),
        ("POST", f"{ROLLOUTS}/none", {"action": "promote", "reason": "a test"}),
    ],
)
def test_who_has_not_the_role_changes_nothing(
    console: Console, method: str, path: str, body: Any
) -> None:
    status, told = console.call(method, path, body, key="viewer")
    assert (status, "operate" in told["remedy"]) == (403, True)
    assert console.call(method, path, {**body, "reason": " "}, key="operator")[0] == 400


def test_a_version_that_cannot_be_started_is_told(console: Console) -> None:
    status, told = console.call("POST", ROLLOUTS, {"version": 9, "reason": "a test"}, "operator")
    assert status == 409
    assert "version 9: is not in" in told["detail"]
    live = console.call("POST", ROLLOUTS, {"version": 1, "reason": "a test"}, "operator")
    assert live[0] == 409
    assert "is what everyone gets already" in live[1]["detail"]


def test_a_canary_is_started_watched_and_promoted_from_the_pages(
    console: Console, browser: Browser
) -> None:
    people = People(console.settings, ALIKE)
    with visiting(browser, console, "operator") as visit:
        visit.go("/models/2")
        visit.page.fill("input[name=reason]", HOSTILE)
        visit.page.click("text=Start a canary of version 2", timeout=90_000)
        visit.page.wait_for_selector("text=Done:", timeout=90_000)
        found = wait_for(console, lambda now: now["summary"]["state"] == "running", people.act)
        of = found["summary"]
        assert (of["candidate"], of["stable"], of["placement"]) == (2, 1, "")
        assert (found["history"][0]["actor"], found["history"][0]["reason"]) == (
            "operator",
            HOSTILE,
        )
        found = wait_for(console, lambda now: len(list_bounded(now)) >= 2, people.act)
        check_page(visit, console, found)
        check_steering(visit, console, found)
    assert visit.faults == []


def check_page(visit: Visit, console: Console, found: Any) -> None:
    """The page shows what the operation says, as numbers and as a band that goes on growing."""
    visit.go(f"/rollouts/{found['summary']['rollout']}")
    visit.page.wait_for_selector("#evidence-chart canvas")
    assert HOSTILE in visit.page.inner_text("#history")
    decision = newest(console)["decision"]
    assert decision["reason"] == "goes on"
    assert decision["replayed_alike"]
    assert decision["guards_speak"]
    assert visit.page.locator("#guards tbody tr").count() == len(decision["guards"])
    assert [each["problem"] for each in decision["guards"]] == [""] * len(decision["guards"])
    assert [each["name"] for each in decision["ratios"]] == ["people", "requests"]
    lowest = visit.page.locator("#evidence-figures tbody tr").last.locator("data").nth(1)
    told = float(lowest.get_attribute("value") or "nan")
    lower = [each["lower"] for each in newest(console)["evidence"] if each.get("lower") is not None]
    assert told in [round(math.expm1(each), 12) for each in lower]
    outlook = newest(console)["outlook"]
    assert [each["case"] for each in outlook["cases"]] == ["estimate", "equal", "harm"]
    assert outlook["events_a_day"] > 0
    assert outlook["bound_days"] > 0
    assert (
        len(outlook["assumes"])
        == visit.page.locator("section[aria-labelledby=outlook-title] li").count()
    )
    assert visit.find_faults() == []


def check_steering(visit: Visit, console: Console, found: Any) -> None:
    """What is asked is done before the page comes back; what has moved on is refused."""
    name = found["summary"]["rollout"]
    visit.page.fill("input[name=reason]", "look at it first")
    visit.page.click("button[value=pause]")
    visit.page.wait_for_selector("main .badge.paused")
    paused = newest(console)
    assert (paused["summary"]["state"], "resume" in paused["actions"]) == ("paused", True)
    stale = {"action": "promote", "reason": "a test", "sequence": paused["sequence"] - 1}
    status, told = console.call("POST", f"{ROLLOUTS}/{name}", stale, "operator")
    assert status == 409
    assert f"was at step {paused['sequence'] - 1}" in told["detail"]
    again = {"action": "pause", "reason": "a test"}
    status, told = console.call("POST", f"{ROLLOUTS}/{name}", again, "operator")
    assert (status, "the rollout is paused" in told["detail"]) == (409, True)
    refused = console.take("GET", ROLLOUTS)["refused"]
    assert "the rollout is paused" in refused[0]["reason"]
    # Somebody else acts: the page that stands open says so by itself.
    visit.page.evaluate("document.activeElement.blur()")
    resume = {"action": "resume", "reason": "on", "actor": "ann"}
    assert console.take("POST", f"{ROLLOUTS}/{name}", resume, "operator")["outcome"]
    visit.page.wait_for_selector("main p .badge.running")
    visit.page.fill("input[name=reason]", "good enough")
    visit.page.click("button[value=promote]")
    visit.page.wait_for_selector("main p .badge.promoted")
    assert visit.page.locator("form.action").count() == 0
    ended = newest(console)
    assert ended["actions"] == []
    told = [(each["state"], each["actor"]) for each in ended["history"][-3:]]
    assert told == [("paused", "operator"), ("running", "ann (operator)"), ("promoted", "operator")]
    status, refusal = console.call("POST", f"{ROLLOUTS}/{name}", again, "operator")
    assert (status, "has ended: promoted" in refusal["detail"]) == (409, True)
    check_trace(console, name)


def check_trace(console: Console, name: str) -> None:
    """The audit has what was asked and what became of it; the command line tells the same."""
    entries = console.take("GET", "/v1/admin/audit")["entries"]
    mine = [each for each in entries if each["operation"] == "steer_rollout"]
    done = [each for each in mine if each["outcome"] == "done"]
    assert [(each["who"], each["reason"]) for each in done] == [
        ("operator", "good enough"),
        ("operator", "on"),
        ("operator", "look at it first"),
    ]
    assert all(name in each["target"] for each in done)
    assert any("is paused" in each["outcome"] for each in mine)
    shown = [each for each in steps(console.settings) if each["rollout_id"] == name]
    assert [each["actor"] for each in shown][-1] == "operator"
    assert shown[0]["reason"] == HOSTILE
    models = console.take("GET", "/v1/admin/models")
    wait_until(lambda: console.take("GET", "/v1/admin/models")["live"] == 2, 20)
    assert {each["version"] for each in models["versions"]} == {1, 2}


def test_a_broken_folder_is_told_and_the_other_versions_stay(
    console: Console, browser: Browser
) -> None:
    broken = console.settings.model_repository / "temporal_llm" / "5"
    broken.mkdir()
    try:
        (broken / "manifest.json").write_text("{ no manifest")
        models = console.take("GET", "/v1/admin/models", key="viewer")
        states = {each["version"]: each for each in models["versions"]}
        assert (states[5]["state"], "cannot be read" in states[5]["problem"]) == ("broken", True)
        assert states[2]["size_bytes"] > 0
        with visiting(browser, console, "viewer") as visit:
            visit.go("/models/5")
            assert "cannot be read" in visit.page.inner_text("main")
            visit.go("/models")
            assert visit.find_faults() == []
            visit.go("/models/2")
            assert visit.find_faults() == []
            assert visit.faults == []
    finally:
        (broken / "manifest.json").unlink()
        broken.rmdir()
