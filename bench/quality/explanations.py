"""Do explanations name what mattered? The past event is removed, and the item scored again.

uv run python -m bench.quality.explanations

For the ten best of each question: by how much an item falls beside the mean of the other nine when
the event that explains it is removed, against another event of the same history, the newest one,
and the one whose removal makes it fall most (found by trying all). The decayed features stay as
they were: they say what a person does much of, not which event said so.

Scores are those of the exported `trainer.export.scoring_graph.ScoringGraph`, without live trends.

Q questions, K best items, L history, N items.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.harness.runner import Benchmark, DataOptions, Quick, Results, Threads, make_table
from bench.quality import questions
from bench.quality.ours import Ours, requests_before, train_ours
from deploy.settings import default_cache_dir
from features.inputs import TOP_ITEMS
from features.schema import PADDING, FeatureSchema
from features.settings import FeatureSettings
from trainer.export import ScoringGraph
from trainer.metrics import CUTOFF, bootstrap_interval
from trainer.settings import TrainerSettings
from trainer.text import load_text_encoder

LEAST_EVENTS = 5
_CHUNK = 8
_QUICK_EVENTS = 6000
_HISTORY = ("item_indices", "event_types", "event_times_ms")

Tensors = dict[str, Tensor]


class Falls(NamedTuple):
    """What each removal did to the best items.

    Attributes:
        margin: float64[Q, K, L], how much less the item stands above the mean of the other K - 1
            when the event of this column is removed.
        score: float64[Q, K, L], how much lower its own score is.
        there: bool[Q, L], columns with an event.
        named: int64[Q, K], the column that explains the item.
    """

    margin: questions.Floats
    score: questions.Floats
    there: questions.Bools
    named: questions.Ints


@torch.no_grad()
def measure_falls(recommender: ScoringGraph, tensors: Tensors) -> Falls:
    """Remove each event of each history in turn.

    Args:
        tensors: what the model reads, by name; of people with at least two events, and a catalogue
            that fills the best K.
    """
    people, length = tensors["item_indices"].shape
    answers = recommender(*tensors.values())
    best, named = answers[0][:, :CUTOFF], answers[2][:, :CUTOFF]
    before = answers[1][:, :CUTOFF]
    asked = remove_each(tensors) | {
        "candidate_items": best.repeat_interleave(length, 0),
        "excluded_items": torch.zeros((people * length, 0), dtype=torch.int64),
    }
    after = recommender(*asked.values())[3].view(people, length, CUTOFF).transpose(1, 2)
    return Falls(
        (margins_over_others(before)[:, :, None] - margins_over_others(after)).double().numpy(),
        (before[:, :, None] - after).double().numpy(),
        (tensors["item_indices"] != PADDING).numpy(),
        named.numpy(),
    )


def remove_each(tensors: Tensors) -> Tensors:
    """Every history without each of its columns in turn: Q * L of them, L - 1 long."""
    length = tensors["item_indices"].shape[1]
    kept = torch.arange(length - 1).expand(length, -1)
    # Past the removed column, each comes from one further on.
    kept = kept + (kept >= torch.arange(length)[:, None])
    return {
        name: one[:, kept].flatten(0, 1) if name in _HISTORY else one.repeat_interleave(length, 0)
        for name, one in tensors.items()
    }


def margins_over_others(scores: Tensor) -> Tensor:
    """How far each of K scores stands above the mean of the others, float[Q, K, ...]."""
    count = scores.shape[1]
    return (scores - scores.mean(1, keepdim=True)) * (count / (count - 1))


def falls_of(ours: Ours, asked: questions.Questions, chosen: questions.Ints) -> Falls:
    """The same for the chosen questions, some at a time."""
    tensors, recommender = tensors_of(ours, asked, chosen), ScoringGraph(ours.trained.model)
    lots = range(0, len(chosen), _CHUNK)
    parts = [{name: one[at : at + _CHUNK] for name, one in tensors.items()} for at in lots]
    measured = [measure_falls(recommender, part) for part in parts]
    return Falls(*(np.concatenate(columns) for columns in zip(*measured, strict=True)))


def tensors_of(ours: Ours, asked: questions.Questions, chosen: questions.Ints) -> Tensors:
    """What the exported graph reads of these questions, by name."""
    requests = requests_before(ours, asked, chosen)
    excluded = [torch.from_numpy(ours.columns[asked.excluded_items(each)]) for each in chosen]
    return {
        "item_indices": requests.items,
        "event_types": requests.types,
        "event_times_ms": requests.times_ms,
        "request_time_ms": requests.request_times_ms,
        "user_features": requests.user_features[:, 0],
        "candidate_items": torch.zeros((len(chosen), 0), dtype=torch.int64),
        "excluded_items": pad_sequence(excluded, batch_first=True, padding_value=PADDING),
    }


def compare_choices(
    found: questions.Floats, there: questions.Bools, named: questions.Ints
) -> dict[str, questions.Floats]:
    """What each way of choosing an event made of each item, float64[Q * K] each.

    Args:
        found: float64[Q, K, L], the falls.
        there, named: as in `Falls`.

    Returns:
        The fall by `explained`, `random` (the mean over the events that do not explain it),
        `newest` and `best`; `beats_random`, the share of the other events whose removal lowers the
        item less, an equal fall counting half; `is_best`, whether none lowers it more.
    """
    hidden = ~there[:, None, :]
    explained = np.take_along_axis(found, named[:, :, None], 2)
    others = np.repeat(~hidden, found.shape[1], 1)
    np.put_along_axis(others, named[:, :, None], np.zeros((1, 1, 1), np.bool_), 2)
    count = others.sum(2)
    less = ((explained > found) + (explained == found) / 2) * others
    best = np.where(hidden, -np.inf, found).max(2)
    by_name = {
        "explained": explained[:, :, 0],
        "random": (found * others).sum(2) / count,
        "newest": found[:, :, -1],
        "best": best,
        "beats_random": less.sum(2) / count,
        "is_best": (explained[:, :, 0] >= best).astype(np.float64),
    }
    return {name: values.reshape(-1) for name, values in by_name.items()}


def summary(found: Falls, people: questions.Ints) -> dict[str, Any]:
    """Means over all cases, with 95 % intervals drawn by person, of both measures.

    Args:
        people: [Q], whose each question is.
    """
    whose = np.repeat(people, found.named.shape[1])
    return {
        measure: {
            name: {"mean": float(values.mean()), "interval": bootstrap_interval(values, whose)}
            for name, values in compare_choices(falls_, found.there, found.named).items()
        }
        for measure, falls_ in (("margin", found.margin), ("score", found.score))
    }


def make_falls_table(figures: Mapping[str, Any], title: str) -> Table:
    """Falls by the event that is removed."""
    columns = ("fall beside the other nine", "95 %", "fall of the score", "95 %")
    drawn = make_table(title, "removed", columns)
    for name in figures["margin"]:
        row = [name.replace("_", " ")]
        for measure in ("margin", "score"):
            one = figures[measure][name]
            low, high = one["interval"]
            row += [f"{one['mean']:.4f}", f"{low:.4f} to {high:.4f}"]
        drawn.add_row(*row)
    return drawn


def sample_questions(
    asked: questions.Questions, least: int, most: int, seed: int
) -> questions.Ints:
    """At most so many of the questions before which the person has taken enough."""
    enough = np.flatnonzero(asked.firsts - asked.starts >= least)
    return np.sort(np.random.default_rng(seed).permutation(enough)[:most])


@dataclass(frozen=True, kw_only=True)
class ExplanationOptions(DataOptions):
    """Options of `bench.quality.explanations`."""

    sample: Annotated[int, typer.Option(help="so many questions of the test", min=1)] = 500
    threads: Threads = TrainerSettings().threads
    quick: Quick = False


def measure(options: ExplanationOptions, _: Console) -> Results:
    """What removing the explaining event does to an item."""
    log, settings = options.load_log(), TrainerSettings(threads=options.threads)
    if options.quick:
        log, settings = log.head(_QUICK_EVENTS), settings.model_copy(update={"epochs": 1})
    asked = questions.questions(
        questions.takes_of(log, questions.Protocol.GLOBAL_TIME), questions.TEST
    )
    text_encoder = load_text_encoder(settings.language_model, default_cache_dir())
    ours = train_ours(log, asked.takes, FeatureSchema(FeatureSettings()), settings, text_encoder)
    chosen = sample_questions(asked, LEAST_EVENTS, options.sample, 0)
    figures = summary(falls_of(ours, asked, chosen), asked.takes.users[asked.firsts[chosen]])
    counts = {"questions": len(chosen), "items_each": CUTOFF, "ranked": TOP_ITEMS}
    title = f"deletion test, {len(chosen)} questions"
    return Results(counts | figures, [make_falls_table(figures, title)])


BENCHMARK = Benchmark("quality.explanations", ExplanationOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
