"""Who and what is shown how often: the measures, over lists and interactions of a window.

N items of the catalogue. Exposure is how often an item stood in a list, wherever in it.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from headwater_client.admin import fairness

from features.schema import Float64Array

RUN_LENGTH = 3
_MOST_LINES, _EXAMPLES = 20, 5
NOT_SAID = "(not said)"
OTHERS = "(others)"


class ShownList(NamedTuple):
    """A list that a person got.

    Attributes:
        reasons: why each item stands there.
    """

    person: str
    items: tuple[str, ...]
    reasons: tuple[str, ...]
    time_ms: int
    placement: str = ""
    is_fallback: bool = False


class TakenItem(NamedTuple):
    """A person took an item: clicked it, bought it."""

    person: str
    item: str
    time_ms: int


def measure_gini(amounts: Float64Array) -> float:
    """How unequal amounts are: 0 where all are the same, (n - 1) / n where one has all.

    Gini, "Variabilita e mutabilita", 1912, by ranks: sum of (2 r - n - 1) x_r over n times the sum
    of x, of the r-th smallest x.

    Args:
        amounts: float64[n], none below 0; of nothing, and where all are 0, it is 0.

    >>> [measure_gini(np.array(each)) for each in ([1.0, 1.0], [0.0, 1.0], [0.0])]
    [0.0, 0.5, 0.0]
    """
    count, total = len(amounts), float(amounts.sum())
    if not count or total <= 0:
        return 0.0
    ranks = 2 * np.arange(1, count + 1) - count - 1
    return max(0.0, float(ranks @ np.sort(amounts)) / (count * total))


def find_head(taken: Mapping[str, int], quantile: float) -> set[str]:
    """The fewest items that have this part of all that was taken; the rest is the long tail.

    >>> sorted(find_head({"a": 6, "b": 3, "c": 1}, 0.8))
    ['a', 'b']
    """
    left, head = quantile * sum(taken.values()), set[str]()
    for name, number in sorted(taken.items(), key=lambda each: (-each[1], each[0])):
        if left <= 1e-9 * number:
            break
        head.add(name)
        left -= number
    return head


def count_shown(lists: Iterable[ShownList]) -> Counter[str]:
    """How often each item was shown."""
    return Counter(name for each in lists for name in each.items)


def measure_concentration(
    lists: Sequence[ShownList], taken: Mapping[str, int], catalogue: Sequence[str], quantile: float
) -> fairness.Concentration | None:
    """How the places of lists are shared among items; None where nothing was shown.

    Args:
        catalogue: the items that may be recommended.
        quantile: the part of what was taken that the head has.
    """
    shown = count_shown(lists)
    places = shown.total()
    if not places:
        return None
    # What has left the catalogue since was shown all the same.
    names = list(dict.fromkeys([*catalogue, *shown]))
    counts = np.array([shown[name] for name in names], np.float64)
    by_place = _weigh_places(lists)
    weighted = np.array([by_place[name] for name in names], np.float64)
    head, taken_in_all = find_head(taken, quantile), sum(taken.values())
    covered = sum(1 for name in catalogue if shown[name])
    of_head = sum(shown[name] for name in head)
    return fairness.Concentration(
        catalogue=len(catalogue),
        shown_items=len(shown),
        coverage=covered / len(catalogue) if catalogue else 0.0,
        coverage_possible=min(1.0, places / len(catalogue)) if catalogue else 0.0,
        gini=measure_gini(counts),
        gini_shown=measure_gini(counts[counts > 0]),
        gini_by_place=measure_gini(weighted),
        tail_quantile=quantile,
        head=len(head),
        tail_share=1 - of_head / places if taken_in_all else None,
        tail_clicks=1 - sum(taken[name] for name in head) / taken_in_all if taken_in_all else None,
    )


def _weigh_places(lists: Iterable[ShownList]) -> Mapping[str, float]:
    """How much each item was seen: a place r is worth 1 / log2(1 + r), as in NDCG."""
    found: dict[str, float] = defaultdict(float)
    for each in lists:
        for place, name in enumerate(each.items, 1):
            found[name] += 1 / math.log2(1 + place)
    return found


Values = Mapping[str, Sequence[str]]
"""The values that items have of an attribute, by item."""


def measure_shares(
    by: str, values: Values, shown: Mapping[str, int], taken: Mapping[str, int]
) -> fairness.ShareTable:
    """Shares by the values of an attribute of items.

    Args:
        values: of all items of the catalogue, and of those that were shown or taken.
    """
    of_shown, of_taken = _split(values, shown), _split(values, taken)
    of_catalogue = _split(values, dict.fromkeys(values, 1))
    names = {**of_catalogue, **of_shown, **of_taken}
    lines = [
        fairness.ShareLine(
            name=name,
            catalogue=of_catalogue.get(name, 0.0),
            shown=of_shown.get(name, 0.0),
            clicked=of_taken.get(name, 0.0),
            ratio=of_shown.get(name, 0.0) / of_taken[name] if of_taken.get(name) else None,
        )
        for name in sorted(names, key=lambda each: (-of_shown.get(each, 0.0), each))
    ]
    rest = lines[_MOST_LINES:]
    return fairness.ShareTable(
        by=by,
        lines=lines[:_MOST_LINES],
        left_out=len(rest),
        left_out_shown=sum(each.shown for each in rest),
    )


def _split(values: Values, amounts: Mapping[str, int]) -> dict[str, float]:
    """The share of each value; an item of several is in each, in equal parts."""
    found: dict[str, float] = defaultdict(float)
    total = 0
    for item, amount in amounts.items():
        names = values.get(item) or (NOT_SAID,)
        total += amount
        for name in names:
            found[name] += amount / len(names)
    return {name: amount / total for name, amount in found.items()} if total else {}


def measure_repetition(lists: Sequence[ShownList]) -> fairness.Repetition:
    """How lists repeat: of a person one after another, and between people.

    Args:
        lists: in the order in which they were made.
    """
    by_person: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for each in lists:
        if each.items:
            by_person[each.person].append(each.items)
    pairs = [pair for own in by_person.values() for pair in pairwise(own)]
    runs = [_longest_run(own) for own in by_person.values()]
    newest = [own[-1] for own in by_person.values()]
    common = Counter(newest).most_common(1)
    overlaps = [_overlap(*pair) for pair in pairs]
    return fairness.Repetition(
        pairs=len(pairs),
        same=sum(first == second for first, second in pairs),
        overlap=sum(overlaps) / len(overlaps) if overlaps else None,
        longest_run=max(runs, default=0),
        run_length=RUN_LENGTH,
        stuck_people=sum(run >= RUN_LENGTH for run in runs),
        people=len(by_person),
        distinct_lists=len(set(newest)),
        common_list=list(common[0][0]) if common else [],
        common_list_people=common[0][1] if common else 0,
        between_people=_overlap_between(newest),
    )


def _overlap(first: Sequence[str], second: Sequence[str]) -> float:
    return len({*first} & {*second}) / min(len({*first}), len({*second}))


def _longest_run(own: Sequence[tuple[str, ...]]) -> int:
    longest = run = 1
    for before, after in pairwise(own):
        run = run + 1 if before == after else 1
        longest = max(longest, run)
    return longest


def _overlap_between(newest: Sequence[tuple[str, ...]]) -> float | None:
    """Items that two people's lists share, of a list's items, over all pairs of people.

    An item in c of P lists is shared by c (c - 1) of P (P - 1) pairs: no pair has to be looked at.
    """
    people = len(newest)
    if people < 2:
        return None
    holders = Counter(name for own in newest for name in {*own})
    shared = sum(count * (count - 1) for count in holders.values()) / (people * (people - 1))
    return shared * people / holders.total()


def find_blocked(
    words: Iterable[str],
    categories: Iterable[str],
    shown: Mapping[str, int],
    described: Mapping[str, tuple[str, Sequence[str]]],
) -> Iterator[fairness.BlockedFinding]:
    """Words and categories that are not to be shown, in what was shown.

    A word is found whole, in any spelling of upper and lower case.

    Args:
        described: title and categories of each item that was shown.
    """
    titles = {name: _plain(described[name][0]) for name in shown if name in described}
    for word in filter(_plain, words):
        pattern = match_word(_plain(word))
        found = [name for name, title in titles.items() if pattern.search(title)]
        yield from _describe_blocked("word", word, found, shown, described)
    wanted = {name: {_plain(each) for each in described[name][1]} for name in titles}
    for category in categories:
        found = [name for name, own in wanted.items() if _plain(category) in own]
        yield from _describe_blocked("category", category, found, shown, described)


def match_word(plain: str) -> re.Pattern[str]:
    """Finds a word that is no part of another; one that ends in a sign ends there."""
    begin, end = (r"\w" if re.match(r"\w", each) else None for each in (plain[0], plain[-1]))
    before, behind = f"(?<!{begin})" if begin else "", f"(?!{end})" if end else ""
    return re.compile(f"{before}{re.escape(plain)}{behind}")


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _describe_blocked(
    kind: str,
    blocked: str,
    found: list[str],
    shown: Mapping[str, int],
    described: Mapping[str, tuple[str, Sequence[str]]],
) -> Iterator[fairness.BlockedFinding]:
    if not found:
        return
    found.sort(key=lambda name: (-shown[name], name))
    yield fairness.BlockedFinding(
        kind=kind,
        blocked=blocked,
        items=len(found),
        shown=sum(shown[name] for name in found),
        examples=[
            fairness.BlockedExample(item_id=name, title=described[name][0], shown=shown[name])
            for name in found[:_EXAMPLES]
        ],
    )


def measure_reasons(lists: Iterable[ShownList]) -> list[fairness.ReasonShare]:
    """Why items stood in the lists, the commonest first."""
    counts = Counter(reason for each in lists for reason in each.reasons)
    total = counts.total()
    return [
        fairness.ReasonShare(reason=reason, share=count / total)
        for reason, count in counts.most_common()
    ]


def form_groups(values: Mapping[str, str], least: int) -> tuple[dict[str, list[str]], int, int]:
    """People by the value of an attribute, so that no group has fewer than `least`.

    Smaller ones are told as one. Where these are too few as well, the smallest other group joins
    them: nobody can find a small group by taking what is told from the whole.

    Args:
        values: by person.

    Returns:
        The people of each group; how many values were brought together; of how many people nothing
        is told, for all of them together are too few.
    """
    people: dict[str, list[str]] = defaultdict(list)
    for person, value in values.items():
        people[value].append(person)
    small = sorted((name for name, own in people.items() if len(own) < least), key=str)
    groups = {name: own for name, own in people.items() if len(own) >= least}
    others = [person for name in small for person in people[name]]
    merged = len(small)
    if small and len(others) < least and groups:
        name = min(groups, key=lambda each: (len(groups[each]), each))
        others += groups.pop(name)
        merged += 1
    if len(others) >= least:
        groups[OTHERS] = others
        others = []
    return groups, merged, len(others)


class GroupedExposure(NamedTuple):
    """What is measured of groups.

    Attributes:
        head: the items of the head, which are not of the long tail; None where it is not known.
        catalogue: how many items may be recommended.
    """

    lists: Sequence[ShownList]
    taken: Sequence[TakenItem]
    head: set[str] | None
    catalogue: int


def measure_groups(
    by: str, values: Mapping[str, str], least: int, exposure: GroupedExposure
) -> fairness.GroupTable:
    """What groups of people are shown, none of which is small.

    Args:
        values: of each person who got a list.
    """
    groups, merged, not_told = form_groups(values, least)
    group_of = {person: name for name, own in groups.items() for person in own}
    lists: dict[str, list[ShownList]] = defaultdict(list)
    for each in exposure.lists:
        if each.person in group_of:
            lists[group_of[each.person]].append(each)
    clicks = Counter(group_of[each.person] for each in exposure.taken if each.person in group_of)
    lines = [
        _measure_group(name, len(groups[name]), clicks[name], lists[name], exposure)
        for name in sorted(groups, key=lambda each: (-len(groups[each]), each))
    ]
    return fairness.GroupTable(
        by=by, least_group=least, lines=lines, merged=merged, not_told=not_told
    )


def _measure_group(
    name: str, people: int, clicks: int, lists: Sequence[ShownList], exposure: GroupedExposure
) -> fairness.GroupLine:
    shown = count_shown(lists)
    counts = np.zeros(max(exposure.catalogue, len(shown)))
    counts[: len(shown)] = [*shown.values()]
    of_head = sum(shown[item] for item in exposure.head or ())
    is_tail_known = exposure.head and shown
    return fairness.GroupLine(
        name=name,
        people=people,
        lists=len(lists),
        clicks=clicks,
        items=len(shown),
        tail_share=1 - of_head / shown.total() if is_tail_known else None,
        gini=measure_gini(counts),
        fallbacks=sum(each.is_fallback for each in lists) / len(lists) if lists else 0.0,
        clicks_per_list=clicks / len(lists) if lists else 0.0,
    )
