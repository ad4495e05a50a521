"""What other rules of a placement would have done with the lists that were logged.

A decision is one place of one list that somebody was shown. The rules that made it took its item
with a probability that the log says, where something was left to chance; else with certainty. With
which probability other rules would have put the same item there, after the same items before it, is
worked out from the scores of the items. A place counts with the product of these ratios up to it
(per-decision importance sampling: D. Precup, R. Sutton, S. Singh, "Eligibility Traces for
Off-Policy Policy Evaluation", ICML 2000; doubly robust: N. Jiang, L. Li, "Doubly Robust Off-policy
Value Evaluation for Reinforcement Learning", ICML 2016): so it is right whatever a place's reward
hangs on above it. It must not hang on what stands below.

k places of a list, N decisions.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from msgspec import structs

from features.rules import arranging
from features.rules.plans import ListPlan
from features.schema import Float64Array
from trainer.metrics import dcg_discount
from trainer.policies.off_policy import LoggedDecisions, PolicyComparison, compare_policies

# Lists of which the rate of an item is taken to have been seen before it was shown once.
_PRIOR_LISTS = 20.0
_FOLDS = 2


class PlannedList(NamedTuple):
    """How some rules make a list for one request.

    Attributes:
        pools: as of `features.rules.arranging`.
        places: of the list, at most.
    """

    plan: ListPlan
    pools: Sequence[arranging.ScoredItems]
    places: int

    def arrange(self, seed: str) -> list[str]:
        """The items of the list."""
        placed = arranging.arrange_list(self.plan, self.pools, self.places, seed)
        return [item.item_id for item in placed]

    def find_probabilities(self, logged: Sequence[str]) -> list[float]:
        """With which probability each item of a logged list has its place."""
        return arranging.find_probabilities(self.plan, self.pools, self.places, logged)


@dataclass(frozen=True)
class LoggedList:
    """A list that somebody was shown.

    Attributes:
        name: of the list; what is left to chance falls by it.
        person: whose it is, by any number.
        item_ids: what was shown, or seen, best first.
        probabilities: of each at its place, after those before it: float64[k].
        rewards: what each earned, discounted by its place: float64[k].
        before, after: how the rules that made it, and the other ones, make it.
    """

    name: str
    person: int
    item_ids: Sequence[str]
    probabilities: Float64Array
    rewards: Float64Array
    before: PlannedList
    after: PlannedList


@dataclass(frozen=True)
class RulesComparison:
    """What other rules would have done.

    Attributes:
        lists: how many were compared.
        changed: how many would have been others.
        short_before, short_after: how many are shorter than they might be.
        items_before, items_after: different items shown, by the rules as they were, and as they
            would be.
        reproduced: of the places that were logged, how many the rules of then give again: what the
            scores of now, with a person's events of then, are worth.
        beyond: places of longer lists, of which the log says nothing.
        policies: what both earn a place; None where nothing was shown.
    """

    lists: int
    changed: int
    short_before: int
    short_after: int
    items_before: int
    items_after: int
    reproduced: float
    beyond: int
    policies: PolicyComparison | None

    @property
    def silence(self) -> str:
        """Why the log cannot say what the other rules would earn; "" where it can."""
        if self.policies is None:
            return "no list of this placement was shown"
        return self.policies.silence


class _Decision(NamedTuple):
    """One place of a list that somebody was shown.

    Attributes:
        logged, other: with which probability the rules of then, and the others, would have made
            the list as it stands up to this place.
        before: the one over the other, up to the place before.
        supported: how much of what the others would show up to this place could have been shown.
        best, best_probability: what the others put here, unless they try something out; None where
            their list has ended.
    """

    person: int
    item_id: str
    place: int
    reward: float
    logged: float
    other: float
    before: float
    supported: float
    best: str | None
    best_probability: float


def compare_rules(lists: Sequence[LoggedList]) -> RulesComparison:
    """Other rules beside those that made the lists."""
    before, after = ([_arrange(each, which) for each in lists] for which in ("before", "after"))
    decisions = [decision for each in lists for decision in _decide(each)]
    again = [each.before.find_probabilities(each.item_ids) for each in lists]
    places = [probability > 0 for found in again for probability in found]
    return RulesComparison(
        lists=len(lists),
        changed=sum(old != new for old, new in zip(before, after, strict=True)),
        short_before=_count_short(before, [each.before for each in lists]),
        short_after=_count_short(after, [each.after for each in lists]),
        items_before=len({item for items in before for item in items}),
        items_after=len({item for items in after for item in items}),
        reproduced=sum(places) / len(places) if places else 1.0,
        beyond=sum(max(0, len(new) - len(old)) for old, new in zip(before, after, strict=True)),
        policies=compare_policies(_log(decisions)) if decisions else None,
    )


def _arrange(logged: LoggedList, which: str) -> list[str]:
    planned: PlannedList = getattr(logged, which)
    return planned.arrange(logged.name)


def _count_short(lists: Sequence[list[str]], planned: Sequence[PlannedList]) -> int:
    pairs = zip(lists, planned, strict=True)
    return sum(len(items) < each.places for items, each in pairs)


def _decide(logged: LoggedList) -> Iterator[_Decision]:
    """Each place of a list, and what the other rules would have done there."""
    items, after = logged.item_ids, logged.after
    others = np.cumprod(after.find_probabilities(items))
    taken = np.cumprod(logged.probabilities)
    offers = arranging.find_offers(after.plan, after.pools, after.places, items)
    supported = _find_support(logged)
    for place, item_id in enumerate(items):
        best, probability = offers[place] if place < len(offers) else (None, 1.0)
        yield _Decision(
            logged.person,
            item_id,
            place,
            float(logged.rewards[place]),
            float(taken[place]),
            float(others[place]),
            float(others[place - 1] / taken[place - 1]) if place else 1.0,
            float(supported[place]),
            best,
            probability,
        )


def _find_support(logged: LoggedList) -> Float64Array:
    """How much of what the other rules would show, up to each place, could have been shown.

    Where their list has ended, nothing is shown, and nothing earned: that is known.
    """
    plan, items = logged.after.plan, logged.item_ids
    exploration = plan.rules.exploration
    without = replace(plan, rules=structs.replace(plan.rules, exploration=None))
    best = logged.after._replace(plan=without).arrange(logged.name)[: len(items)]
    could = logged.before.find_probabilities(best)
    common = np.isin(plan.tried, logged.before.plan.tried).mean() if len(plan.tried) else 0.0
    found = np.ones(len(items))
    for place in range(len(best)):
        chance = logged.probabilities[place] < 1
        is_same = best[: place + 1] == list(items[: place + 1])
        share = exploration.share if exploration and len(plan.tried) else 0.0
        found[place] = (1 - share) * (could[place] > 0 if chance else is_same)
        found[place] += share * float(common) * bool(chance)
    supported: Float64Array = np.cumprod(found, dtype=np.float64)
    return supported


def _log(decisions: Sequence[_Decision]) -> LoggedDecisions:
    """The decisions as arrays, with what a model expects that was fitted on other people's."""
    people = np.array([each.person for each in decisions], np.int64)
    expected, other = np.zeros(len(decisions)), np.zeros(len(decisions))
    folds = people % _FOLDS
    for fold in range(_FOLDS):
        learned = [each for each, at in zip(decisions, folds, strict=True) if at != fold]
        rates = _ItemRates(learned)
        for row in np.flatnonzero(folds == fold).tolist():
            each = decisions[row]
            expected[row] = rates.expect(each.item_id, each.place)
            if each.best is not None:
                tried = (1 - each.best_probability) * rates.expect(None, each.place)
                best = each.best_probability * rates.expect(each.best, each.place)
                other[row] = each.before * (best + tried)
    rewards, logged, others, supported = (
        np.array([getattr(each, name) for each in decisions], np.float64)
        for name in ("reward", "logged", "other", "supported")
    )
    return LoggedDecisions(people, rewards, logged, others, supported, expected, other)


class _ItemRates:
    """What an item earns in the first place, from decisions; drawn to the mean of all."""

    def __init__(self, decisions: Sequence[_Decision]) -> None:
        earned: dict[str, float] = defaultdict(float)
        shown: dict[str, int] = defaultdict(int)
        for each in decisions:
            earned[each.item_id] += each.reward / float(dcg_discount(each.place))
            shown[each.item_id] += 1
        self._mean = sum(earned.values()) / max(1, len(decisions))
        self._rates = {
            name: (earned[name] + _PRIOR_LISTS * self._mean) / (shown[name] + _PRIOR_LISTS)
            for name in shown
        }

    def expect(self, item_id: str | None, place: int) -> float:
        """What an item earns at a place; None: one that is tried out."""
        rate = self._mean if item_id is None else self._rates.get(item_id, self._mean)
        return rate * float(dcg_discount(place))
