"""The registry of event types: all that Headwater knows of a type stands in its one entry.

Topics, decoders, counters, weights, columns of the feature store, the AsyncAPI document and the
names of the data mapping are derived from `EVENT_TYPES`. A type is added before the first settings
are read and the first topic is opened:

>>> registry = EventRegistry(CLICK, PURCHASE)
>>> class Wish(Interaction, frozen=True, kw_only=True, omit_defaults=True):
...     '''A person put an item on the wish list.'''
>>> spec = EventSpec("wish", Wish, "wishes", code=101, weight=2.0, counts_as="click")
>>> registry.register(spec).topic
'wishes'
>>> registry.topics
('clicks', 'purchases', 'wishes')

A type either has counters of its own in each person's row, which rows and model versions of before
do not have, or it says what it says by counters that are there: then both stay as they are
(docs/decisions/0028-what-an-event-says.md).

Types of a shop's own are named in the settings, and need no code:

>>> registry.set_own([OwnEventType("compare", weight=0.5)])
>>> registry["compare"].struct.__name__
'OwnCompare'
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from zlib import crc32

import msgspec
from msgspec import Meta

from headwater_client import actions, topics
from headwater_client.errors import SettingsError
from headwater_client.events import MAX_ID, Click, Interaction, Purchase

PADDING_CODE = 0
"""What the model reads where nothing happened; no type has it."""

FIRST_CODE_OUTSIDE_ROWS = 101
"""Types without counters of their own are numbered from here: no row and no model knows them."""

FIRST_OWN_CODE = 1 << 32
"""Types of the settings are numbered from here, by their names alone."""

EXTRA_FIELDS = ("value", "seconds", "length_seconds", "taken_time")
"""What a type may say beside the fields of `Interaction`; windows have a column for each."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,200}")
_OTHER_TOPICS = frozenset(
    {
        topics.ITEMS,
        topics.PEOPLE,
        topics.IDENTITIES,
        topics.RECOMMENDATIONS,
        topics.SERVED,
        topics.DEAD_LETTERS,
        topics.PLACEMENTS,
        topics.ROLLOUTS,
        topics.ROLLOUT_COMMANDS,
    }
)


@dataclass(frozen=True)
class EventSpec:
    """A type of event.

    Attributes:
        name: what settings, data mappings and `EventProducer.send_interaction` call it.
        struct: what its messages are; a class of its own.
        topic: where they are sent, with the user_id as key.
        code: names it wherever types are compared. A type with counters of its own has the code
            that rows store and the model reads: these are numbered from 1 without gaps; all others
            from `FIRST_CODE_OUTSIDE_ROWS`. In the order in which they were added, and a number
            never changes its meaning.
        weight: what one event adds to popularity and to a person's categories, by default.
        reward: what it earns the recommendation that led to it, by default.
        marks_seen: whether the item is not recommended to this person again, by default.
        negative: it speaks against the item, which this person is not recommended any more; it
            counts nothing.
        counts_as: the type in whose counters and for which it stands in a person's row.
        takes_back: the type of which it takes an event back.
        about_list: it is about a list, or about nothing, and no item: rows do not know of it.
        strength: what of a whole event one is, from 0 to 1; below 0 it speaks against the item.
    """

    name: str
    struct: type[Interaction]
    topic: str
    code: int
    weight: float = 1.0
    reward: float = 0.0
    marks_seen: bool = False
    negative: bool = False
    counts_as: str = ""
    takes_back: str = ""
    about_list: bool = False
    strength: Callable[[Any], float] | None = None

    @property
    def has_counters(self) -> bool:
        """Whether a person's row has counters of this very type."""
        return not (self.negative or self.counts_as or self.takes_back or self.about_list)

    @property
    def counts_for_items(self) -> bool:
        """Whether it changes what is popular."""
        return not (self.negative or self.about_list)

    def measure_strength(self, event: Interaction) -> float:
        """What of a whole event this one is; below 0 where it adds nothing of its own."""
        if not self.has_counters and not self.counts_as:
            return -1.0
        return 1.0 if self.strength is None else self.strength(event)


@dataclass(frozen=True)
class OwnEventType:
    """A type of event that the settings name. It uses the counters that rows have.

    Its code is made of its name (CRC-32): the same whatever other types there are, come or go. No
    row holds it: a row holds what the type counts as, and a window the names of type and topic.

    Attributes:
        topic: where it is sent; "": as its name.
        weight: what one event adds to popularity and to a person's categories.
        reward: what it earns the recommendation that led to it.
        counts_as: the type in whose counters and for which it stands in a person's row; "": a
            click, where it takes an item and does not speak against it.
        negative: it speaks against the item: that is not shown to the person again.
        takes_item: whether it is about an item; else rows do not know of it.
    """

    name: str
    topic: str = ""
    weight: float = 1.0
    reward: float = 0.0
    counts_as: str = ""
    negative: bool = False
    takes_item: bool = True

    def make_spec(self) -> EventSpec:
        """The type as the registry has it.

        Raises:
            SettingsError: it says what cannot be together.
        """
        stands_in_rows = self.takes_item and not self.negative
        if self.counts_as and not stands_in_rows:
            why = "negative" if self.negative else "without an item"
            raise SettingsError(f"event type {self.name!r}: is {why}: leave counts_as out")
        if self.negative and not self.takes_item:
            raise SettingsError(
                f"event type {self.name!r}: negative and without an item: against what?"
            )
        return EventSpec(
            self.name,
            _make_struct(self.name, takes_item=self.takes_item),
            self.topic or self.name,
            FIRST_OWN_CODE + crc32(self.name.encode()),
            weight=self.weight,
            reward=self.reward,
            negative=self.negative,
            counts_as=(self.counts_as or "click") if stands_in_rows else "",
            about_list=not self.takes_item,
        )


def _make_struct(name: str, *, takes_item: bool) -> type[Interaction]:
    """A class of messages that has the fields of all types."""
    words = "".join(part.capitalize() for part in name.split("_"))
    no_item = ("item_id", Annotated[str, Meta(max_length=MAX_ID)], "")
    struct: Any = msgspec.defstruct(
        f"Own{words}",
        [] if takes_item else [no_item],
        bases=(Interaction,),
        module=__name__,
        namespace={"__doc__": f"A person did what this shop calls {name}."},
        frozen=True,
        kw_only=True,
        omit_defaults=True,
    )
    return struct  # type: ignore[no-any-return]


class EventRegistry(Mapping[str, EventSpec]):
    """Event types by name, in the order of their codes."""

    def __init__(self, *specs: EventSpec) -> None:
        self._by_name: dict[str, EventSpec] = {}
        self._by_topic: dict[str, EventSpec] = {}
        self._by_struct: dict[type[Interaction], EventSpec] = {}
        self._own: dict[str, OwnEventType] = {}
        for spec in specs:
            self.register(spec)

    def __getitem__(self, name: str) -> EventSpec:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def register(self, spec: EventSpec) -> EventSpec:
        """Add a type.

        Raises:
            SettingsError: its name, topic, struct or code is taken or not valid.
        """
        if problem := self._problem(spec):
            raise SettingsError(f"event type {spec.name!r}: {problem}")
        self._by_name[spec.name] = spec
        self._by_topic[spec.topic] = spec
        self._by_struct[spec.struct] = spec
        return spec

    def set_own(self, types: Iterable[OwnEventType]) -> None:
        """Have these types of the settings, and of those of before no others.

        Raises:
            SettingsError: one of them cannot be; then it and what comes after it are not there.
        """
        own = list(types)
        for kind in [kind for kind in self._own.values() if kind not in own]:
            spec = self._by_name.pop(kind.name)
            del self._by_topic[spec.topic], self._by_struct[spec.struct], self._own[kind.name]
        for kind in own:
            if own.count(kind) > 1:
                raise SettingsError(f"event type {kind.name!r}: stands there twice")
            if self._own.get(kind.name) != kind:
                self.register(kind.make_spec())
                self._own[kind.name] = kind

    def _next_code(self, spec: EventSpec) -> int:
        """The code that a type must have; one of the settings has that of its name."""
        if spec.code >= FIRST_OWN_CODE:
            return spec.code
        others = [each for each in self.values() if each.code < FIRST_OWN_CODE]
        alike = sum(each.has_counters == spec.has_counters for each in others)
        return alike + (1 if spec.has_counters else FIRST_CODE_OUTSIDE_ROWS)

    def _problem(self, spec: EventSpec) -> str:
        """Why a type cannot be added; "" if it can."""
        next_code = self._next_code(spec)
        struct, fields = spec.struct.__name__, set(spec.struct.__struct_fields__)
        codes = {each.code: each.name for each in self.values()}
        names = {each.__name__ for each in self._by_struct}
        counted = [each.name for each in self.with_counters]
        others = {spec.counts_as, spec.takes_back} - {"", *self}
        checks = {
            "expected a name of lower-case letters, digits and _": _NAME.fullmatch(spec.name),
            "the name is taken": spec.name not in self._by_name and spec.name != "skip",
            f"topic {spec.topic!r}: expected a name that Kafka accepts": _TOPIC.fullmatch(
                spec.topic
            ),
            f"topic {spec.topic!r} is taken": spec.topic not in {*self._by_topic, *_OTHER_TOPICS},
            f"{struct} is the struct of another type": spec.struct
            not in {*self._by_struct, Interaction},
            "a name that differs from another type's by _ alone": struct not in names,
            f"{struct} has fields of its own, which windows would lose: use context": (
                fields - set(EXTRA_FIELDS) == set(Interaction.__struct_fields__)
            ),
            f"counts_as or takes_back: no such type: {', '.join(others)}": not others,
            f"counts_as {spec.counts_as}: expected one of {', '.join(counted)}": (
                spec.counts_as in {"", *counted}
            ),
            f"code {spec.code}: expected {next_code}, the next free one": spec.code == next_code,
            f"has the code of {codes.get(spec.code)}: choose another name": spec.code not in codes,
            f"weight {spec.weight}: expected 0 or more": spec.weight >= 0,
        }
        return next((problem for problem, holds in checks.items() if not holds), "")

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that change rows. They have as many partitions and the same key.

        So that one worker gets a person's partition of each of them.
        """
        return tuple(spec.topic for spec in self._by_topic.values() if not spec.about_list)

    @property
    def all_topics(self) -> tuple[str, ...]:
        """The topics of all types, those about lists too."""
        return tuple(self._by_topic)

    @property
    def item_topics(self) -> tuple[str, ...]:
        """The topics whose events change what is popular: rows of items have columns for them."""
        return tuple(spec.topic for spec in self._by_topic.values() if spec.counts_for_items)

    @property
    def with_counters(self) -> tuple[EventSpec, ...]:
        """The types of which a person's row has counters, in the order of their codes: 1, 2, ..."""
        return tuple(spec for spec in self.values() if spec.has_counters)

    def spec_of_topic(self, topic: str) -> EventSpec:
        """The type whose events are on a topic.

        Raises:
            KeyError: it is no topic of events.
        """
        return self._by_topic[topic]

    def spec_of(self, event: Interaction) -> EventSpec:
        """The type of an event.

        Raises:
            SettingsError: its struct is not registered; it is not taken for another type.
        """
        try:
            return self._by_struct[type(event)]
        except KeyError:
            raise SettingsError(
                f"{type(event).__name__} is no registered event type: EVENT_TYPES.register"
            ) from None


CLICK = EventSpec("click", Click, "clicks", 1, weight=1.0, reward=1.0, marks_seen=True)
PURCHASE = EventSpec("purchase", Purchase, "purchases", 2, weight=3.0, reward=1.0, marks_seen=True)

EVENT_TYPES = EventRegistry(
    CLICK,
    PURCHASE,
    EventSpec(
        "add_to_cart", actions.AddToCart, "carts", 101, weight=2.0, reward=1.0, counts_as="click"
    ),
    EventSpec(
        "rating",
        actions.Rating,
        "ratings",
        102,
        weight=2.0,
        counts_as="click",
        strength=actions.rate_strength,
    ),
    EventSpec(
        "play",
        actions.Play,
        "plays",
        103,
        weight=2.0,
        reward=1.0,
        counts_as="click",
        strength=actions.play_strength,
    ),
    EventSpec("dislike", actions.Dislike, "dislikes", 104, negative=True),
    EventSpec("hide", actions.Hide, "hides", 105, negative=True),
    EventSpec(
        "remove_from_cart", actions.RemoveFromCart, "removals", 106, takes_back="add_to_cart"
    ),
    EventSpec("return", actions.Return, "returns", 107, takes_back="purchase"),
    EventSpec("impression", actions.Impression, "impressions", 108, about_list=True),
)
"""The types that this process knows."""
