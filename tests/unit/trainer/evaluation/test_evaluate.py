"""Each later event is judged by its own rank, in the groups that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from headwater_client.events import Click
from torch import Tensor

from features.schema import FIRST_ITEM, FeatureSchema, Vocabulary
from features.settings import HOUR_MS
from trainer.datasets import Log
from trainer.evaluation import evaluate
from trainer.evaluation.evaluate import select_targets
from trainer.examples.batches import Batch
from trainer.metrics import bootstrap_interval, ranking_metrics
from trainer.network import LOWEST, TemporalModel, TrainedModel, TrainingOutcome
from trainer.settings import TrainerSettings

SETTINGS = TrainerSettings(threads=1)
START_MS = 1_700_000_000_000
SPLIT_MS = START_MS + 100 * HOUR_MS


@pytest.fixture
def trained(model: TemporalModel, vocabulary: Vocabulary) -> TrainedModel:
    return TrainedModel(model, vocabulary, TrainingOutcome(epoch=0, held_out=0.0, seconds=0.0))


def log_of(*events: tuple[str, str, float]) -> Log:
    """Clicks of (person, item, hours after the start)."""
    clicks = [
        Click(
            event_id=f"e{at}", user_id=user, item_id=item, timestamp=START_MS + int(hours * HOUR_MS)
        )
        for at, (user, item, hours) in enumerate(sorted(events, key=lambda one: one[2]))
    ]
    return Log(clicks, [])


LOG = log_of(
    *[("old", f"i{at}", at) for at in range(5)],
    *[(f"u{at}", "i5", at + 0.5) for at in range(5)],
    ("old", "i5", 100),  # a return visit, item with five events before
    ("old", "i1", 100.1),  # taken before: not judged
    ("old", "i6", 100.2),  # minutes later, new item
    ("new", "i2", 101),  # new person, first request, rare item
    ("new", "stranger", 103),  # new person's return visit, unknown to the model
)


def counts(groups: object) -> dict[str, int]:
    assert isinstance(groups, dict)
    return {name: found.events for name, found in groups.items()}


def test_events_are_counted_in_their_groups(trained: TrainedModel, schema: FeatureSchema) -> None:
    found = evaluate(trained, *LOG.split_after(SPLIT_MS - 1), schema)
    for method in (found.model, found.popularity):
        assert method.overall.events == 4
        assert counts(method.groups) == {
            "return_visits": 2,
            "first_requests": 1,
            "new_people": 2,
            "new_items": 2,
            "rare_items": 3,
        }
        assert 0 < method.coverage <= 1


def test_right_after_there_are_no_first_requests(
    trained: TrainedModel, schema: FeatureSchema
) -> None:
    found = evaluate(trained, *LOG.split_after(SPLIT_MS - 1), schema, right_after=True)
    assert found.model.overall.events == 3
    assert found.model.groups["first_requests"].events == 0


def test_a_rank_belongs_to_its_event(
    small_log: Log, vocabulary: Vocabulary, model: TemporalModel, schema: FeatureSchema
) -> None:
    trained = TrainedModel(model, vocabulary, TrainingOutcome(epoch=0, held_out=0.0, seconds=0.0))
    for right_after in (False, True):
        targets = select_targets(trained, list(small_log.split(0.5)), schema, right_after)
        events = []
        for batch in targets.batches().epoch(16, np.random.default_rng(0)):
            assert batch.targets.tolist() == targets.columns.items[batch.events.numpy()].tolist()
            events += batch.events.tolist()
        assert sorted(events) == np.flatnonzero(targets.chosen).tolist()


def test_an_item_that_the_model_does_not_know_is_missed(
    trained: TrainedModel, schema: FeatureSchema
) -> None:
    targets = select_targets(trained, list(LOG.split_after(SPLIT_MS - 1)), schema, False)
    (judged,) = targets.evaluate([knows_all])
    assert judged.overall.hr_at_10 == pytest.approx(3 / 4)
    assert judged.groups["first_requests"].hr_at_10 == 1
    assert judged.groups["return_visits"].hr_at_10 == 0.5


def knows_all(batch: Batch) -> Tensor:
    scores = torch.zeros(batch.excluded.shape)
    scores[batch.rows, batch.targets] = 1.0
    return scores


def test_a_rank_is_that_of_the_event_s_own_scores(
    trained: TrainedModel, schema: FeatureSchema
) -> None:
    """However the events were put into batches."""

    def misses_one(batch: Batch) -> Tensor:
        (unlucky,) = trained.vocabulary.indices_of(["i6"])
        scores = knows_all(batch)
        scores[:, unlucky] = -1.0
        return scores

    targets = select_targets(trained, list(LOG.split_after(SPLIT_MS - 1)), schema, False)
    (judged,) = targets.evaluate([misses_one])
    assert judged.overall.hr_at_10 == pytest.approx(2 / 4)
    assert judged.groups["new_items"].hr_at_10 == 0
    assert judged.groups["rare_items"].hr_at_10 == pytest.approx(1 / 3)


def test_a_single_event_is_judged(trained: TrainedModel, schema: FeatureSchema) -> None:
    log = log_of(("ann", "i20", 0.0), ("ann", "i21", 1.0))
    targets = select_targets(trained, list(log.split_after(START_MS)), schema, False)
    (judged,) = targets.evaluate([knows_all])
    assert (judged.overall.events, judged.overall.hr_at_10) == (1, 1)


def test_items_of_one_instant_are_no_wrong_answers_for_each_other(
    trained: TrainedModel, schema: FeatureSchema
) -> None:
    twelve = [("ann", f"i{at}", 1.0) for at in range(12)]
    log = log_of(("ann", "i20", 0.0), *twelve)
    targets = select_targets(trained, list(log.split_after(START_MS)), schema, False)
    (judged,) = targets.evaluate([knows_all])
    assert judged.overall.events == 12
    assert judged.overall.ndcg_at_10 == pytest.approx(1)


def test_coverage_counts_what_stands_among_the_best_ten(
    trained: TrainedModel, schema: FeatureSchema
) -> None:
    def always_the_same(batch: Batch) -> Tensor:
        scores = torch.full(batch.excluded.shape, LOWEST)
        scores[:, FIRST_ITEM : FIRST_ITEM + 4] = 1.0
        return scores

    targets = select_targets(trained, list(LOG.split_after(SPLIT_MS - 1)), schema, False)
    (judged,) = targets.evaluate([always_the_same])
    assert judged.coverage == pytest.approx(4 / (len(trained.vocabulary) - FIRST_ITEM))


def test_figures_of_ranks() -> None:
    found = ranking_metrics(np.array([0.0, 9.5, 10.0, 49.0, np.inf]))
    assert (found.events, found.hr_at_10, found.hr_at_50) == (5, 0.4, 0.8)
    assert found.ndcg_at_10 == pytest.approx((1 + 1 / np.log2(11.5)) / 5)
    assert ranking_metrics(np.array([])).events == 0


def test_the_interval_draws_people_with_all_their_events() -> None:
    gains = np.array([0.0] * 50 + [1.0] * 50)
    alone = width(bootstrap_interval(gains, range(100)))
    assert 0.1 < alone < 0.3
    assert width(bootstrap_interval(gains, np.arange(100) % 4)) < alone
    assert width(bootstrap_interval(gains, np.arange(100) // 25)) > alone


def width(edges: Sequence[float]) -> float:
    return edges[1] - edges[0]
