"""The text that Article 27 of Regulation (EU) 2022/2065 (Digital Services Act) asks for.

Its paragraph 1 asks providers of online platforms to set out, in their terms and conditions, the
main parameters of their recommender systems and the options of recipients to change them; paragraph
2 for the most significant criteria and the reasons for their relative importance; paragraph 3 for a
way to choose between options, right where the lists are. What the system knows of itself is said
here, from the settings, the placements' rules and the live version; what only the provider can say
is named, and never made up. It is no legal advice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from headwater_client import EVENT_TYPES
from headwater_client.admin.fairness import (
    DisclosurePart,
    LiveVersionFacts,
    MainParameter,
    RecipientOption,
    SystemDescription,
)
from headwater_client.contract import Fallback, PlacementAnswer, PlacementRules
from headwater_client.rules import ListRules, Objective

from deploy.settings import Settings
from features.rules.compiler import PERSON, SEGMENT
from features.rules.errors import RuleError
from features.rules.filters import compile_filter
from features.rules.plans import find_conditions
from features.settings import DAY_MS, HOUR_MS

BY_PROVIDER = "The provider has set this."
_LEARNED = (
    "How much it weighs was learned, not set: it is the weight by which the next item that people "
    "took was predicted best, on actions that the model had not seen."
)


@dataclass(frozen=True)
class DisclosureFacts:
    """What the text is made of.

    Attributes:
        version: the one that answers; None where none does.
        reasons: by reason, its share of the places of lists; nothing where no list was seen.
        segments: their conditions, by name.
    """

    settings: Settings
    version: LiveVersionFacts | None
    reasons: Mapping[str, float]
    segments: Mapping[str, str]


DEMANDS = (
    DisclosurePart(
        article="27(1)",
        demand="the main parameters of the recommender systems, in the terms and conditions, in "
        "plain and intelligible language",
        met_by="here: the parameters of each system; the provider puts them into its terms",
    ),
    DisclosurePart(
        article="27(1)",
        demand="any options for recipients to modify or influence these parameters",
        met_by="here: the options of each system, as far as the provider's interface offers them",
    ),
    DisclosurePart(
        article="27(2)",
        demand="why certain information is suggested to the recipient",
        met_by="here: the explanation of each parameter; each item of a list names its reason",
    ),
    DisclosurePart(
        article="27(2)(a)",
        demand="the criteria that are most significant in determining what is suggested",
        met_by="here: what was measured to decide most places stands first",
    ),
    DisclosurePart(
        article="27(2)(b)",
        demand="the reasons for the relative importance of these parameters",
        met_by="here: the importance of each parameter",
    ),
    DisclosurePart(
        article="27(3)",
        demand="where there are several options: a functionality to select and to modify the "
        "preferred one at any time, directly and easily accessible from where the lists are",
        met_by="the provider: its interface; each option says how Headwater answers it",
    ),
    DisclosurePart(
        article="38",
        demand="of very large online platforms and search engines alone: at least one option for "
        "each recommender system that is not based on profiling",
        met_by="the provider offers it; Headwater answers it by lists of what is popular",
    ),
    DisclosurePart(
        article="19",
        demand="Article 27 is not for micro and small enterprises, unless they are very large "
        "online platforms",
        met_by="the provider: whether it is one",
    ),
)

TO_COMPLETE = (
    "who the provider is, and where its terms and conditions stand",
    "where in the interface each option is found, beside each list (Article 27(3))",
    "which of the options the interface offers: those that it does not are to be taken out",
    "in words of the service, what the rules that are quoted as expressions mean",
    "whether anybody pays for a promoted or pinned item: it is an advertisement then (Article 26)",
    "the languages of the terms and conditions",
)


_OBJECTIVES = {
    Objective.PURCHASES: "Items that are bought more often, of all the times that they are taken, "
    "come first.",
    Objective.REVENUE: "Items that are bought more often, of all the times that they are taken, "
    "and dearer items come first.",
}


def describe_system(placement: PlacementAnswer | None, facts: DisclosureFacts) -> SystemDescription:
    """One recommender system in plain words, what decides most first.

    Args:
        placement: None: lists that were asked for without one.
    """
    rules = placement.placement if placement else PlacementRules()
    parameters = [
        *_describe_signals(facts),
        *_describe_rules(rules),
        *_describe_people(rules, facts),
    ]
    parameters.append(_describe_fallback(rules))
    return SystemDescription(
        placement=placement.name if placement else "",
        revision=placement.revision if placement else None,
        parameters=parameters,
        options=list(_list_options(facts)),
    )


def _describe_signals(facts: DisclosureFacts) -> Iterator[MainParameter]:
    history = MainParameter(
        name="What you have done here",
        explanation=_explain_history(facts.settings),
        importance="What somebody did a moment ago says most about what they want next, and "
        f"repeated and recent actions say more than single and old ones. {_LEARNED}",
        measured=_measure(facts.reasons, "history"),
    )
    trends = MainParameter(
        name="What is popular now",
        explanation=_explain_trends(facts.settings),
        importance="Where little is known of somebody, what many take is the best guess, and it "
        f"shows what is new. {_LEARNED}",
        measured=_measure(facts.reasons, "trending", "popular"),
    )
    weight = {
        "history": facts.reasons.get("history", 0.0),
        "trends": sum(facts.reasons.get(name, 0.0) for name in ("trending", "popular")),
    }
    yield from (trends, history) if weight["trends"] > weight["history"] else (history, trends)
    yield MainParameter(
        name="What people take together",
        explanation="Items that others took in the same visits as the items that you took.",
        importance=f"It finds what goes with an item, however it is described. {_LEARNED}",
    )
    yield MainParameter(
        name="What an item is",
        explanation="Its title, description, category and brand, as a language model reads them: "
        "items that are described alike are suggested to people who took the like. So an item can "
        "be suggested before anybody has taken it.",
        importance="It weighs most for items that are new, and less the more is known of who takes "
        f"them. {_LEARNED}",
    )
    yield MainParameter(
        name="When you ask",
        explanation="The time since each of your actions, the hour and the day of the week.",
        importance=f"The same person looks for other things at other times. {_LEARNED}",
    )
    yield MainParameter(
        name="What is left out",
        explanation=_explain_left_out(facts.settings),
        importance="It stands above all other parameters: what is left out has no place at all.",
    )


def _explain_history(settings: Settings) -> str:
    features = settings.features
    types = ", ".join(
        name.replace("_", " ")
        for name, spec in EVENT_TYPES.items()
        if not (spec.negative or spec.about_list or spec.takes_back)
    )
    lives = ", ".join(map(describe_span, features.user_half_lives_ms))
    return (
        f"Your newest {features.history_length} actions ({types}): which items, when, and in which "
        f"order; and how often you did each, counted so that half of an action is left after "
        f"{lives}. What you take back, such as an item from the cart, does not count. Prices, "
        "quantities and what the request says of your device or place are not read by the model."
    )


def _explain_trends(settings: Settings) -> str:
    features = settings.features
    return (
        "How often all people together have taken an item lately: half of an action is left after "
        f"{describe_span(features.trending_half_life_ms)}; a purchase counts "
        f"{features.purchase_weight:g}, a click {features.click_weight:g}."
    )


def _explain_left_out(settings: Settings) -> str:
    parts = ["items that are not available", "items that you disliked or hid"]
    if seen := sorted(settings.features.seen_by):
        words = ", ".join(name.replace("_", " ") for name in seen)
        parts.append(f"items of which you have done one of these already: {words}")
    return f"Never suggested are {'; '.join(parts)}."


def _measure(reasons: Mapping[str, float], *names: str) -> str:
    if not reasons:
        return ""
    share = sum(reasons.get(name, 0.0) for name in names)
    return f"It is the reason of {share:.0%} of the places in the lists that were looked at."


def _describe_rules(rules: ListRules) -> Iterator[MainParameter]:
    """What the provider has set for a place, in plain words, and each expression as it stands."""
    if isinstance(rules, PlacementRules) and rules.filter:
        yield _rule("Which items may be shown", f"Only items of which this is true: {rules.filter}")
    if rules.objective in _OBJECTIVES:
        yield _rule("What the list is to earn", _OBJECTIVES[rules.objective])
    for boost in rules.boosts:
        side = "more" if boost.factor > 1 else "less"
        yield _rule(
            f"Items that are shown {side}",
            f"Items of which this is true count {boost.factor:g} times as likely: {boost.filter}",
        )
    if rules.pins:
        places = ", ".join(f"{pin.item_id} at place {pin.place}" for pin in rules.pins)
        yield _rule(
            "Items with a place of their own", f"Whoever looks, these stand there: {places}"
        )
    for limit in rules.at_most:
        within = f"the first {limit.places} places" if limit.places else "a list"
        yield _rule(
            "At most so many alike", f"At most {limit.items} of one {limit.by} in {within}."
        )
    for promotion in rules.promotions:
        label = f"marked {promotion.label!r}" if promotion.label else "without a mark"
        yield _rule(
            "Promoted items",
            f"At least one of every {promotion.every} places, {label}, has an item of which this "
            f"is true: {promotion.filter}",
        )
    if rules.diversity:
        by = ", ".join(rules.diversity.by)
        yield _rule(
            "Variety",
            f"Items that are unlike those before them, by {by}, come first with a strength of "
            f"{rules.diversity.strength:g} (0: not at all, 1: that alone).",
        )
    if rules.exploration:
        which = rules.exploration.filter or "items that the model has not learned yet"
        yield _rule(
            "Places left to chance",
            f"{rules.exploration.share:.0%} of the places try out items, chosen by chance: {which}",
        )


def _rule(name: str, explanation: str) -> MainParameter:
    return MainParameter(name=name, explanation=explanation, importance=BY_PROVIDER)


def _describe_people(rules: ListRules, facts: DisclosureFacts) -> Iterator[MainParameter]:
    """What the rules ask of the person who looks: what an app has said of them."""
    names = sorted(set(_find_attributes([text for _, text in find_conditions(rules)], facts)))
    if names:
        yield _rule(
            "What the service knows of you",
            f"The rules above ask for: {', '.join(names)}. The model itself does not read it.",
        )


def _find_attributes(texts: Sequence[str], facts: DisclosureFacts) -> Iterator[str]:
    for text in texts:
        try:
            mentions = compile_filter(text).mentions
        except RuleError:
            # Of an older release: it is quoted, and what it asks for cannot be told.
            continue
        for mention in mentions:
            if mention.root == PERSON:
                yield mention.name
            elif mention.root == SEGMENT and mention.name in facts.segments:
                yield from _find_attributes([facts.segments[mention.name]], facts)


def _describe_fallback(rules: PlacementRules) -> MainParameter:
    shown = "nothing" if rules.fallback is Fallback.NOTHING else "what is popular now"
    return MainParameter(
        name="When the model does not answer",
        explanation=f"Then {shown} is shown in its place.",
        importance="A service that is late is worse than a list that knows nothing of you.",
    )


def _list_options(facts: DisclosureFacts) -> Iterator[RecipientOption]:
    yield RecipientOption(
        name="Lists that are not based on your profile",
        explanation="You are shown what is popular, and nothing that you did is used.",
        how="the provider asks GET /v1/popular, or POST /v1/recommendations without `person`",
    )
    negative = [name for name, spec in EVENT_TYPES.items() if spec.negative]
    yield RecipientOption(
        name="Say that you do not want an item",
        explanation="It is not suggested to you any more, at once.",
        how=f"the provider sends an event: {' or '.join(negative)}",
    )
    taking_back = [name for name, spec in EVENT_TYPES.items() if spec.takes_back]
    yield RecipientOption(
        name="Take an action back",
        explanation="It does not count any more for what you are suggested.",
        how=f"the provider sends an event: {' or '.join(taking_back)}",
    )
    if facts.settings.api.shown_items:
        span = describe_span(int(1000 * facts.settings.api.shown_for_s))
        yield RecipientOption(
            name="See something else",
            explanation=f"What you were shown in the last {span} is left out.",
            how="the provider asks with `exclude_shown`",
        )
    yield RecipientOption(
        name="Be forgotten",
        explanation="All that is known of you here is removed, and you are new from then on.",
        how="the provider asks DELETE /v1/people/PERSON; the answer is a receipt",
    )


def describe_span(span_ms: int) -> str:
    """A span of time in words.

    >>> [describe_span(each) for each in (3_600_000, 604_800_000, 90_000)]
    ['1 hour', '7 days', '1.5 minutes']
    """
    units = (("day", DAY_MS), ("hour", HOUR_MS), ("minute", 60_000))
    name, size = next((each for each in units if span_ms >= each[1]), ("minute", 60_000))
    number = span_ms / size
    return f"{number:g} {name}" + ("" if number == 1 else "s")
