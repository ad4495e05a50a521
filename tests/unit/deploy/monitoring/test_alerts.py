"""The rules for Prometheus: each fires on its fault, and none where all is well (promtool)."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring import ALERT_RULES
from tests.harness.prometheus import find_program

ROOT = Path(__file__).parents[4]
RUNBOOKS = ROOT / "docs" / "how-to" / "alerts.md"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(ALERT_RULES.read_text())["groups"]
    for rule in group["rules"]
}

# Series of half an hour, a value a minute, as promtool writes them: `first+step x times`.
WELL = {
    'up{job="headwater-worker",instance="w"}': "1x30",
    'headwater_events_total{job="headwater-worker",instance="w",topic="clicks"}': "0+6000x30",
    'headwater_committed_offset{job="headwater-worker",instance="w",partition="0"}': "0+6000x30",
    'headwater_consumer_lag{job="headwater-worker",instance="w",partition="0"}': "40x30",
    'headwater_event_to_row_seconds_bucket{le="0.1"}': "0+6000x30",
    'headwater_event_to_row_seconds_bucket{le="10"}': "0+6000x30",
    'headwater_event_to_row_seconds_bucket{le="+Inf"}': "0+6000x30",
    'headwater_retries_total{instance="w",reason="ServerError"}': "3x30",
    'headwater_routed_version{instance="w",variant="stable"}': "7x30",
    'headwater_routed_version{instance="w",variant="canary"}': "0x30",
    'headwater_routed_versions_missing{url="t:8001"}': "0x30",
    'headwater_recommendations_total{variant="stable",fallback="False"}': "0+6000x30",
    'headwater_recommendations_total{variant="stable",fallback="True"}': "0+6x30",
    'headwater_model_failures_total{variant="canary"}': "2x30",
    'headwater_short_lists_total{filled_by="nothing"}': "0x30",
    'headwater_dead_letters_total{topic="clicks"}': "0+6x30",
    'headwater_dead_letters_lost_total{topic="clicks"}': "0x30",
    'headwater_wrong_times_total{topic="clicks",reason="ahead"}': "0+6x30",
    'headwater_repeated_events_total{topic="clicks",content="other"}': "0+1x30",
    'headwater_damaged_rows_total{table="users"}': "0x30",
    "headwater_rollout_lease_expired": "0x30",
    'headwater_rollout_leads{job="headwater-controller",instance="c1"}': "1x30",
    'headwater_rollout_leads{job="headwater-controller",instance="c2"}': "0x30",
    'headwater_rollout_steps_total{state="rolled_back"}': "1x30",
    'headwater_rollout_messages_refused_total{instance="w",reason="unsigned"}': "0x30",
    'headwater_placement_messages_ignored_total{instance="a",reason="unsigned"}': "0x30",
    'headwater_trainer_retries_total{instance="t",reason="ServerError"}': "4x30",
    'headwater_api_requests_total{instance="a",operation="recommend",status="200"}': "0+600x30",
    'headwater_api_requests_total{instance="a",operation="recommend",status="503"}': "0x30",
    'headwater_api_late_answers_total{instance="a",reason="late"}': "0+1x30",
}
# By alert: the series that differ, each by a part of its name.
FAULTS = {
    "HeadwaterProcessDown": {"up{": "1x10 0x20"},
    "HeadwaterRowsLate": {'row_seconds_bucket{le="0.1"}': "0+3000x30"},
    "HeadwaterNothingCommitted": {"committed_offset": "0+6000x10 60000x20"},
    "HeadwaterServerAway": {"headwater_retries_total": "3+30x30"},
    "HeadwaterNoVersionRouted": {'routed_version{instance="w",variant="stable"}': "7x10 0x20"},
    "HeadwaterVersionNotServed": {"versions_missing": "0x10 1x20"},
    "HeadwaterFallbacks": {'fallback="True"': "0+600x30"},
    "HeadwaterVariantFails": {"model_failures": "0+60x30"},
    "HeadwaterShortLists": {"short_lists": "0x25 3x5"},
    "HeadwaterDeadLetters": {"dead_letters_total": "0+120x30"},
    "HeadwaterDeadLettersLost": {"dead_letters_lost": "0x25 1x5"},
    "HeadwaterWrongClocks": {"wrong_times": "0+120x30"},
    "HeadwaterEventIdsUsedTwice": {"repeated_events": "0+60x30"},
    "HeadwaterDamagedRows": {"damaged_rows": "0x25 1x5"},
    "HeadwaterRolloutNotWatched": {"lease_expired": "0x10 1x20"},
    "HeadwaterNoLeader": {'instance="c1"': "1x10 0x20"},
    "HeadwaterRolledBack": {"rolled_back": "1x25 2x5"},
    "HeadwaterMessagesRefused": {"placement_messages_ignored": "0x25 2x5"},
    "HeadwaterTrainerHeldUp": {"trainer_retries": "4+6x30"},
    "HeadwaterApiErrors": {'status="503"': "0+60x30"},
    "HeadwaterApiLate": {"late_answers": "0+60x30"},
}


@pytest.fixture(scope="module")
def promtool() -> str:
    return find_program("promtool")


def test_rules_can_be_loaded(promtool: str) -> None:
    checked = subprocess.run(
        [promtool, "check", "rules", str(ALERT_RULES)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_it_fires_on_its_fault(alert: str, promtool: str, tmp_path: Path) -> None:
    fired = [{"labels": "{}", "value": 1}]
    check_firing(promtool, tmp_path, series_with(FAULTS[alert]), {alert: fired})


def test_none_fires_where_all_is_well(promtool: str, tmp_path: Path) -> None:
    check_firing(promtool, tmp_path, WELL, {alert: [] for alert in ALERTS})


@pytest.mark.parametrize("alert", ALERTS)
def test_it_says_what_to_do(alert: str) -> None:
    rule, runbooks = ALERTS[alert], RUNBOOKS.read_text()
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"docs/how-to/alerts.md#{alert.lower()}"
    assert f"\n## {alert}\n" in runbooks


def test_rules_ask_for_metrics_that_there_are() -> None:
    told = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    told += (ROOT / "docs" / "how-to" / "roll-out-a-version.md").read_text()
    asked = {
        name for rule in ALERTS.values() for name in re.findall(r"headwater_\w+", rule["expr"])
    }
    assert asked
    assert {name for name in asked if name.removesuffix("_bucket") not in told} == set()


def series_with(changed: dict[str, str]) -> dict[str, str]:
    """The series of a system that is well, but for some."""
    series = dict(WELL)
    for part, values in changed.items():
        (name,) = [name for name in series if part in name]
        series[name] = values
    return series


def check_firing(
    promtool: str, folder: Path, series: dict[str, str], expected: dict[str, list[Any]]
) -> None:
    """Whether of some alerts those fire that should, half an hour on."""
    tests = [
        {
            "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
            "eval_time": "30m",
            "exp_samples": samples,
        }
        for alert, samples in expected.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    group = {"interval": "1m", "input_series": inputs, "promql_expr_test": tests}
    file = folder / "alerts_test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERT_RULES)], "tests": [group]}))
    ran = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
