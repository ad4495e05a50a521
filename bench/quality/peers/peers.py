# ruff: noqa: INP001 (run by itself in another environment, by its path)
"""SASRec, BERT4Rec and HSTU as RecTools has them: trained, chosen by validation, asked.

Runs in an environment of its own (the `pyproject.toml` beside it) and imports nothing of ours;
`bench.quality.peer_runs` makes the environment, writes the input and reads the output.

Input, Parquet files in one folder; ids are integers, times seconds:

    train.parquet                 user, item, time_s: one row an interaction to learn from
    S.parquet                     request, position, item, time_s: what came before each request
    S_requests.parquet            request, time_s, targets and second (lists of items): what is
                                  true, and what else is no wrong answer, targets included

for S in `validation` and `test`. Output, in another:

    validation.npz, test.npz      request: int64[R], top: int64[R, 200], -1 where there are fewer
    run.json                      parameters, epochs, seconds, validation by epoch, versions

Weights are frozen after training: RecTools recommends to users that it was not trained on, so a
request is a user of its own whose interactions are its history. HSTU is told the request's time.
"""

# R requests, T targets of all of them, K = 200 items of an answer

import argparse
import copy
import json
import logging
import platform
import time
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]
import torch
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, HSTUModel, SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule

Ints = npt.NDArray[np.int64]

MODELS = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel, "hstu": HSTUModel}
SEQUENCE_LENGTH = 100
TOP = 200
CUTOFF = 10
# What early stopping looks at: the same requests in every run.
SAMPLE = 1500
SAMPLE_SEED = 0
# Requests asked at once: bounds memory, 200 rows of history each.
CHUNK = 2000
# A quarter of RecTools' batch and three times its learning rate: as good or better on validation,
# in a fraction of the epochs (bench/README.md).
BATCH = 32
LEARNING_RATE = 0.003
# HSTU compares by cosine; at 1, the default of RecTools, the softmax over cosines is nearly flat.
# The configurations for MovieLens that come with the code of J. Zhai et al. ("Actions Speak Louder
# than Words", ICML 2024) have 0.05.
HSTU_TEMPERATURE = 0.05
VERSIONS = ("rectools", "torch", "pytorch-lightning", "numpy", "pandas")


@dataclass(frozen=True)
class PeerRequests:
    """Questions, and what is true.

    `requests` has a row a request (request, time_s, targets, second), `history` one an earlier
    event (request, position, item, time_s), both ordered.
    """

    requests: pd.DataFrame
    history: pd.DataFrame

    @property
    def ids(self) -> Ints:
        """int64[R]."""
        return np.asarray(self.requests["request"], np.int64)

    def only(self, ids: Ints) -> "PeerRequests":
        """The requests of these ids."""
        return PeerRequests(
            self.requests[self.requests["request"].isin(ids)],
            self.history[self.history["request"].isin(ids)],
        )

    def sample(self, size: int) -> "PeerRequests":
        """At most `size` of them, the same ones each time."""
        if len(self.ids) <= size:
            return self
        random = np.random.default_rng(SAMPLE_SEED)
        return self.only(random.choice(self.ids, size, replace=False))


@dataclass
class Progress:
    """What training has shown: the best epoch, its weights, NDCG@10 by epoch."""

    best: float = -1.0
    epoch: int = 0
    last: int = 0
    weights: dict[str, Any] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)


def read_requests(folder: Path, split: str) -> PeerRequests:
    """The requests of a split, with their histories."""
    requests = pd.read_parquet(folder / f"{split}_requests.parquet").sort_values("request")
    history = pd.read_parquet(folder / f"{split}.parquet")
    return PeerRequests(requests, history.sort_values(["request", "position"]))


def interactions(users: Any, items: Any, times_s: Any) -> pd.DataFrame:
    """A table as RecTools takes it; rows of one user and second keep their order."""
    columns = {Columns.User: users, Columns.Item: items, Columns.Weight: 1.0}
    return pd.DataFrame(columns | {Columns.Datetime: nanoseconds(times_s)})


def nanoseconds(times_s: Any) -> Any:
    """Seconds to the only type of time that RecTools takes."""
    return pd.to_datetime(np.asarray(times_s, np.int64), unit="s").astype("datetime64[ns]")


def windows(train: pd.DataFrame, context: int) -> pd.DataFrame:
    """Each user's events in windows of the model's length, counted back from the newest.

    RecTools learns from the newest window of a user and forgets the rest, items included; so each
    window is a user of its own. With `context` 1 a window also has the event before it, from
    which its first event is predicted; each event is then a target once.
    """
    train = train.sort_values(["user", "time_s"], kind="stable")
    age = train.groupby("user").cumcount(ascending=False)
    parts = [train.assign(window=age // SEQUENCE_LENGTH)]
    if context:
        edge = (age > 0) & (age % SEQUENCE_LENGTH == 0)
        parts.insert(0, train[edge].assign(window=age[edge] // SEQUENCE_LENGTH - 1))
    every = pd.concat(parts)
    every["user"] = every.groupby(["user", "window"]).ngroup()
    return every


def train_dataset(folder: Path, model: str, which: str) -> Dataset:
    """What a model learns from: all windows of each user, or only the last."""
    train = pd.read_parquet(folder / "train.parquet")
    if which == "all":
        # A masked item is predicted from both sides: no event before the window is needed.
        train = windows(train, context=0 if model == "bert4rec" else 1)
    return Dataset.construct(interactions(train["user"], train["item"], train["time_s"]))


class LossWhereAsked(TransformerLightningModule):  # type: ignore[misc]
    """RecTools' softmax loss, with scores made only where something is to be guessed.

    The value is the same. RecTools scores all items at every position, padding too, and of
    BERT4Rec's positions 15 % are asked for: much time for what is thrown away.
    """

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The mean over the positions that have a target."""
        del batch_idx
        asked, network = batch["y"] > 0, self.torch_model
        items = network.item_model.get_all_embeddings()
        states = network.encode_sessions(batch, items)[asked]
        scores = network.similarity_module(states, items) / self.logits_t
        return torch.nn.functional.cross_entropy(scores, batch["y"][asked])


def one_epoch_trainer() -> Trainer:
    """Lightning without its files and bars."""
    return Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        devices=1,
    )


def build(model: str, width: int, dropout: float, temperature: float) -> Any:
    """An untrained model; what is not said here is RecTools' default."""
    more: dict[str, Any] = {}
    if model == "hstu":
        more = {"relative_time_attention": True}
        more["lightning_module_kwargs"] = {"logits_t": temperature}
    return MODELS[model](
        n_factors=width,
        dropout_rate=dropout,
        session_max_len=SEQUENCE_LENGTH,
        batch_size=BATCH,
        lr=LEARNING_RATE,
        loss="softmax",
        lightning_module_type=LossWhereAsked,
        get_trainer_func=one_epoch_trainer,
        **more,
    )


def answers(model: Any, requests: PeerRequests, *, repeats: bool) -> Ints:
    """The best items for each request, int64[R, K], without those of its history unless `repeats`.

    A request of whose history the model knows nothing gets none: -1.
    """
    known = set(model.data_preparator.get_known_item_ids())
    ids = requests.ids
    top = np.full((len(ids), TOP), -1, np.int64)
    for start in range(0, len(ids), CHUNK):
        chunk = requests.only(ids[start : start + CHUNK])
        found = recommend_lists(model, chunk, known, repeats=repeats)
        rows = np.searchsorted(ids, found[Columns.User].to_numpy(np.int64))
        top[rows, found[Columns.Rank].to_numpy(np.int64) - 1] = found[Columns.Item].astype(np.int64)
    return top


def recommend_lists(
    model: Any, requests: PeerRequests, known: set[int], *, repeats: bool
) -> pd.DataFrame:
    """What RecTools recommends to those it can: user_id (the request), item_id, rank."""
    history = requests.history
    askable = history.loc[history["item"].isin(known), "request"].unique()
    if not len(askable):
        return pd.DataFrame({name: [] for name in (Columns.User, Columns.Item, Columns.Rank)})
    table = interactions(history["request"], history["item"], history["time_s"])
    return model.recommend(
        users=askable,
        dataset=Dataset.construct(table),
        k=min(TOP, len(known)),
        filter_viewed=not repeats,
        context=context(requests, askable) if model.require_recommend_context else None,
    )


def context(requests: PeerRequests, ids: Ints) -> pd.DataFrame:
    """When each request is made, as RecTools takes it."""
    of = requests.requests[requests.requests["request"].isin(ids)]
    columns = {Columns.User: of["request"].to_numpy(), Columns.Weight: 1.0}
    return pd.DataFrame(columns | {Columns.Datetime: nanoseconds(of["time_s"])})


def ndcg(top: Ints, targets: list[Ints], seconds: list[Ints]) -> float:
    """NDCG@10 over all targets, each ranked without what is no wrong answer to its request.

    >>> top = np.array([[7, 5, 8, 9], [-1, -1, -1, -1]])
    >>> targets = [np.array([8, 5]), np.array([7])]
    >>> round(ndcg(top, targets, targets), 4)  # ranks 1, 1 and none
    0.4206
    >>> round(ndcg(top, targets, [np.array([8, 5, 7]), np.array([7])]), 4)  # ranks 0, 0 and none
    0.6667
    """
    rows = np.repeat(np.arange(len(targets)), [len(each) for each in targets])
    if not len(rows):
        return 0.0
    found = top[rows] == np.concatenate(targets)[:, None]
    wrong = np.stack([~np.isin(*pair) for pair in zip(top, seconds, strict=True)])
    ranks = np.cumsum(wrong, axis=1)[rows]
    gains = np.where(found & (ranks < CUTOFF), 1 / np.log2(ranks + 2), 0)
    return float(gains.sum() / len(rows))


def train(
    model: Any, dataset: Dataset, sample: PeerRequests, options: argparse.Namespace
) -> Progress:
    """Train until validation has not become better for `patience` epochs; keep the best weights."""
    state, start = Progress(), time.monotonic()
    right = [list(sample.requests[name]) for name in ("targets", "second")]
    while state.last < options.max_epochs and state.last - state.epoch < options.patience:
        step = min(options.every, options.max_epochs - state.last)
        model.fit_partial(dataset, min_epochs=step, max_epochs=step)
        state.last += step
        score = ndcg(answers(model, sample, repeats=options.repeats), *right)
        state.scores[state.last] = score
        if score > state.best:
            state.best, state.epoch = score, state.last
            state.weights = copy.deepcopy(model.lightning_model.torch_model.state_dict())
        spent = time.monotonic() - start
        print(f"epoch {state.last}: validation NDCG@10 {score:.4f}, {spent:.0f} s", flush=True)
    model.lightning_model.torch_model.load_state_dict(state.weights)
    return state


def run(options: argparse.Namespace) -> None:
    """Train, answer both splits, and write what came out; `run.json` is written last."""
    start = time.monotonic()
    model = build(options.model, options.width, options.dropout, options.temperature)
    dataset = train_dataset(options.input, options.model, options.windows)
    validation = read_requests(options.input, "validation")
    state = train(model, dataset, validation.sample(SAMPLE), options)
    trained = time.monotonic()
    for split in ("validation", "test"):
        requests = read_requests(options.input, split)
        top = answers(model, requests, repeats=options.repeats)
        np.savez_compressed(options.output / f"{split}.npz", request=requests.ids, top=top)
    report = summary(options, state, model) | {
        "training_seconds": trained - start,
        "seconds": time.monotonic() - start,
    }
    (options.output / "run.json").write_text(json.dumps(report, indent=2) + "\n")


def summary(options: argparse.Namespace, state: Progress, model: Any) -> dict[str, Any]:
    """What `run.json` says, the seconds left out."""
    asked = {name: each for name, each in vars(options).items() if name not in ("input", "output")}
    torch_model = model.lightning_model.torch_model
    return {
        "parameters": asked
        | {
            "sequence_length": SEQUENCE_LENGTH,
            "batch": BATCH,
            "learning_rate": LEARNING_RATE,
            "sample": SAMPLE,
        },
        "epoch": state.epoch,
        "epochs": state.last,
        "validation_ndcg_10": state.best,
        "validation_ndcg_10_by_epoch": state.scores,
        "weights": sum(each.numel() for each in torch_model.parameters()),
        "known_items": len(model.data_preparator.get_known_item_ids()),
        "versions": {"python": platform.python_version()} | {n: version(n) for n in VERSIONS},
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--max-epochs", type=int, default=200)
    parser.add_argument("--patience", type=int, default=10, help="epochs without a better one")
    parser.add_argument("--every", type=int, default=2, help="epochs between two validations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--windows", choices=["all", "last"], default="all")
    parser.add_argument("--repeats", action="store_true", help="items of the history may return")
    parser.add_argument("--temperature", type=float, default=HSTU_TEMPERATURE, help="HSTU's")
    return parser.parse_args()


def main() -> None:
    """Run once, quietly."""
    options = arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    # RecTools and Lightning speak at every epoch, of what was decided here.
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    seed_everything(options.seed, verbose=False)
    run(options)


if __name__ == "__main__":
    main()
