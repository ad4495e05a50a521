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

from bench.harness.processes import folder_variables
from deploy.rollout import is_reproducible
from features.rollout_messages import RolloutPhase
from tests.harness.api_service import Service, category_of, serving_api
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
    assert told["items"]["before"] > told["items"]["after"] > 0
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
