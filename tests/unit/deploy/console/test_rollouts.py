"""What the pages of rollouts and models say of what stands on the topic and on disk."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from headwater_client.admin import models, rollouts
from headwater_client.admin.models import VersionState
from headwater_client.contract import Scope

from deploy.console import rendering
from deploy.console.models import _describe as describe_version
from deploy.console.models import _state_of
from deploy.console.pages import PAGES
from deploy.console.rollout_figures import FoundRollout, describe, list_found, summarise
from deploy.console.rollouts import _name_actor
from deploy.rollout import DecisionInputs, Health, RolloutSettings, VariantTally, course, decide
from deploy.rollout.decision import Trial, initial_state
from deploy.rollout.history import Transition, build_step, inputs_as_json, rules_as_json
from deploy.rollout.topic import RolloutHistory
from features.rollout_messages import RolloutCourse, RolloutPhase, RolloutStep
from stream.api.keys import ANYONE, ApiKey
from stream.api.problems import RequestError
from tests.unit.trainer.gate.test_checks import FAIR, SETTINGS
from trainer.gate import verdict
from trainer.version_history import FileRecord, StoredVersion, TrainingRecord, VersionManifest

RULES = RolloutSettings(shadow_s=0)
START_S = 1_700_000_000.0
HOSTILE = "<script>alert(1)</script>\"'"
TEMPLATES = rendering.make_templates(PAGES)
OPERATOR = ApiKey(name="ops", scopes=[Scope.OPERATE], sha256="1" * 64)


def render(area: str, operation: str, answer: Any, path: dict[str, str]) -> str:
    return TEMPLATES.get_template(f"{area}.html").render(
        area=area,
        key=OPERATOR,
        role="operator",
        csrf="t",
        is_open=True,
        done="",
        may={scope.value: True for scope in Scope},
        here="/here",
        page=PAGES[0],
        path=path,
        query={},
        problems={},
        answers={operation: answer},
    )


def take_inputs(ratio: float, now_s: float, shown: float = 40_000.0) -> DecisionInputs:
    apart = 1 + 0.1 * np.where(np.arange(64) % 2, 1.0, -1.0)
    each = np.full(64, shown / 64)
    tallies = [VariantTally(each, each * rate * apart, shown * rate) for rate in (0.1 * ratio, 0.1)]
    health = Health(people=900.0, p99_ms=12.0)
    return DecisionInputs(now_s, *tallies, health, health, 0.01)


def make_history(reason: str = "larger history", *, with_course: bool = True) -> RolloutHistory:
    """A rollout that ann began, that grew once by itself, and goes on."""
    trial = Trial("8-17", "temporal_llm", (8, "/m/8"), (7, "/m/7"), initial_state(START_S))
    first = trial.to_rollout(RULES, int(1000 * START_S))
    steps = [build_step(Transition(trial, "ann", reason, rules_as_json(RULES), "c1"), first)]
    now_s = START_S + 2 * RULES.min_step_s
    taken = take_inputs(1.3, now_s)
    decided = decide(trial.state, taken, RULES)
    recorded = inputs_as_json(trial.state, taken, RULES)
    grown = trial.advance(decided.state)
    rollout = grown.to_rollout(RULES, int(1000 * now_s))
    steps.append(build_step(Transition(grown, "controller", decided.reason, recorded), rollout))
    known = course.begin_course(trial, None)
    for minute in (30, 60, 120):
        at = take_inputs(1.3, START_S + 60 * minute, 400.0 * minute)
        found = decide(trial.state, at, RULES)
        sample = course.make_sample(trial, at, found, RULES)
        known = course.add_sample(
            known, sample, found.reason, inputs_as_json(trial.state, at, RULES)
        )
    courses: dict[str, RolloutCourse] = {"8-17": known} if with_course else {}
    return RolloutHistory(rollout, steps, [], [], "", courses, int(1000 * now_s))


def find(history: RolloutHistory) -> FoundRollout:
    (found,) = list_found({"temporal_llm": history})
    return found


def test_a_rollout_is_told_with_all_that_its_decision_hung_on() -> None:
    told = describe(find(make_history()))
    assert (told.summary.candidate, told.summary.stable, told.summary.state) == (8, 7, "running")
    assert told.summary.ended is None
    assert told.sequence == 1
    assert (told.margin, told.shares) == (RULES.margin, list(RULES.steps))
    assert [each.actor for each in told.history] == ["ann", "controller"]
    assert [each.replayed_alike for each in told.history] == [None, True]
    assert [each.value for each in told.actions] == ["promote", "rollback", "pause"]
    assert told.decision
    assert told.decision.replayed_alike
    assert told.decision.canary.people == 900
    assert len(told.decision.guards) == 6
    assert {each.problem for each in told.decision.ratios} == {""}
    assert told.outlook
    cases = {each.case: each for each in told.outlook.cases}
    assert cases["estimate"].verdict == "promoted"
    assert cases["estimate"].effect == pytest.approx(0.3)
    assert cases["harm"].effect == pytest.approx(-0.2)
    widths = [each.upper - each.lower for each in told.evidence if each.upper and each.lower]
    assert len(widths) == 3
    assert widths == sorted(widths, reverse=True)


def test_of_an_older_release_the_band_is_that_of_its_steps() -> None:
    told = describe(find(make_history(with_course=False)))
    assert [each.time for each in told.evidence] == [told.history[-1].time]
    assert told.evidence[0].lower == told.history[-1].lower
    assert told.decision
    assert told.decision.reason == told.history[-1].reason
    assert told.no_outlook.startswith("nothing was earned yet")


def test_a_rollout_that_ended_can_be_looked_at_and_not_steered() -> None:
    history = make_history()
    ended = msgspec.structs.replace(history.steps[-1].rollout, phase=RolloutPhase.PROMOTED)
    step = msgspec.structs.replace(history.steps[-1], rollout=ended)
    found = find(RolloutHistory(ended, [history.steps[0], step], [], []))
    told = describe(found)
    assert (told.actions, told.outlook, told.watched) == ([], None, None)
    assert told.no_outlook == "it has ended"
    assert told.summary.ended == ended.time


def test_steps_that_cannot_be_read_are_told_and_the_rest_stays() -> None:
    history = make_history(with_course=False)
    damaged: RolloutStep = msgspec.structs.replace(
        history.steps[-1], inputs={"figures": 5}, snapshot={"step": "x"}
    )
    told = describe(find(RolloutHistory(history.current, [history.steps[0], damaged], [], [])))
    assert "cannot be read" in told.history[-1].problem
    assert (told.decision, told.evidence, told.outlook) == (None, [], None)
    assert summarise(find(RolloutHistory(None, [damaged], [], []))).candidate == 0
    assert "cannot be read" in render("rollout", "describe_rollout", told, {"rollout": "8-17"})


def test_what_somebody_wrote_is_shown_as_text() -> None:
    told = describe(find(make_history(HOSTILE)))
    page = render("rollout", "describe_rollout", told, {"rollout": HOSTILE})
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    listed = rollouts.RolloutsAnswer(live=7, rollouts=[told.summary], breaks=[HOSTILE], refused=[])
    assert "<script>alert" not in render("rollouts", "list_rollouts", listed, {})


def test_the_state_machine_shows_where_it_is_and_was() -> None:
    told = describe(find(make_history()))
    page = render("rollout", "describe_rollout", told, {"rollout": "8-17"})
    assert "State of rollout 8-17: running" in page
    assert page.count('class="phase is-current"') == 1
    assert 'class="step is-current"' in page
    assert f'data-margin="{RULES.margin}"' in page


def test_without_anything_each_page_says_what_to_do() -> None:
    nothing = rollouts.RolloutsAnswer(live=None, rollouts=[], breaks=[], refused=[])
    page = render("rollouts", "list_rollouts", nothing, {})
    assert "headwater train" in page
    assert "Nothing was tried out yet" in page
    none = models.ModelsAnswer(
        live=None, rollout="", versions=[], quality=[], missing=["no Triton"]
    )
    page = render("models", "list_models", none, {})
    assert "headwater train" in page
    assert "no Triton" in page


@pytest.mark.parametrize(
    ("key", "named", "actor"),
    [(OPERATOR, "", "ops"), (OPERATOR, "ann", "ann (ops)"), (OPERATOR, "ops", "ops")],
)
def test_nobody_signs_with_the_name_of_another_key(key: ApiKey, named: str, actor: str) -> None:
    assert _name_actor(key, named) == actor


def test_where_no_keys_are_asked_for_one_says_who_one_is() -> None:
    assert _name_actor(ANYONE, " ann ") == "ann"
    with pytest.raises(RequestError, match="actor: is missing"):
        _name_actor(ANYONE, " ")


MANIFEST = VersionManifest(
    architecture={"width": 16, "decay": True},
    outcome=TrainingRecord(epoch=2, held_out=0.2, seconds=9.0),
    created_ms=1_700_000_000_000,
    parent=7,
    windows=(3, 4),
    code_revision="0.3.0",
    files={"model.onnx": FileRecord("ab", 1000)},
)


def test_a_version_is_told_with_its_verdict_and_its_parts() -> None:
    judged = msgspec.structs.replace(verdict(FAIR, SETTINGS), without={"taste": 0.1, "prior": 0.5})
    stored = StoredVersion(8, manifest=MANIFEST, verdict=judged)
    told = describe_version(stored, VersionState.STORED, judged)
    assert told.summary.size_bytes == 1000
    assert told.architecture == {"members": "1", "width": "16", "decay": "true"}
    # What matters most comes first.
    assert [(each.part, each.ndcg, each.without) for each in told.parts] == [
        ("taste", 0.5, 0.1),
        ("prior", 0.5, 0.5),
    ]
    assert [(each.form, each.serves) for each in told.forms] == [("float32", True)]
    page = render("model", "describe_model", told, {"version": "8"})
    assert "Start a canary of version 8" in page
    assert 'value="0.1"' in page


def test_a_broken_version_is_told() -> None:
    told = describe_version(StoredVersion(8, problem=HOSTILE), VersionState.BROKEN, None)
    page = render("model", "describe_model", told, {"version": "8"})
    assert "<script>alert" not in page
    assert "Start a canary" not in page


def test_the_state_of_a_version_is_what_becomes_of_it_now() -> None:
    passed = verdict(FAIR, SETTINGS)
    refused = msgspec.structs.replace(passed, passed=False)
    there = {
        1: StoredVersion(1, manifest=MANIFEST),
        2: StoredVersion(2, manifest=MANIFEST, is_kept=True),
        3: StoredVersion(3, problem="damaged"),
        6: StoredVersion(6, manifest=MANIFEST),
    }
    judged = {4: passed, 5: refused}
    states = {6: VersionState.CANARY}
    found = {number: _state_of(number, there, judged, states) for number in range(1, 7)}
    assert [each.value for each in found.values()] == [
        "stored",
        "kept",
        "broken",
        "removed",
        "refused",
        "canary",
    ]


@pytest.mark.parametrize(
    ("changed", "word", "sentence"),
    [
        ({"state": "shadow"}, "nobody sees it yet", "Nobody can say yet:"),
        ({"lower": None, "upper": None}, "not known yet", "Nobody can say yet:"),
        ({"lower": 0.01, "upper": 0.3}, "better", "Yes, it is better:"),
        ({"lower": -0.3, "upper": -0.01}, "worse", "No, it is worse:"),
        ({"lower": -0.03, "upper": 0.1}, "no worse", "It is no worse"),
        ({"lower": -0.3, "upper": 0.3}, "not known yet", "Nobody can say yet:"),
        ({"lower": -0.3, "upper": 0.3, "ended": 1}, "not known", "Nobody can say:"),
    ],
)
def test_whether_it_is_better_is_said_in_words(
    changed: dict[str, Any], word: str, sentence: str
) -> None:
    told = describe(find(make_history()))
    summary = msgspec.structs.replace(told.summary, estimate=0.0, margin=0.04, **changed)
    listed = rollouts.RolloutsAnswer(live=7, rollouts=[summary], breaks=[], refused=[])
    assert f">{word}</span>" in render("rollouts", "list_rollouts", listed, {})
    page = render(
        "rollout",
        "describe_rollout",
        msgspec.structs.replace(told, summary=summary),
        {"rollout": "8-17"},
    )
    assert sentence in page
