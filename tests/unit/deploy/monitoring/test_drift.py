"""A distribution that moves is an alert; one that moves as it always has is none."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from headwater_client.decoders import get_json_decoder

from deploy.monitoring.distributions import FeatureSignals, ListScores, ScoreSignals
from deploy.monitoring.drift import LEAST_BLOCKS, MAX_BINS, OTHER, DriftWatch, report_drift

SAME = {"a": 500.0, "b": 300.0, "c": 200.0}
MOVED = {"a": 200.0, "b": 300.0, "c": 500.0}


def watch_of(*blocks: dict[str, float]) -> DriftWatch:
    watch = DriftWatch()
    for block in blocks:
        watch.add("type", block)
    return watch


def test_two_blocks_in_a_row_are_an_alert_and_one_is_none() -> None:
    quiet = [SAME] * (LEAST_BLOCKS + 2)
    (once,) = watch_of(*quiet, MOVED).reports()
    assert (once.has_drifted, once.index > once.threshold) == (False, True)
    (twice,) = watch_of(*quiet, MOVED, MOVED).reports()
    assert twice.has_drifted
    (over,) = watch_of(*quiet, MOVED, SAME, SAME).reports()
    assert not over.has_drifted


def test_it_stays_an_alert_until_it_is_how_things_are() -> None:
    watch = watch_of(*[SAME] * (LEAST_BLOCKS + 2))
    alerts = []
    for _ in range(LEAST_BLOCKS + 4):
        watch.add("type", MOVED)
        alerts.append(watch.reports()[0].has_drifted)
    assert alerts[1:LEAST_BLOCKS] == [True] * (LEAST_BLOCKS - 1)
    assert not alerts[-1]


def test_what_always_swings_is_no_alert() -> None:
    (report,) = watch_of(*[SAME, MOVED] * LEAST_BLOCKS).reports()
    assert report.threshold > 0.1
    assert not report.has_drifted


def test_too_few_blocks_are_said_to_be_so() -> None:
    (report,) = watch_of(SAME, MOVED, MOVED).reports()
    assert report.missing
    assert not report.has_drifted
    assert watch_of({}, {"a": 0.0}).reports() == []


def test_many_values_are_few_bins_and_shares_are_whole() -> None:
    blocks = [{f"v{at}": float(100 - at) for at in range(90)}] * LEAST_BLOCKS
    report = report_drift("brand", blocks, [{"never seen": 10.0}])
    assert len(report.reference) == MAX_BINS + 1
    assert sum(report.reference.values()) == pytest.approx(1)
    assert report.current[OTHER] == pytest.approx(1)


def test_features_of_windows_are_followed() -> None:
    rng, signals = np.random.default_rng(3), FeatureSignals()

    def window(price: float, category: str) -> None:
        count = 1000
        signals.add(
            pa.table(
                {
                    "type": ["click"] * count,
                    "user_id": [f"p{at}" for at in rng.integers(0, 100, count)],
                    "item_id": [f"{category} {at}" for at in rng.integers(0, 9, count)],
                    "timestamp": rng.integers(0, 3_600_000, count),
                    "price": price * rng.lognormal(size=count),
                    "quantity": pa.nulls(count, pa.int32()),
                    "repeated": [False] * count,
                }
            ),
            lambda item: (item.split()[0],),
        )

    for _ in range(LEAST_BLOCKS + 2):
        window(10, "home")
    for _ in range(2):
        window(80, "toys")
    drifted = {each.name for each in signals.watch.reports() if each.has_drifted}
    assert drifted == {"price", "category"}


def test_scores_of_a_version_are_followed() -> None:
    rng, signals = np.random.default_rng(3), ScoreSignals()

    def lists(mean: float, blocks: int) -> None:
        for score in rng.normal(mean, 1, 500 * blocks).tolist():
            said = {"score": score, "reason": {"kind": "history"}}
            signals.add(make_list([said]))

    def make_list(items: list[dict[str, object]]) -> ListScores:
        return msgspec.convert({"items": items, "model_version": "3"}, ListScores)

    lists(0, LEAST_BLOCKS + 2)
    lists(2, 2)
    drifted = {each.name for each in signals.watch.reports() if each.has_drifted}
    assert drifted == {"best score, version 3"}
    assert signals.lists == 500 * (LEAST_BLOCKS + 4)


def test_versions_that_are_gone_are_followed_no_more_and_a_foreign_message_is_none() -> None:
    signals = ScoreSignals()
    for version in range(150):
        items = [{"score": 1.0, "reason": {"kind": "history"}}]
        said = msgspec.convert({"items": items, "model_version": f"{version}"}, ListScores)
        for _ in range(3 * 500 if version < 120 else 499):
            signals.add(said)
    assert len(signals._blocks) <= 101
    reports = {each.name for each in signals.watch.reports()}
    assert "best score, version 119" in reports
    assert "best score, version 1" not in reports
    for reason in (b'"x"', b"[1]", b"7"):
        with pytest.raises(msgspec.ValidationError):
            get_json_decoder(ListScores).decode(b'{"items":[{"score":1,"reason":%b}]}' % reason)
