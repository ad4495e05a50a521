"""The text for terms and conditions is made of the settings and the rules, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from headwater_client.contract import Fallback, PlacementAnswer, PlacementRules
from headwater_client.rules import AtMost, Boost, Diversity, Exploration, Pin, Promotion

from deploy.console import article27
from deploy.console.article27 import DisclosureFacts, describe_system
from deploy.console.fairness import read_version_facts
from deploy.settings import Settings
from features.settings import FeatureSettings
from stream.settings import ApiSettings

EVERYTHING = PlacementRules(
    filter="segment.vip && item.price < 9",
    boosts=[Boost(filter="item.brand == 'own'", factor=2.5), Boost(filter="true", factor=0.5)],
    pins=[Pin(item_id="i1", place=3)],
    at_most=[AtMost(by="brand", items=2, places=10), AtMost(by="category", items=1)],
    diversity=Diversity(strength=0.3),
    exploration=Exploration(share=0.1, filter="item.price < 5"),
    promotions=[
        Promotion(filter="item.price > 1", every=5, label="Ad"),
        Promotion(filter="true", every=9),
    ],
    fallback=Fallback.NOTHING,
)


def facts_of(reasons: dict[str, float] | None = None, **settings: Any) -> DisclosureFacts:
    segments = {"vip": "person.spent > 100", "young": "person.age < 20"}
    return DisclosureFacts(Settings(**settings), None, reasons or {}, segments)


def parameters_of(facts: DisclosureFacts, rules: PlacementRules | None = None) -> dict[str, str]:
    placed = rules and PlacementAnswer(name="home", revision=7, placement=rules)
    system = describe_system(placed, facts)
    return {
        each.name: f"{each.explanation} {each.importance} {each.measured}"
        for each in system.parameters
    }


def test_each_rule_of_a_placement_is_told() -> None:
    told = parameters_of(facts_of(), EVERYTHING)
    placed = PlacementAnswer(name="home", revision=7, placement=EVERYTHING)
    text = "\n".join(each.explanation for each in describe_system(placed, facts_of()).parameters)
    for said in (
        "segment.vip && item.price < 9",
        "2.5 times as likely: item.brand == 'own'",
        "i1 at place 3",
        "At most 2 of one brand in the first 10 places",
        "At most 1 of one category in a list",
        "strength of 0.3",
        "10% of the places try out items, chosen by chance: item.price < 5",
        "every 5 places, marked 'Ad'",
        "every 9 places, without a mark",
        "Then nothing is shown",
    ):
        assert said in text, said
    # By the segment that the filter names, and by no other.
    assert "ask for: spent." in told["What the service knows of you"]
    plain = parameters_of(facts_of())
    assert not {"What the service knows of you", "Promoted items", "Variety"} & set(plain)
    assert "what is popular now is shown" in plain["When the model does not answer"]


def test_what_was_measured_to_weigh_most_stands_first() -> None:
    by_history = parameters_of(facts_of({"history": 0.7, "trending": 0.2, "popular": 0.1}))
    assert next(iter(by_history)) == "What you have done here"
    assert "70% of the places" in by_history["What you have done here"]
    assert "30% of the places" in by_history["What is popular now"]
    by_trends = parameters_of(facts_of({"history": 0.3, "trending": 0.7}))
    assert next(iter(by_trends)) == "What is popular now"
    unknown = parameters_of(facts_of())
    assert "of the places" not in unknown["What you have done here"]


def test_the_settings_are_told_as_they_are() -> None:
    features = FeatureSettings(
        history_length=17,
        user_half_lives_ms=(3_600_000,),
        item_half_lives_ms=(7_200_000,),
        trending_half_life_ms=7_200_000,
        seen_by=frozenset(),
        purchase_weight=5,
    )
    told = parameters_of(facts_of(features=features))
    assert "Your newest 17 actions" in told["What you have done here"]
    assert "after 1 hour." in told["What you have done here"]
    assert "after 2 hours; a purchase counts 5" in told["What is popular now"]
    assert "already" not in told["What is left out"]
    assert "already: click, purchase" in parameters_of(facts_of())["What is left out"]


def test_options_are_those_that_the_settings_leave() -> None:
    names = [each.name for each in describe_system(None, facts_of()).options]
    assert "See something else" in names
    off = describe_system(None, facts_of(api=ApiSettings(shown_items=0)))
    assert "See something else" not in [each.name for each in off.options]
    assert all(each.how for each in off.options)
    assert "not based on your profile" in names[0]


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"created_ms": "x"}', b"[]"])
def test_a_version_that_says_nothing_is_told_by_its_number(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    facts = read_version_facts(3, str(tmp_path), 20)
    assert (facts.version, facts.items, facts.trained_until) == (3, 20, None)
    told = b'{"created_ms": 5, "trained_until_ms": 4, "parent": 2, "windows": [1], "more": {}}'
    (tmp_path / "manifest.json").write_bytes(told)
    facts = read_version_facts(3, f"{tmp_path}/", 20)
    assert (facts.created_time, facts.trained_until, facts.parent) == (5, 4, 2)


def test_every_demand_says_who_meets_it() -> None:
    articles = [each.article for each in article27.DEMANDS]
    assert articles[:2] == ["27(1)", "27(1)"]
    assert {"27(2)", "27(2)(a)", "27(2)(b)", "27(3)", "38", "19"} <= set(articles)
    assert all(each.met_by.startswith(("here", "the provider")) for each in article27.DEMANDS)
