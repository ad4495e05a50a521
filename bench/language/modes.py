"""One way to read the items, measured in a process of its own: memory, time, quality.

N items, D width of the language model, K factors of the knowledge graph.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import torch
from headwater_client.errors import SettingsError

from bench.language.knowledge_graph import graph_factors, matched_links, wheel_links
from bench.language.neighbours import neighbour_figures, normalised, without
from bench.quality.answers import answers_by_score
from bench.quality.figures import Row, figures
from bench.quality.ours import learned_log, scores, train_ours
from bench.quality.questions import (
    VALIDATION,
    Floats,
    Protocol,
    Questions,
    Takes,
    questions,
    takes_of,
)
from deploy.settings import default_cache_dir
from features.inputs import FloatArray
from features.rows import Layout
from features.settings import FeatureSettings
from trainer.datasets.log import DataSource, Log, load_log
from trainer.datasets.movielens import movielens_100k
from trainer.settings import TrainerSettings, Tuning
from trainer.text.encoder import LanguageModel, item_texts, language_model
from trainer.text.pairs import pairs_of
from trainer.text.tuning import Tuned, tune_language_model

NEW_ITEMS = 0.1
_SEED = 0
_SAMPLE_S = 0.02
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Asked:
    """What one process is asked to measure.

    Attributes:
        data: a log; MovieLens-100K if none.
        names: `movies.csv` or `movies.dat`, to put the knowledge graph's links right.
        recommender: train the recommender as well.
    """

    settings: TrainerSettings
    data: Path | None = None
    names: Path | None = None
    recommender: bool = False
    quick: bool = False


@dataclass(frozen=True)
class Split:
    """A log whose new items have no event to learn from, and what validation asks of it."""

    log: Log
    takes: Takes
    asked: Questions
    texts: list[str]


def split(asked: Asked) -> Split:
    """A tenth of the items is new: drawn at random, beside those that are new in truth."""
    log = load_log(DataSource(default_cache_dir(), asked.data))
    log = log.head(8_000) if asked.quick else log
    takes = takes_of(log, Protocol.GLOBAL_TIME)
    new = np.random.default_rng(_SEED).random(len(takes.item_ids)) < NEW_ITEMS
    takes = without(takes, new)
    known = item_texts(log.items)
    texts = [known.get(item_id, "") for item_id in takes.item_ids]
    return Split(log, takes, questions(takes, VALIDATION), texts)


def measure_tuning(asked: Asked) -> Row:
    """What tuning costs in this process, and what the tuned vectors are worth."""
    torch.set_num_threads(asked.settings.threads)
    parts, reader = split(asked), _reader(asked.settings)
    # What a process pays once, whatever it then does.
    reader.read(parts.texts[:1])
    started = time.process_time()
    with _peak_memory() as peak:
        tuned = _tuned(parts, reader, asked.settings)
    cpu_seconds = time.process_time() - started
    vectors = tuned.reader.vectors(parts.texts).astype(np.float64)
    return {
        "trainable": tuned.trainable,
        "memory_mib": (peak[1] - peak[0]) / MEBIBYTE,
        "seconds": tuned.seconds,
        "cpu_seconds": cpu_seconds,
        "step": tuned.step,
        "misplaced": list(tuned.held_out),
        "neighbours": neighbour_figures(vectors, parts.asked),
    } | _recommended(parts, tuned.reader, asked)


def measure_graph(asked: Asked) -> dict[str, Row]:
    """The knowledge graph by itself and beside the text, with its links as they are and matched."""
    torch.set_num_threads(asked.settings.threads)
    parts, reader = split(asked), _reader(asked.settings)
    text = normalised(reader.vectors(parts.texts).astype(np.float64))
    folder = movielens_100k(default_cache_dir())
    links = {"links as they come": wheel_links(folder)}
    if asked.names:
        links["links matched"] = matched_links(folder, parts.log.items, asked.names)
    rows: dict[str, Row] = {}
    for name, each in links.items():
        graph = normalised(graph_factors(folder, parts.takes.item_ids, each))
        both = np.hstack([text, graph])
        told = cast("LanguageModel", WithGraph(parts.texts, both))
        rows[f"graph, {name}"] = {"neighbours": neighbour_figures(graph, parts.asked)}
        rows[f"text and graph, {name}"] = {
            "neighbours": neighbour_figures(both, parts.asked)
        } | _recommended(parts, told, asked)
    return rows


class WithGraph:
    """Reads a text as what is known of its item, graph included: float32[n, D + K]."""

    def __init__(self, texts: Sequence[str], vectors: Floats) -> None:
        self._rows = dict(zip(texts, vectors.astype(np.float32), strict=True))
        self.width = vectors.shape[1]

    def vectors(self, texts: Sequence[str]) -> FloatArray:
        """0 for a text that is not of these items."""
        nothing = np.zeros(self.width, np.float32)
        return np.stack([self._rows.get(text, nothing) for text in texts])


def _reader(settings: TrainerSettings) -> LanguageModel:
    reader = language_model(settings.language_model, default_cache_dir())
    if reader is None:
        raise SettingsError("trainer.language_model is empty: there is nothing to tune")
    return reader


def _tuned(parts: Split, reader: LanguageModel, settings: TrainerSettings) -> Tuned:
    learned = learned_log(parts.log, parts.takes)
    numbers = {item_id: at for at, item_id in enumerate(parts.takes.item_ids) if parts.texts[at]}
    pairs = pairs_of(learned.events, numbers)
    return tune_language_model(reader, parts.texts, pairs, settings)


def _recommended(parts: Split, reader: LanguageModel, asked: Asked) -> dict[str, Any]:
    """The recommender's figures with items read so; nothing where it is not asked for."""
    if not asked.recommender:
        return {}
    # The reader is tuned already.
    settings = asked.settings.model_copy(update={"language_tuning": Tuning.FROZEN})
    layout = Layout(FeatureSettings())
    ours = train_ours(parts.log, parts.takes, Protocol.GLOBAL_TIME, layout, settings, reader)
    answers = answers_by_score(parts.asked, scores(ours, parts.asked))
    return {"recommender": figures(parts.asked, answers)}


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Resident bytes of this process: at the start, and the most since then."""
    process, over = psutil.Process(), threading.Event()
    found = [process.memory_info().rss] * 2

    def watch() -> None:
        while not over.wait(_SAMPLE_S):
            found[1] = max(found[1], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
