"""Runs the peers of the quality benchmark, each tuned over the same stated grid.

`bench/quality/peers/peers.py` trains and asks them in an environment of its own; here is what is
around it: the Parquet files it reads, the environment, the process, what it has answered.

    write_input(folder, train, validation, test)
    best = tune(folder, "sasrec", Budget(), judge)
    best.top("test")    # int64[R, 200]: the best items of each request, in its order
"""

# N interactions, R requests, H earlier events and T true items of one request, K = 200

import hashlib
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from headwater_client.errors import DataError, HeadwaterError

from deploy.local.python_env import PythonEnvironment, clean_variables
from deploy.settings import default_cache_dir

Ints = npt.NDArray[np.int64]
Say = Callable[[str], None]

WIDTHS = (64, 128)
DROPOUTS = (0.2, 0.4)
# A request's history is cut to its newest events. The models look at 100, the rest is what may not
# be recommended again: cut to 200, one MovieLens-100K request in five would be answered with films
# that the person has had, in training's own validation too.
HISTORY = 1000
TOP = 200
INPUTS = ("train", "validation", "validation_requests", "test", "test_requests")
# Without it glibc gives large tensors back to the system after each use: a fifth of the time.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
# Lines of a failed run that are shown.
_LAST_LINES = 5


class Peer(StrEnum):
    """The models there are."""

    SASREC = "sasrec"
    BERT4REC = "bert4rec"
    HSTU = "hstu"

    @property
    def label(self) -> str:
        """As its authors write it."""
        return {Peer.SASREC: "SASRec", Peer.BERT4REC: "BERT4Rec", Peer.HSTU: "HSTU"}[self]


@dataclass(frozen=True)
class Interactions:
    """What is learned from: `users`, `items`, `times_s` are int64[N].

    Events of one user and second are learned from in this order.
    """

    users: Ints
    items: Ints
    times_s: Ints


@dataclass(frozen=True)
class Request:
    """One question: what comes at `time_s`, after `items` (int64[H], oldest first)?

    `times_s` are the times of `items`, int64[H]; `targets` (int64[T]) is what is true; `second` are
    the items that are no wrong answers, targets included.
    """

    time_s: int
    items: Ints
    times_s: Ints
    targets: Ints
    second: Ints


class Point(msgspec.Struct, frozen=True):
    """One choice of parameters."""

    width: int = 128
    dropout: float = 0.2

    @property
    def name(self) -> str:
        """`width-128-dropout-0.2`."""
        return f"width-{self.width}-dropout-{self.dropout:g}"


GRID = tuple(Point(width, dropout) for width, dropout in product(WIDTHS, DROPOUTS))


class Budget(msgspec.Struct, frozen=True):
    """How long a run may train, and with what.

    Args:
        max_epochs: at most.
        patience: epochs without a better validation after which it ends.
        every: epochs between two validations.
        seed: of weights, order and dropout.
        threads: of torch.
        repeats: whether an item of the history may be recommended again.
    """

    max_epochs: int = 200
    patience: int = 10
    every: int = 2
    seed: int = 0
    threads: int = 1
    repeats: bool = False


class Recipe(msgspec.Struct, frozen=True):
    """All that decides what a run comes to; the same recipe need not be run twice.

    `sources` is a digest of `peers.py` and its lock, `input` of what the Parquet files hold.
    """

    model: Peer
    point: Point
    budget: Budget
    sources: str
    input: str


class PeerOutcome(msgspec.Struct, frozen=True):
    """What a run says of itself in `run.json`."""

    epoch: int
    epochs: int
    seconds: float
    validation_ndcg_10: float
    validation_ndcg_10_by_epoch: dict[int, float]
    weights: int
    known_items: int
    versions: dict[str, str]


class PeerRun(msgspec.Struct, frozen=True):
    """A finished run: its parameters, its outcome, and where its answers are."""

    model: Peer
    point: Point
    budget: Budget
    outcome: PeerOutcome
    folder: str

    def top(self, split: str) -> Ints:
        """Its answers to `validation` or `test`: int64[R, K], best first, -1 where it has fewer."""
        return read_top(Path(self.folder) / f"{split}.npz")


Judge = Callable[[PeerRun], float]


class Tuning(msgspec.Struct, frozen=True):
    """All runs of a grid with what each is worth on validation; `best` is the name of a point."""

    model: Peer
    best: str
    validation: dict[str, float]
    runs: list[PeerRun]


def write_input(
    folder: Path, train: Interactions, validation: Sequence[Request], test: Sequence[Request]
) -> None:
    """Write what a run reads. A request is known by its place in its sequence."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"user": train.users, "item": train.items, "time_s": train.times_s}
    pq.write_table(pa.table(columns), folder / "train.parquet")
    for split, requests in (("validation", validation), ("test", test)):
        pq.write_table(_history_table(requests), folder / f"{split}.parquet")
        pq.write_table(_request_table(requests), folder / f"{split}_requests.parquet")


def _request_table(requests: Sequence[Request]) -> pa.Table:
    return pa.table(
        {
            "request": pa.array(range(len(requests)), pa.int64()),
            "time_s": pa.array([each.time_s for each in requests], pa.int64()),
            "targets": pa.array([each.targets for each in requests], pa.list_(pa.int64())),
            "second": pa.array([each.second for each in requests], pa.list_(pa.int64())),
        }
    )


def _history_table(requests: Sequence[Request]) -> pa.Table:
    items = [each.items[-HISTORY:] for each in requests]
    lengths = [len(each) for each in items]
    return pa.table(
        {
            "request": np.repeat(np.arange(len(requests)), lengths),
            "position": _concatenate([np.arange(length) for length in lengths]),
            "item": _concatenate(items),
            "time_s": _concatenate([each.times_s[-HISTORY:] for each in requests]),
        }
    )


def _concatenate(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([np.empty(0, np.int64), *parts])


def read_top(path: Path) -> Ints:
    """The answers of a run to one split, int64[R, K], in the order of the requests.

    Raises:
        DataError: the file is missing, or does not answer requests 0 to R - 1.
    """
    try:
        with np.load(path) as found:
            requests, top = found["request"], found["top"]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}: run the peer again") from error
    if top.shape != (len(requests), TOP) or not np.array_equal(requests, np.arange(len(requests))):
        raise DataError(f"{path}: not one answer of {TOP} items a request: run the peer again")
    return np.asarray(top, np.int64)


def tune(
    folder: Path, model: Peer | str, budget: Budget, judge: Judge, progress: Say = print
) -> PeerRun:
    """Run the whole grid and return the best run.

    All runs are recorded in `FOLDER/runs/MODEL-SEED.json`.

    Args:
        judge: what a run is worth, by its answers to validation. Its own figure, by which training
            stops, is of a sample.
    """
    runs = [run_peer(folder, Peer(model), point, budget, progress) for point in GRID]
    worth = {each.point.name: judge(each) for each in runs}
    best = max(runs, key=lambda each: worth[each.point.name])
    record = folder / "runs" / f"{model}-seed-{budget.seed}.json"
    tuning = Tuning(Peer(model), best.point.name, worth, runs)
    record.write_bytes(msgspec.json.format(msgspec.json.encode(tuning)))
    return best


def run_peer(
    folder: Path, model: Peer, point: Point, budget: Budget, progress: Say = print
) -> PeerRun:
    """Train one peer with one choice of parameters, on the input in `folder`, and ask it.

    `progress` gets a line at a time. A finished run of the same recipe is taken up instead.

    Raises:
        ServerError: the environment cannot be made.
        HeadwaterError: the run fails.
    """
    output = folder / "runs" / f"{model}-{point.name}-seed-{budget.seed}"
    recipe = Recipe(model, point, budget, _sources_digest(), input_digest(folder))

    def say(line: str) -> None:
        progress(f"{model} {point.name}: {line}")

    if is_finished(output, recipe):
        say("taken up")
    else:
        _start_over(output, recipe)
        _follow(_command(folder, output, recipe, progress), budget.threads, say)
    return PeerRun(model, point, budget, read_outcome(output / "run.json"), str(output))


def is_finished(output: Path, recipe: Recipe) -> bool:
    """Whether a run of this very recipe has come to its end here."""
    written = output / "recipe.json"
    if not ((output / "run.json").exists() and written.exists()):
        return False
    return written.read_bytes() == msgspec.json.encode(recipe)


def _start_over(output: Path, recipe: Recipe) -> None:
    output.mkdir(parents=True, exist_ok=True)
    # Written last by a run: a former one's would stand for one that fails.
    (output / "run.json").unlink(missing_ok=True)
    (output / "recipe.json").write_bytes(msgspec.json.encode(recipe))


def _command(folder: Path, output: Path, recipe: Recipe, progress: Say) -> list[str]:
    """What runs it. The environment is made at first use."""
    root = _environment().prepare(default_cache_dir(), lambda text: progress(f"peers: {text}"))
    command = [str(root / "bin" / "python"), str(_sources() / "peers.py")]
    command += ["--input", str(folder), "--output", str(output), "--model", recipe.model.value]
    return command + _options(recipe.point, recipe.budget)


def input_digest(folder: Path) -> str:
    """What the Parquet files hold, whoever wrote them, wherever they lie."""
    digest = hashlib.sha256()
    for name in INPUTS:
        table = pq.read_table(folder / f"{name}.parquet")
        for column in table.column_names:
            digest.update(f"{name}.{column} {len(table)}\n".encode())
            for part in _integers(table[column].combine_chunks()):
                digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()


def _integers(column: pa.Array) -> list[Ints]:
    """A column's numbers; of a column of lists, the lengths too."""
    if pa.types.is_list(column.type):
        lengths = np.asarray(column.value_lengths(), np.int64)
        return [lengths, np.asarray(column.flatten(), np.int64)]
    return [np.asarray(column, np.int64)]


def _sources_digest() -> str:
    files = [_sources() / name for name in ("peers.py", "uv.lock")]
    return hashlib.sha256(b"".join(each.read_bytes() for each in files)).hexdigest()


def read_outcome(path: Path) -> PeerOutcome:
    """What a run has written of itself. DataError if it has not."""
    try:
        # JSON's keys are strings; the epochs are numbers.
        return msgspec.json.decode(path.read_bytes(), type=PeerOutcome, strict=False)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}: run the peer again") from error


def _sources() -> Path:
    return Path(str(resources.files("bench") / "quality" / "peers"))


def _environment() -> PythonEnvironment:
    return PythonEnvironment(
        "peers-env", _sources(), "the peers'", "3 GB", "or run the benchmark without peers"
    )


def _options(point: Point, budget: Budget) -> list[str]:
    numbers = msgspec.to_builtins(point) | msgspec.to_builtins(budget)
    flags = ["--repeats"] if numbers.pop("repeats") else []
    named = {f"--{name.replace('_', '-')}": str(value) for name, value in numbers.items()}
    return [word for pair in named.items() for word in pair] + flags


def _follow(command: Sequence[str], threads: int, progress: Say) -> None:
    """Run to the end, each line as it comes."""
    limits = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(
        command,
        env=clean_variables() | limits | _KEEP_MEMORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in map(str.rstrip, process.stdout):
            last.append(line)
            progress(line)
    if process.returncode:
        said = " | ".join(last)
        raise HeadwaterError(f"a peer ended with {process.returncode}: {said}: see its lines above")
