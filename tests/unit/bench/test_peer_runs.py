"""What a peer reads and what it has answered, without its environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from headwater_client.errors import DataError, HeadwaterError

from bench.quality import peer_runs
from bench.quality.peer_runs import GRID, Budget, Interactions, Peer, PeerRun, Point, Request

TRAIN = Interactions(np.array([1, 1, 2]), np.array([7, 8, 7]), np.array([10, 20, 30]))
OUTCOME = {
    "epoch": 4,
    "epochs": 6,
    "seconds": 1.5,
    "validation_ndcg_10": 0.1,
    "validation_ndcg_10_by_epoch": {"2": 0.05, "4": 0.1, "6": 0.09},
    "weights": 1000,
    "known_items": 2,
    "versions": {"rectools": "0.19.0"},
}


def request(length: int, targets: list[int]) -> Request:
    events = np.arange(length)
    right = np.array(targets, np.int64)
    return Request(5_000, events, 1_000 + events, right, np.append(right, 9))


def test_a_request_has_its_newest_history_in_order(tmp_path: Path) -> None:
    peer_runs.write_input(tmp_path, TRAIN, [request(0, [7]), request(1050, [8, 7])], [])
    history = pq.read_table(tmp_path / "validation.parquet").to_pydict()
    assert set(history["request"]) == {1}
    assert history["position"] == list(range(1000))
    assert history["item"] == list(range(50, 1050))
    assert history["time_s"] == [1_000 + item for item in range(50, 1050)]
    asked = pq.read_table(tmp_path / "validation_requests.parquet").to_pydict()
    targets, second = [[7], [8, 7]], [[7, 9], [8, 7, 9]]
    assert asked == {
        "request": [0, 1],
        "time_s": [5_000] * 2,
        "targets": targets,
        "second": second,
    }


def test_files_without_requests_keep_their_types(tmp_path: Path) -> None:
    peer_runs.write_input(tmp_path, TRAIN, [], [])
    assert pq.read_table(tmp_path / "train.parquet").to_pydict()["user"] == [1, 1, 2]
    for name in ("test", "test_requests"):
        schema = pq.read_schema(tmp_path / f"{name}.parquet")
        assert {str(each.type) for each in schema} <= {"int64", "list<element: int64>"}


def test_answers_are_read_in_the_order_of_the_requests(tmp_path: Path) -> None:
    top = np.arange(400).reshape(2, 200)
    np.savez(tmp_path / "test.npz", request=np.arange(2), top=top)
    assert np.array_equal(peer_runs.read_top(tmp_path / "test.npz"), top)


@pytest.mark.parametrize(("requests", "items"), [([1, 0], 200), ([0, 2], 200), ([0, 1], 10)])
def test_answers_to_other_requests_are_refused(
    tmp_path: Path, requests: list[int], items: int
) -> None:
    np.savez(tmp_path / "test.npz", request=np.array(requests), top=np.zeros((2, items), int))
    with pytest.raises(DataError, match="run the peer again"):
        peer_runs.read_top(tmp_path / "test.npz")


def test_an_outcome_has_numbers_for_epochs(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(OUTCOME | {"later": "unknown"}))
    outcome = peer_runs.read_outcome(tmp_path / "run.json")
    assert outcome.validation_ndcg_10_by_epoch == {2: 0.05, 4: 0.1, 6: 0.09}
    with pytest.raises(DataError, match="cannot be read"):
        peer_runs.read_outcome(tmp_path / "none.json")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """An input; runs that end at once, the better one with width 64 and dropout .4."""
    found = []

    def follow(command: list[str], threads: int, progress: object) -> None:
        found.append(command)
        options = dict(zip(command[2::2], command[3::2], strict=True))
        best = (options["--width"], options["--dropout"]) == ("64", "0.4")
        outcome = OUTCOME | {"validation_ndcg_10": 0.2 if best else 0.1}
        (Path(options["--output"]) / "run.json").write_text(json.dumps(outcome))

    peer_runs.write_input(tmp_path, TRAIN, [request(2, [7])], [])
    monkeypatch.setattr(peer_runs, "_follow", follow)
    monkeypatch.setattr(peer_runs.PythonEnvironment, "prepare", lambda *_: tmp_path / "env")
    return found


def test_the_best_by_validation_is_kept_and_all_are_recorded(
    tmp_path: Path, commands: list[list[str]]
) -> None:
    def judge(run: PeerRun) -> float:
        return run.outcome.validation_ndcg_10

    best = peer_runs.tune(tmp_path, "sasrec", Budget(max_epochs=3, seed=5), judge)
    assert best.point == Point(64, 0.4)
    assert len(commands) == len(GRID) == 4
    assert all("--max-epochs 3" in " ".join(command) for command in commands)
    record = json.loads((tmp_path / "runs" / "sasrec-seed-5.json").read_text())
    assert record["best"] == "width-64-dropout-0.4"
    assert record["validation"][record["best"]] == 0.2
    assert {run["point"]["dropout"] for run in record["runs"]} == {0.2, 0.4}


def test_a_finished_run_of_the_same_recipe_is_taken_up(
    tmp_path: Path, commands: list[list[str]]
) -> None:
    def run(point: Point = GRID[0], budget: Budget | None = None) -> float:
        found = peer_runs.run_peer(tmp_path, Peer.SASREC, point, budget or Budget(max_epochs=3))
        return found.outcome.validation_ndcg_10

    assert run() == run() == 0.1
    # Written anew, the input is the same.
    peer_runs.write_input(tmp_path, TRAIN, [request(2, [7])], [])
    run()
    assert len(commands) == 1
    run(point=GRID[1])
    run(budget=Budget(max_epochs=4))
    assert len(commands) == 3
    run()
    assert len(commands) == 4


def test_a_run_on_other_input_by_another_program_or_unfinished_runs_again(
    tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def again() -> int:
        before = len(commands)
        peer_runs.run_peer(tmp_path, Peer.SASREC, GRID[0], Budget())
        return len(commands) - before

    assert [again(), again()] == [1, 0]
    peer_runs.write_input(tmp_path, TRAIN, [request(2, [8])], [])
    assert [again(), again()] == [1, 0]
    monkeypatch.setattr(peer_runs, "_sources_digest", lambda: "changed")
    assert [again(), again()] == [1, 0]
    (tmp_path / "runs" / f"sasrec-{GRID[0].name}-seed-0" / "run.json").unlink()
    assert again() == 1


def test_a_digest_is_of_what_files_hold_and_how_it_is_grouped(tmp_path: Path) -> None:
    def digest(folder: str, targets: list[list[int]]) -> str:
        asked = [request(2, each) for each in targets]
        peer_runs.write_input(tmp_path / folder, TRAIN, asked, [])
        return peer_runs.input_digest(tmp_path / folder)

    assert digest("a", [[7, 8], [9]]) == digest("b", [[7, 8], [9]])
    assert digest("a", [[7, 8], [9]]) != digest("a", [[7], [8, 9]])


def test_a_failed_run_says_why_and_leaves_no_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, output = tmp_path / "env" / "bin", tmp_path / "runs" / f"hstu-{Point().name}-seed-0"
    env.mkdir(parents=True)
    (env / "python").symlink_to("/bin/false")
    output.mkdir(parents=True)
    (output / "run.json").write_text(json.dumps(OUTCOME))
    peer_runs.write_input(tmp_path, TRAIN, [], [])
    monkeypatch.setattr(peer_runs.PythonEnvironment, "prepare", lambda *_: tmp_path / "env")
    with pytest.raises(HeadwaterError, match="a peer ended with 1"):
        peer_runs.run_peer(tmp_path, Peer.HSTU, Point(), Budget())
    assert not (output / "run.json").exists()


def test_lines_of_a_run_come_through_with_its_threads() -> None:
    lines: list[str] = []
    code = "import os; print('epoch 1'); print(os.environ['OMP_NUM_THREADS'])"
    peer_runs._follow([sys.executable, "-c", code], 3, lines.append)
    assert lines == ["epoch 1", "3"]
