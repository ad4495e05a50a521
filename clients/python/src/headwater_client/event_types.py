"""The registry of event types: all that Headwater knows of a type stands in its one entry.

Topics, decoders, counters, weights, columns of the feature store, the AsyncAPI document and the
names of the data mapping are derived from `EVENT_TYPES`. A type is added before the first settings
are read and the first topic is opened:

>>> registry = EventRegistry(CLICK, PURCHASE)
>>> class AddToCart(Interaction, frozen=True, kw_only=True, omit_defaults=True):
...     '''A person put an item into the cart.'''
>>> spec = EventSpec("add_to_cart", AddToCart, "carts", code=3, weight=2.0)
>>> registry.register(spec).topic
'carts'
>>> registry.topics
('clicks', 'purchases', 'carts')
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from headwater_client import topics
from headwater_client.errors import SettingsError
from headwater_client.events import Click, Interaction, Purchase

PADDING_CODE = 0
"""What the model reads where nothing happened; no type has it."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,200}")
_OTHER_TOPICS = frozenset(
    {
        topics.ITEMS,
        topics.RECOMMENDATIONS,
        topics.DEAD_LETTERS,
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
        code: what rows store and the model reads. Types are numbered from 1 without gaps, in the
            order in which they were added, and a number never changes its meaning.
        weight: what one event adds to popularity and to a person's categories, by default.
        reward: what it earns the recommendation that led to it, by default.
        marks_seen: whether the item is not recommended to this person again, by default.
        negative: whether it speaks against the item.
    """

    name: str
    struct: type[Interaction]
    topic: str
    code: int
    weight: float = 1.0
    reward: float = 0.0
    marks_seen: bool = False
    negative: bool = False


class EventRegistry(Mapping[str, EventSpec]):
    """Event types by name, in the order of their codes."""

    def __init__(self, *specs: EventSpec) -> None:
        self._by_name: dict[str, EventSpec] = {}
        self._by_topic: dict[str, EventSpec] = {}
        self._by_struct: dict[type[Interaction], EventSpec] = {}
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

    def _problem(self, spec: EventSpec) -> str:
        """Why a type cannot be added; "" if it can."""
        next_code = len(self) + 1
        struct = spec.struct.__name__
        checks = {
            "expected a name of lower-case letters, digits and _": _NAME.fullmatch(spec.name),
            "the name is taken": spec.name not in self._by_name and spec.name != "skip",
            f"topic {spec.topic!r}: expected a name that Kafka accepts": _TOPIC.fullmatch(
                spec.topic
            ),
            f"topic {spec.topic!r} is taken": spec.topic not in {*self._by_topic, *_OTHER_TOPICS},
            f"{struct} is the struct of another type": spec.struct
            not in {*self._by_struct, Interaction},
            f"{struct} has fields of its own, which windows would lose: use context": (
                set(spec.struct.__struct_fields__) == set(Interaction.__struct_fields__)
            ),
            f"code {spec.code}: expected {next_code}, the next free one": spec.code == next_code,
            f"weight {spec.weight}: expected 0 or more": spec.weight >= 0,
        }
        return next((problem for problem, holds in checks.items() if not holds), "")

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of all types. They have as many partitions and the same key.

        So that one worker gets a person's partition of each of them.
        """
        return tuple(self._by_topic)

    @property
    def codes(self) -> tuple[int, ...]:
        """The codes of all types: 1, 2, ..."""
        return tuple(spec.code for spec in self.values())

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

EVENT_TYPES = EventRegistry(CLICK, PURCHASE)
"""The types that this process knows."""
