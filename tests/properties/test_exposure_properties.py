"""What is true of measures of exposure, of shared samples and of dead letters, whatever comes."""

from __future__ import annotations

import json
from contextlib import suppress

import msgspec
import numpy as np
import pytest
from headwater_client import DeadLetter, EventError, decode
from headwater_client.admin import quality
from headwater_client.documents import read_json
from headwater_client.events import Item, PersonAttributes
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.console import dead_letters, event_checks, exposure, refusals
from deploy.console.exposure import ShownList
from deploy.console.log_tails import share_out
from features.events import EventReader
from features.settings import EventSettings

NOW_MS = 1_764_000_000_000
CHECKER = dead_letters.MessageChecker(
    EventReader(EventSettings(), clock=lambda: NOW_MS), lambda: NOW_MS
)
amounts = st.lists(st.integers(0, 1000), min_size=1, max_size=50).map(
    lambda values: np.array(values, np.float64)
)
names = st.text(st.sampled_from("abcdefg"), min_size=1, max_size=1)
shown_lists = st.lists(
    st.builds(
        lambda person, items: ShownList(person, tuple(items), ("history",) * len(items), 0),
        st.sampled_from("pqrs"),
        st.lists(names, max_size=5, unique=True),
    ),
    max_size=30,
)


@given(amounts, st.integers(1, 100))
def test_gini_is_of_shares_alone(values: np.ndarray, factor: int) -> None:
    gini = exposure.measure_gini(values)
    assert 0 <= gini <= 1 - 1 / len(values) + 1e-12
    assert exposure.measure_gini(values * factor) == pytest.approx(gini)
    assert exposure.measure_gini(values[::-1].copy()) == pytest.approx(gini)
    # Everyone twice: as unequal as before.
    assert exposure.measure_gini(np.repeat(values, 2)) == pytest.approx(gini)


@given(amounts)
def test_gini_is_half_the_mean_difference(values: np.ndarray) -> None:
    if values.sum():
        mean_difference = np.abs(values[:, None] - values).mean()
        expected = mean_difference / (2 * values.mean())
        assert exposure.measure_gini(values) == pytest.approx(expected, abs=1e-12)


@given(amounts.filter(lambda values: len(values) > 1), st.data())
def test_taking_from_the_poor_makes_it_no_more_equal(
    values: np.ndarray, data: st.DataObject
) -> None:
    poor, rich = sorted(
        data.draw(st.lists(st.integers(0, len(values) - 1), min_size=2, max_size=2, unique=True)),
        key=values.__getitem__,
    )
    moved = data.draw(st.floats(0, float(values[poor])))
    after = values.copy()
    after[poor] -= moved
    after[rich] += moved
    assert exposure.measure_gini(after) >= exposure.measure_gini(values) - 1e-12


@given(st.dictionaries(names, st.integers(1, 20), min_size=1), st.floats(0.01, 1))
def test_the_head_is_the_smallest_that_has_its_part(taken: dict[str, int], quantile: float) -> None:
    head = exposure.find_head(taken, quantile)
    total = sum(taken.values())
    held = sum(taken[name] for name in head)
    assert held >= quantile * total - 1e-6
    least = min(taken[name] for name in head)
    assert held - least < quantile * total + 1e-6
    assert all(taken[name] <= least for name in taken if name not in head)


@given(shown_lists, st.dictionaries(names, st.integers(1, 9)))
def test_shares_and_coverage_are_shares(lists: list[ShownList], taken: dict[str, int]) -> None:
    shown = exposure.count_shown(lists)
    values = {name: (name.upper(), "both") for name in "abcd"}
    table = exposure.measure_shares("category", values, shown, taken)
    for line in table.lines:
        assert 0 <= line.shown <= 1 + 1e-9
        assert 0 <= line.clicked <= 1 + 1e-9
    found = exposure.measure_concentration(lists, taken, list("abcd"), 0.8)
    assert (found is None) == (not shown)
    if found is not None:
        assert 0 <= found.coverage <= found.coverage_possible
        assert found.tail_share is None or -1e-9 <= found.tail_share <= 1
        assert found.tail_clicks is None or found.tail_clicks <= 0.2 + 1e-9


@given(shown_lists)
def test_repetition_is_what_counting_by_hand_says(lists: list[ShownList]) -> None:
    found = exposure.measure_repetition(lists)
    newest = {each.person: set(each.items) for each in lists if each.items}
    assert found.people == len(newest)
    assert found.same <= found.pairs == sum(map(bool, (x.items for x in lists))) - found.people
    pairs = [(a, b) for a in newest for b in newest if a != b]
    if pairs:
        shared = np.mean([len(newest[a] & newest[b]) for a, b in pairs])
        length = np.mean([len(own) for own in newest.values()])
        assert found.between_people == pytest.approx(shared / length)


@given(
    st.dictionaries(st.integers(0, 200).map(str), st.sampled_from("abcdefgh"), max_size=60),
    st.integers(1, 12),
)
def test_nobody_is_singled_out(values: dict[str, str], least: int) -> None:
    groups, merged, not_told = exposure.form_groups(values, least)
    told = [person for own in groups.values() for person in own]
    assert len(set(told)) == len(told)
    assert all(len(own) >= least for own in groups.values())
    # Whoever takes all that is told from the whole finds nobody, or enough to hide among.
    assert len(told) + not_told == len(values)
    assert not_told == 0 or not groups
    assert merged <= len(set(values.values()))


@given(st.integers(0, 10_000), st.lists(st.integers(0, 3000), max_size=20))
def test_a_sample_is_shared_out_evenly(most: int, sizes: list[int]) -> None:
    given_out = share_out(most, sizes)
    assert all(0 <= taken <= size for taken, size in zip(given_out, sizes, strict=True))
    assert sum(given_out) <= most
    left = min(most, sum(sizes)) - sum(given_out)
    assert 0 <= left < max(1, len(sizes))
    cut = [taken for taken, size in zip(given_out, sizes, strict=True) if taken < size]
    if cut:
        assert max(given_out) - min(cut) <= 1


hostile = st.binary(max_size=200) | st.text(max_size=100).map(
    lambda text: text.encode(errors="surrogatepass")
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(hostile, st.text(max_size=60), st.sampled_from(["clicks", "items", "people", "x", ""]))
def test_any_letter_is_told_shown_and_refused_by_name(raw: bytes, reason: str, topic: str) -> None:
    letter = DeadLetter(
        raw=raw, topic=topic, partition=0, offset=0, reason=reason, refused_time=NOW_MS
    )
    group = refusals.group_of(letter)
    assert refusals.find_remedy(group)
    assert dead_letters.show_text(raw).isprintable() or "\n" in dead_letters.show_text(raw)
    assert dead_letters.dump_hex(raw).isascii()
    text, why_not = dead_letters.find_editable(letter)
    assert bool(text) != bool(why_not)
    if text:
        rules, is_taken = dead_letters.suggest_rules(letter, text, CHECKER)
        if is_taken:
            CHECKER.check(letter, dead_letters.apply_rules(letter, text, rules))


NAME, END = "Quillfeather", st.sampled_from(["", ": ", "'", '"', "://a:b@"])
names = st.builds("{}{}{}{}".format, st.text(max_size=90), END, st.just(NAME), END)


def read_message(topic: str, raw: bytes) -> None:
    kinds: dict[str, type[msgspec.Struct]] = {"people": PersonAttributes, "items": Item}
    if topic in kinds:
        decode(kinds[topic], raw)
    else:
        EventReader(EventSettings(), clock=lambda: NOW_MS).read(topic, raw, NOW_MS)


@given(
    names,
    st.sampled_from(["clicks", "purchases", "people", "items"]),
    st.sampled_from(["user_id", "timestamp", "context", "attributes", "item_id", "price", "other"]),
    st.sampled_from(["value", "list", "key", "null", "broken"]),
)
def test_no_reason_names_a_person_where_people_are_masked(
    name: str, topic: str, field: str, how: str
) -> None:
    """Whatever a message that names them is refused for."""
    held = {"value": name, "list": [1, name], "key": {name: float("nan")}, "null": None}.get(how, 1)
    said = {"event_id": "e", "user_id": name, "item_id": "i", "timestamp": NOW_MS, field: held}
    raw = json.dumps(said).encode()[: -1 if how == "broken" else None]
    try:
        read_message(topic, raw)
    except EventError as error:
        letter = DeadLetter(
            raw=raw, topic=topic, partition=0, offset=0, reason=str(error), refused_time=NOW_MS
        )
        hidden = refusals.group_of(letter).hide()
        assert NAME.casefold() not in f"{hidden.field} {hidden.expected}".casefold()


FIELDS = st.sampled_from(["user_id", "a", "a.b", "timestamp"])
any_rule = st.one_of(
    st.builds(quality.RenameField, FIELDS, FIELDS),
    st.builds(quality.RemoveField, FIELDS),
    st.builds(quality.ScaleField, FIELDS, st.floats(1e-9, 1e12)),
    st.builds(quality.RetypeField, FIELDS, st.sampled_from(["text", "number"])),
    st.builds(quality.ReadTimeField, FIELDS, st.sampled_from(["", "UTC", "Mars"])),
    st.builds(quality.ArrivalTimeField, FIELDS),
)


@settings(max_examples=300)
@given(
    st.dictionaries(FIELDS.filter(lambda name: "." not in name), json_values, max_size=4),
    st.lists(any_rule, max_size=4),
)
def test_rules_end_in_json_or_in_a_refusal(
    document: dict[str, object], rules: list[quality.CorrectionRule]
) -> None:
    letter = DeadLetter(raw=b"", topic="clicks", partition=0, offset=0, reason="", refused_time=5)
    text = json.dumps(document)
    with suppress(EventError):
        made = dead_letters.apply_rules(letter, text, rules)
        assert isinstance(read_json(made, dict), dict)


@given(st.text(max_size=40))
def test_any_id_has_a_shape_and_spellings_that_agree(name: str) -> None:
    plain = event_checks.normalise_id(name)
    assert event_checks.normalise_id(f" {name}\u200b") == plain
    assert len(event_checks.shape_of(name)) <= 40
    assert "blanks" in {fault.name for fault in event_checks.find_faults(f"{name}\u200b")}
