"""Rules of a placement on real servers: what the log says of others, and what people do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from headwater_client import ApiClient

from bench.harness.processes import folder_variables
from deploy.rollout import is_reproducible
from features.rollout_messages import RolloutPhase
from tests.harness.api_service import Service, category_of, serving_api
from tests.harness.models import ITEMS
from tests.harness.rollouts import controlling, rollout_environment
from tests.harness.shelf import Shelf
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving_api(tmp_path_factory.mktemp("trials")) as service:
        yield service


def items(document: Any) -> list[str]:
    return [item["item_id"] for item in document["items"]]


def test_a_replay_says_what_would_change_and_what_the_log_cannot_say(service: Service) -> None:
    shelf = Shelf(service, f"p{uuid4().hex[:8]}", liked="c1")
    service.take("PUT", f"/v1/placements/{shelf.name}", {"limit": 5})
    for _ in range(2):
        shelf.visit()
    replayed = replay_rules(service, shelf.name, "'c1' in item.category", "--json")
    told = json.loads(replayed)
    assert told["logged"] == told["compared"] > 150
    assert not told["left_out"]
    assert told["changed"] > 0.9 * told["compared"]
    assert told["reproduced"] > 0.5
    kinds = [category_of(f"i{number}") for number in range(ITEMS)]
    assert told["items"]["before"] > 0
    assert 0 < told["items"]["after"] <= kinds.count("c1")
    assert told["reward"]["logged"]["value"] > 0
    # Nothing was left to chance, so the log knows nothing of other lists.
    assert "could not have been shown" in told["cannot_say"]
    same = replay_rules(service, shelf.name, "item.available")
    assert "0 (0%)" in same, same
    unknown = try_command(service, "rules", "replay", "nowhere")
    assert unknown.returncode != 0
    assert f"no placement is named nowhere: there are {shelf.name}" in unknown.stderr


def test_rules_that_people_dislike_go_by_themselves_and_better_ones_stay(
    service: Service, tmp_path: Path
) -> None:
    shelf = Shelf(service, f"p{uuid4().hex[:8]}", liked="c1")
    first = service.take("PUT", f"/v1/placements/{shelf.name}", {"limit": 5})
    quick = {"steps": "[0.5]", "shadow_s": 0.5, "min_requests": 20, "min_shown": 100}
    with controlling(service.settings, tmp_path / "log", **quick):
        try_rules(service, shelf.name, "!('c1' in item.category)")
        worse = shelf.wait_for(RolloutPhase.ROLLED_BACK)
        assert worse.steps[-1].reason.startswith("worse: reward -"), worse.steps[-1].reason
        same = service.take("GET", "/v1/placements")["placements"]
        assert [each for each in same if each["name"] == shelf.name] == [first]
        try_rules(service, shelf.name, "'c1' in item.category")
        better = shelf.wait_for(RolloutPhase.PROMOTED)
    phases = [step.rollout.phase for step in better.steps]
    assert phases == ["shadow", "running", "rolled_back", "shadow", "running", "promoted"]
    assert all(is_reproducible(step) for step in better.steps)
    assert not better.breaks
    assert better.steps[-1].reason.startswith("no worse: reward "), better.steps[-1].reason
    wait_until(lambda: shelf.show("ann")["placement_revision"] > first["revision"], 10)
    assert {category_of(name) for name in items(shelf.show("ann"))} == {"c1"}
    shown = try_command(service, "rollout", "history", "--placement", shelf.name, "--json")
    last = json.loads(shown.stdout)["steps"][-1]
    assert last["change"]["candidate"] == {"filter": "'c1' in item.category", "limit": 5}
    assert last["inputs"]["figures"]["baseline_health"]["requests"] >= 100


def test_a_trial_is_begun_looked_at_and_ended_over_http(service: Service, tmp_path: Path) -> None:
    shelf = Shelf(service, f"p{uuid4().hex[:8]}", liked="c1")
    path = f"/v1/placements/{shelf.name}/trials"
    tried = {"rules": {"filter": "'c1' in item.category", "limit": 5}, "reason": "a test"}
    missing = service.call("POST", path, tried)
    assert (missing[0], missing[1]["detail"]) == (404, f"no placement is named '{shelf.name}'")
    placed = service.take("PUT", f"/v1/placements/{shelf.name}", {"limit": 5})
    assert service.take("GET", path) == {"placement": shelf.name, "trials": []}
    wrong = {"rules": {"boosts": [{"filter": "item.cost < 5", "factor": 2}]}, "reason": "a test"}
    status, problem = service.call("POST", path, wrong)
    assert (status, problem["field"], problem["column"]) == (400, "rules.boosts[0].filter", 1)
    status, problem = service.call("POST", path, {"rules": {"limit": 5}})
    assert (status, problem["field"]) == (400, "reason")
    with controlling(service.settings, tmp_path / "log", steps="[0.5]", shadow_s=60):
        begun = service.take("POST", path, tried | {"by": "ann", "command_id": shelf.name})
        assert (begun["state"], begun["revision"]) == ("shadow", placed["revision"])
        assert begun["rules"] == tried["rules"]
        assert begun["steps"][0]["actor"] == "ann (test)"
        # Sent again under the same name, it is done once.
        again = service.take("POST", path, tried | {"by": "ann", "command_id": shelf.name})
        assert again["rollout_id"] == begun["rollout_id"]
        other = {"rules": {"limit": 3}, "reason": "another"}
        status, problem = service.call("POST", path, other)
        assert status == 409
        assert f"rollout {begun['rollout_id']} is shadow" in problem["detail"]
        shares = {each["variant"]: each["share"] for each in begun["variants"]}
        assert shares["stable"] == 1
        assert shares["shadow"] > 0
        named = {"reason": "enough", "rollout_id": "another"}
        status, problem = service.call("POST", f"{path}/rollback", named)
        assert (status, problem["detail"]) == (
            409,
            f"another is not under way: {begun['rollout_id']} is",
        )
        assert service.call("POST", f"{path}/burn", {"reason": "x"})[0] == 404
        paused = service.take("POST", f"{path}/pause", {"reason": "lunch"})
        assert (paused["state"], paused["steps"][-1]["actor"]) == ("paused", "test")
        promoted = service.take("POST", f"{path}/promote", {"reason": "I know"})
        assert promoted["state"] == "promoted"
    wait_until(lambda: placement(service, shelf.name)["placement"] == tried["rules"], 10)
    assert placement(service, shelf.name)["revision"] > placed["revision"]
    found = service.take("GET", path)
    assert [each["rollout_id"] for each in found["trials"]] == [begun["rollout_id"]]
    assert [step["state"] for step in found["trials"][0]["steps"]] == [
        "shadow",
        "paused",
        "promoted",
    ]
    assert any("is shadow" in reason for reason in found["refused"])
    with ApiClient(service.url, service.secret) as api:
        told = api.list_trials(shelf.name)
        assert told.trials[0].state == "promoted"
    # No controller runs any more: it is said so, in less time than a caller waits.
    status, problem = service.call("POST", path, tried | {"command_id": "another"})
    assert status == 503
    assert "no controller has answered in 8 s" in problem["detail"]
    assert "sent again as command_id another it is done once" in problem["detail"]


def placement(service: Service, name: str) -> Any:
    known = service.take("GET", "/v1/placements")["placements"]
    return next(each for each in known if each["name"] == name)


def replay_rules(service: Service, name: str, filter_text: str, *options: str) -> str:
    rules = ("--filter", filter_text, "--limit", "5")
    done = try_command(service, "rules", "replay", name, *rules, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def try_rules(service: Service, name: str, filter_text: str) -> None:
    who = ("--by", "ann", "--reason", "a test")
    rules = ("--filter", filter_text, "--limit", "5")
    done = try_command(service, "placements", "try", name, *rules, *who)
    assert "begins" in done.stdout, done.stderr


def try_command(service: Service, *words: str) -> subprocess.CompletedProcess[str]:
    variables = rollout_environment(service.settings) | folder_variables(service.settings)
    command = [sys.executable, "-m", "deploy.cli", *words]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
