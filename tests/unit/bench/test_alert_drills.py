"""Each alert has a fault on which it is tried."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import yaml

from bench.soak.alerts import scale_rules
from bench.soak.drills import DrillGround
from deploy.monitoring import ALERT_RULES


def test_each_alert_is_drilled_once() -> None:
    rules = yaml.safe_load(ALERT_RULES.read_text())["groups"]
    names = [rule["alert"] for group in rules for rule in group["rules"]]
    nothing = cast("Any", None)
    ground = DrillGround(nothing, nothing, nothing, {}, {}, nothing)
    drilled = Counter(name for drill in ground.list_drills() for name in drill.alerts)
    assert drilled == Counter(names)


def test_only_durations_of_rules_are_scaled() -> None:
    scaled = scale_rules(ALERT_RULES.read_text(), 1)
    minutes = [f"{60 * number}s" for number in range(1, 16)]
    for rule in yaml.safe_load(scaled)["groups"][0]["rules"]:
        assert rule.get("for", "60s") in minutes
        assert "m]" not in rule["expr"]
