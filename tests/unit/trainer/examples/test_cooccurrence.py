"""What is taken together is counted as it says, and nobody is shown what they told themselves."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from features.schema import UNKNOWN
from features.settings import HOUR_MS
from trainer.examples import cooccurrence
from trainer.examples.cooccurrence import (
    FOLDS,
    HALF_LIFE_MS,
    NEARBY_EVENTS,
    SMOOTHING,
    CooccurrenceCounter,
    CooccurrenceTables,
    InteractionColumns,
)

ITEMS = 30
NOW_MS = 1_700_000_000_000
LAMP, DESK, SHELF, CHAIR = range(2, 6)


def interactions_of(*events: tuple[int, int, int]) -> InteractionColumns:
    """Of (person, item, time)."""
    people, items, times = np.array(events, np.int64).reshape(-1, 3).T
    return InteractionColumns(people, items, times)


@pytest.fixture
def many() -> InteractionColumns:
    """Forty people with sessions of a few minutes, numbered as a log's first events are."""
    random = np.random.default_rng(4)
    return interactions_of(
        *(
            (7 * person, int(item), NOW_MS + person * HOUR_MS + 60_000 * at)
            for person in range(40)
            for at, item in enumerate(random.permutation(np.arange(2, ITEMS))[:6])
        )
    )


def cosines(known: CooccurrenceTables, item: int) -> dict[int, float]:
    """The companions of an item that have a weight."""
    pairs = zip(known.neighbours[item].tolist(), known.weights[item].tolist(), strict=True)
    return {other: weight for other, weight in pairs if weight > 0}


def test_a_small_log_by_hand() -> None:
    """Two take lamp and desk together, one of them a shelf too; chairs are taken alone."""
    log = interactions_of(
        (0, LAMP, NOW_MS),
        (0, DESK, NOW_MS),
        (0, SHELF, NOW_MS),
        (3, DESK, NOW_MS),
        (3, LAMP, NOW_MS),
        (9, CHAIR, NOW_MS),
    )
    known = CooccurrenceCounter(log, ITEMS, 8, 4).count_all()
    two, one = 2 + SMOOTHING, 1 + SMOOTHING
    assert cosines(known, LAMP) == pytest.approx({DESK: 2 / two, SHELF: 1 / (two * one) ** 0.5})
    assert cosines(known, SHELF) == pytest.approx(
        {LAMP: 1 / (two * one) ** 0.5, DESK: 1 / (two * one) ** 0.5}
    )
    assert cosines(known, CHAIR) == {}
    assert known.neighbours[LAMP, 0] == DESK, "the closest stands first"


def test_what_is_old_counts_less() -> None:
    """Both the pair, as of its later event, and how often each was taken."""
    old_ms = NOW_MS - HALF_LIFE_MS
    log = interactions_of((0, LAMP, old_ms), (0, DESK, old_ms), (1, CHAIR, NOW_MS))
    known = CooccurrenceCounter(log, ITEMS, 8, 4).count_all()
    assert cosines(known, LAMP) == pytest.approx({DESK: 0.5 / (0.5 + SMOOTHING)})


@pytest.mark.parametrize(
    ("events", "together"),
    [
        ([(0, LAMP, 0), (0, DESK, HOUR_MS - 1)], True),
        ([(0, LAMP, 0), (0, DESK, HOUR_MS)], False),
        ([(0, LAMP, 0), (1, DESK, 0)], False),
        ([(0, LAMP, 0), *[(0, CHAIR, 0)] * (NEARBY_EVENTS - 1), (0, DESK, 0)], True),
        ([(0, LAMP, 0), *[(0, CHAIR, 0)] * NEARBY_EVENTS, (0, DESK, 0)], False),
    ],
)
def test_only_what_is_near_and_one_person_s_is_together(
    events: list[tuple[int, int, int]], together: bool
) -> None:
    known = CooccurrenceCounter(interactions_of(*events), ITEMS, 8, 4).count_all()
    assert (DESK in cosines(known, LAMP)) is together


def test_an_item_is_no_companion_of_itself(many: InteractionColumns) -> None:
    twice = replace(many, items=np.repeat(many.items[::2], 2))
    known = CooccurrenceCounter(twice, ITEMS, ITEMS, 4).count_all()
    for item in range(ITEMS):
        assert item not in cosines(known, item)


def test_companions_differ_and_have_their_places(many: InteractionColumns) -> None:
    known = CooccurrenceCounter(many, ITEMS, 12, 4).count_all()
    assert known.neighbours.shape == known.weights.shape == (ITEMS, 12)
    for row in known.neighbours.tolist():
        assert len(set(row)) == 12
    assert not known.weights[:2].any(), "padding and the unknown item"


def test_rare_items_of_a_large_catalogue_have_no_companions(
    many: InteractionColumns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cooccurrence, "MAX_ITEMS", 10)
    counts = np.bincount(many.items, minlength=ITEMS)
    frequent = sorted(range(ITEMS), key=lambda item: (-counts[item], item))[:10]
    assert frequent != list(range(10)), "the most frequent need not stand first"
    rare = sorted({*many.items.tolist()} - {*frequent})
    known = CooccurrenceCounter(many, ITEMS, 12, 4).count_all()
    assert known.weights[frequent].any(1).all()
    assert not known.weights[rare].any()
    assert {*known.neighbours[frequent].flatten().tolist()} == {*frequent}
    assert known.factors[rare].any(1).all(), "but factors they have"


def test_a_share_is_not_shown_its_own_people(many: InteractionColumns) -> None:
    """Whatever they take instead, the counts that they are shown are the same."""
    counts = CooccurrenceCounter(many, ITEMS, 8, 4)
    dealt, shown = dealt_by(counts)
    assert len(dealt) == 40
    for share in (0, 3):
        mine = (dealt == share)[counts.users]
        assert mine.any()
        items = np.where(mine, 2 + (many.items + 5) % (ITEMS - 2), many.items)
        other = dealt_by(CooccurrenceCounter(replace(many, items=items), ITEMS, 8, 4))[1]
        torch.testing.assert_close(counts_of(other.fold(share)), counts_of(shown.fold(share)))
        some = (share + 1) % FOLDS
        assert (counts_of(other.fold(some)) - counts_of(shown.fold(some))).abs().max() > 0.01


def dealt_by(counts: CooccurrenceCounter) -> tuple[np.ndarray, CooccurrenceTables]:
    torch.manual_seed(0)
    return counts.draw_folds(np.random.default_rng(1))


def counts_of(known: CooccurrenceTables) -> torch.Tensor:
    """Companions as a table over all pairs, and the products of factors: float[N, 2 * N]."""
    table = torch.zeros(ITEMS, ITEMS).scatter(1, known.neighbours.long(), known.weights)
    return torch.cat([table, known.factors @ known.factors.T], 1)


def test_a_share_is_shown_what_a_log_without_its_people_has(many: InteractionColumns) -> None:
    counts = CooccurrenceCounter(many, ITEMS, ITEMS, ITEMS)
    dealt, shown = dealt_by(counts)
    for share in range(FOLDS):
        left = (dealt != share)[counts.users]
        # Somebody's unknown item is the newest event: it tells how old each of the others is.
        log = InteractionColumns(
            np.append(many.users[left], 999),
            np.append(many.items[left], UNKNOWN),
            np.append(many.times_ms[left], many.times_ms.max()),
        )
        expected = CooccurrenceCounter(log, ITEMS, ITEMS, ITEMS).count_all()
        expected.factors[UNKNOWN] = shown.factors[share, UNKNOWN]
        torch.testing.assert_close(
            counts_of(shown.fold(share)), counts_of(expected), rtol=1e-3, atol=1e-4
        )


def test_all_are_counted_for_the_version(many: InteractionColumns) -> None:
    counts = CooccurrenceCounter(many, ITEMS, ITEMS, ITEMS)
    pairs, often = np.zeros((ITEMS, ITEMS)), np.zeros(ITEMS)
    newest = many.times_ms.max()
    for person in np.unique(many.users):
        mine = np.flatnonzero(many.users == person)
        for at, one in enumerate(mine):
            worth = 2.0 ** -((newest - many.times_ms[one]) / HALF_LIFE_MS)
            often[many.items[one]] += worth
            for other in mine[:at]:
                pair = many.items[one], many.items[other]
                pairs[pair] += worth
                pairs[pair[::-1]] += worth
    expected = pairs / np.sqrt(np.outer(often + SMOOTHING, often + SMOOTHING))
    found = counts_of(counts.count_all())[:, :ITEMS]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_products_of_factors_are_the_cosines_of_who_took_what(many: InteractionColumns) -> None:
    """Exact at full width; a smaller width keeps the largest directions."""
    counts = CooccurrenceCounter(many, ITEMS, 8, ITEMS)
    who = np.zeros((40, ITEMS))
    who[counts.users, many.items] = np.sqrt(counts.worth)
    scaled = who / np.sqrt((who**2).sum(0) + SMOOTHING)
    exact = scaled.T @ scaled
    found = counts.count_all().factors
    np.testing.assert_allclose((found @ found.T).numpy(), exact, atol=1e-4)
    few = CooccurrenceCounter(many, ITEMS, 8, 10).count_all().factors
    values = np.linalg.eigvalsh(exact)[::-1]
    missed = np.linalg.norm((few @ few.T).numpy() - exact)
    best = np.linalg.norm(values[10:])
    assert best * 0.99 <= missed < 1.5 * best


def test_the_same_seed_gives_the_same(many: InteractionColumns) -> None:
    def draw_tables(seed: int) -> tuple[np.ndarray, CooccurrenceTables]:
        torch.manual_seed(seed)
        return CooccurrenceCounter(many, ITEMS, 8, 4).draw_folds(np.random.default_rng(seed))

    (dealt, known), (same_dealt, same), (other_dealt, _) = (
        draw_tables(1),
        draw_tables(1),
        draw_tables(2),
    )
    np.testing.assert_array_equal(dealt, same_dealt)
    assert (dealt != other_dealt).any()
    for field in fields(CooccurrenceTables):
        assert torch.equal(getattr(known, field.name), getattr(same, field.name))


@pytest.mark.parametrize("events", [[], [(0, LAMP, NOW_MS)]])
def test_next_to_nothing_can_be_counted(events: list[tuple[int, int, int]]) -> None:
    counts = CooccurrenceCounter(interactions_of(*events), ITEMS, 8, 4)
    dealt, shown = counts.draw_folds(np.random.default_rng(0))
    assert len(dealt) == len(events)
    for known in (counts.count_all(), shown):
        assert not known.weights.any()
        assert known.factors.isfinite().all()
