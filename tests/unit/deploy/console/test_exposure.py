"""Who and what is shown how often: the measures on lists that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.console import exposure
from deploy.console.exposure import GroupedExposure, ShownList, TakenItem


def lists_of(*lists: str, person: str = "") -> list[ShownList]:
    """A list for each text, an item a letter, each of a person of their own or of the named one."""
    return [
        ShownList(person or f"p{at}", tuple(items), ("history",) * len(items), at)
        for at, items in enumerate(lists)
    ]


def test_coverage_and_tail_are_of_the_catalogue() -> None:
    lists = lists_of("ab", "ab", "ac", "ax")
    taken = {"a": 8, "b": 1, "d": 1}
    found = exposure.measure_concentration(lists, taken, list("abcdefghij"), 0.8)
    assert found is not None
    assert (found.catalogue, found.shown_items, found.head) == (10, 4, 1)
    # x has left the catalogue since.
    assert found.coverage == pytest.approx(0.3)
    assert found.coverage_possible == pytest.approx(0.8)
    assert found.tail_share == pytest.approx(0.5)
    assert found.tail_clicks == pytest.approx(0.2)
    assert found.gini > found.gini_shown > 0
    # The first place is worth more, and a has it always.
    assert found.gini_by_place > found.gini
    assert exposure.measure_concentration([], taken, ["a"], 0.8) is None
    unknown = exposure.measure_concentration(lists, {}, [], 0.8)
    assert unknown is not None
    assert (unknown.coverage, unknown.tail_share) == (0.0, None)


def test_shares_are_set_against_what_is_clicked_and_add_up() -> None:
    values = {"a": ("x",), "b": ("x", "y"), "c": ("y",), "d": ()}
    table = exposure.measure_shares("category", values, {"a": 6, "b": 2, "z": 2}, {"c": 1})
    lines = {line.name: line for line in table.lines}
    assert lines["x"].shown == pytest.approx(0.7)
    assert lines["y"].shown == pytest.approx(0.1)
    assert lines[exposure.NOT_SAID].shown == pytest.approx(0.2)
    assert lines["y"].ratio == pytest.approx(0.1)
    assert lines["x"].ratio is None
    for name in ("catalogue", "shown", "clicked"):
        assert sum(getattr(line, name) for line in table.lines) == pytest.approx(1)
    many = {f"i{n}": (f"s{n}",) for n in range(30)}
    cut = exposure.measure_shares("brand", many, dict.fromkeys(many, 1), {})
    assert (len(cut.lines), cut.left_out) == (20, 10)
    assert cut.left_out_shown == pytest.approx(1 / 3)


def test_lists_that_repeat_are_counted() -> None:
    stuck = lists_of("abc", "abc", "abc", "abd", person="ann")
    moving = lists_of("abc", "def", person="bob")
    found = exposure.measure_repetition([*stuck, *moving, *lists_of("", person="cleo")])
    assert (found.pairs, found.same, found.people) == (4, 2, 2)
    assert (found.longest_run, found.stuck_people) == (3, 1)
    assert found.overlap == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)
    assert found.distinct_lists == 2
    assert found.between_people == pytest.approx(1 / 3)


def test_the_same_list_to_all_is_found() -> None:
    found = exposure.measure_repetition(lists_of("ab", "ab", "ab", "ba"))
    assert found.common_list == ["a", "b"]
    assert (found.common_list_people, found.people) == (3, 4)
    assert found.between_people == pytest.approx(1)
    apart = exposure.measure_repetition(lists_of("ab", "cd"))
    assert apart.between_people == 0
    nothing = exposure.measure_repetition([])
    assert (nothing.overlap, nothing.between_people, nothing.common_list) == (None, None, [])


def test_blocked_words_are_found_whole_and_however_they_are_written() -> None:
    described = {
        "a": ("The GUN show", ["Toys"]),
        "b": ("Shotguns", ["weapons"]),
        "c": ("\uff27\uff55\uff4e <script>alert(1)</script>", []),
        "d": ("c++ (primer)", []),
    }
    shown = {"a": 1, "b": 2, "c": 3, "d": 1, "unknown": 9}
    found = list(exposure.find_blocked(["gun", "C++ (", ".*"], ["WEAPONS"], shown, described))
    told = {(each.kind, each.blocked): each for each in found}
    assert [each.item_id for each in told["word", "gun"].examples] == ["c", "a"]
    assert told["word", "gun"].shown == 4
    assert told["word", "C++ ("].items == 1
    assert ("word", ".*") not in told
    assert told["category", "WEAPONS"].examples[0].item_id == "b"


def test_no_group_is_so_small_that_somebody_is_singled_out() -> None:
    values = {f"p{n}": "many" for n in range(30)} | {f"q{n}": "some" for n in range(21)}
    values |= {"lone": "rare"}
    groups, merged, not_told = exposure.form_groups(values, 20)
    # What is left of all people without the others would be the lone one.
    assert {name: len(own) for name, own in groups.items()} == {"many": 30, exposure.OTHERS: 22}
    assert (merged, not_told) == (2, 0)
    assert exposure.form_groups({"lone": "rare"}, 20) == ({}, 1, 1)
    assert exposure.form_groups({}, 20) == ({}, 0, 0)


def test_groups_are_measured_alike() -> None:
    lists = [
        ShownList(f"{group}{n}", items, ("popular",) * 2, n, "", group == "b")
        for group, items in (("a", ("x", "y")), ("b", ("x", "z")))
        for n in range(3)
    ]
    values = {each.person: each.person[0] for each in lists}
    taken = [TakenItem("a1", "x", 5), TakenItem("stranger", "x", 5)]
    table = exposure.measure_groups("kind", values, 3, GroupedExposure(lists, taken, {"x"}, 4))
    first, second = table.lines
    assert (first.name, first.people, first.lists, first.clicks) == ("a", 3, 3, 1)
    assert first.tail_share == pytest.approx(0.5)
    assert (first.fallbacks, second.fallbacks) == (0, 1)
    assert first.gini == pytest.approx(exposure.measure_gini(np.array([3.0, 3, 0, 0])))
    unknown = exposure.measure_groups("kind", values, 3, GroupedExposure(lists, taken, None, 4))
    assert unknown.lines[0].tail_share is None


def test_reasons_are_shares_of_places() -> None:
    lists = [ShownList("p", ("a", "b"), ("history", "pin"), 1), *lists_of("ab")]
    told = {each.reason: each.share for each in exposure.measure_reasons(lists)}
    assert told == {"history": 0.75, "pin": 0.25}
