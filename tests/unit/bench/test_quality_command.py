"""The whole benchmark without peers, on small logs in the layouts that others have."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench.quality import __main__ as quality
from bench.quality.figures import OURS
from bench.quality.peer_runs import TOP, Budget, Peer, PeerOutcome, PeerRun, Point
from bench.quality.questions import Protocol, Ties
from tests.unit.bench.test_peer_runs import OUTCOME

START_S = 1_000_000_000
PEOPLE, TAKES, ITEMS = 12, 15, 20
GROUPS = {"return_visits", "first_requests", "new_people", "new_items", "rare_items"}


def events(repeats: bool) -> list[tuple[int, int, int]]:
    """(person, item, second); people come on each their day, every third take ties."""
    random = np.random.default_rng(0)
    found = []
    for person in range(PEOPLE):
        items = random.choice(8, TAKES) if repeats else random.permutation(ITEMS)[:TAKES]
        for at, item in enumerate(items):
            found.append(
                (person, int(item), START_S + 86_400 * person + 4000 * (at - (at % 3 == 1)))
            )
    return found


def movielens_1m(folder: Path) -> Path:
    rows = [f"{person}::{item}::{1 + item % 5}::{second}" for person, item, second in events(False)]
    (folder / "ratings.dat").write_text("\n".join(rows))
    films = [f"{item}::Film {item} (19{item + 70})::Comedy|Drama" for item in range(ITEMS)]
    (folder / "movies.dat").write_text("\n".join(films), "latin-1")
    return folder


def shop(folder: Path) -> Path:
    with (folder / "orders.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["customer", "sku", "at"])
        table.writerows(events(True))
    (folder / "mapping.toml").write_text(
        'user = "customer"\nitem = "sku"\ntime = "at"\nconstant_type = "purchase"\n'
    )
    return folder


@pytest.fixture(autouse=True)
def _without_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "load_text_encoder", lambda *_: None)


def figures_of(tmp_path: Path, data: Path, **options: Any) -> dict[str, Any]:
    report = tmp_path / "report.json"
    quality.BENCHMARK.run(
        quality.QualityOptions(
            data=data, report=report, peers=False, seeds=1, threads=1, quick=True, **options
        )
    )
    found: dict[str, Any] = json.loads(report.read_text())["figures"]
    return found


def test_movielens_1m_runs_with_a_chart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chart = tmp_path / "chart.svg"
    found = figures_of(tmp_path, movielens_1m(tmp_path), ties=Ties.FILE, chart=chart)
    assert set(found["rows"]) == set(found["ratio_to_best_peer"]) == set(Protocol)
    for rows in found["rows"].values():
        assert set(rows) >= {"popularity", "EASE", OURS, f"{OURS} without text"}
        assert all(0 < row["coverage"] <= 1 for row in rows.values())
        part = rows[f"{OURS} without text"]
        assert set(part["groups"]) == GROUPS
        assert len(part["difference_interval"]) == 2
        assert "difference" not in rows[OURS]
    assert found["ties"].startswith("ties file")
    assert chart.exists()
    out = capsys.readouterr()
    # Every table says its rules; progress goes elsewhere.
    assert out.out.count("ties file") == 2
    assert "seed 1" in out.err
    assert "seed 1" not in out.out


def test_a_shop_where_people_buy_again(tmp_path: Path) -> None:
    found = figures_of(tmp_path, shop(tmp_path), repeats=True, protocol=[Protocol.LEAVE_ONE_OUT])
    (rows,) = found["rows"].values()
    assert "own items" in rows
    assert found["ties"].endswith("items return")
    # All 8 items are open to everyone, and 10 are shown.
    assert rows["popularity"]["coverage"] == 1
    assert rows[OURS]["hr_at_10"] == 1


def test_peers_are_told_whether_items_return_and_judged_by_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each rule has a folder of its own; a run is worth what its answers are worth."""
    seen = []

    def tune(folder: Path, peer: Peer, budget: Budget, judge: Any, progress: Any) -> PeerRun:
        outcome = msgspec.convert(OUTCOME, PeerOutcome, strict=False)
        run = PeerRun(peer, Point(), budget, outcome, str(folder))
        top = np.tile(np.arange(TOP), (PEOPLE, 1))
        top[top >= 8] = -1
        for split in ("validation", "test"):
            np.savez(folder / f"{split}.npz", request=np.arange(PEOPLE), top=top)
        seen.append((folder.name, budget.repeats, judge(run)))
        return run

    monkeypatch.setattr(quality, "tune", tune)
    report = tmp_path / "report.json"
    options = quality.QualityOptions(
        data=shop(tmp_path),
        report=report,
        repeats=True,
        protocol=[Protocol.LEAVE_ONE_OUT],
        peer=[Peer.SASREC],
        ablations=False,
        seeds=1,
        threads=1,
        quick=True,
        work=tmp_path / "work",
    )
    quality.BENCHMARK.run(options)
    ((name, repeats, worth),) = seen
    assert (name, repeats) == ("leave_one_out-repeats", True)
    assert 0.3 < worth < 1
    rows = json.loads(report.read_text())["figures"]["rows"]["leave_one_out"]
    assert rows["SASRec (RecTools)"]["hr_at_10"] == 1
