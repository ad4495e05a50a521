"""What an operation is called with, and what the operations use."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from features.columns import AttributeValue
from features.placements import PlacementTable
from features.schema import FeatureSchema
from features.topics import Hash
from stream.api.answers import Answerer
from stream.api.intake import EventIntake, EventPublisher
from stream.api.keys import ApiKey
from stream.filtering import FilterableItems
from stream.recommender import Recommender
from stream.routing import Routes
from stream.row_updates import RowReader
from stream.shown import ShownItems
from stream.together import TogetherTables
from stream.trials import PlacementTrials


@dataclass(frozen=True)
class ApiCall:
    """A request that was admitted and read.

    Attributes:
        key: whose it is.
        raw: the bytes of its body.
        body, query: as the operation's structs; None where it has none.
        path: the parts of the path that have names.
        headers: by their names in lower case.
    """

    key: ApiKey
    raw: bytes
    body: Any
    query: Any
    path: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ApiParts:
    """What the operations use.

    Attributes:
        items: what filters are evaluated over.
        read_attributes: what an app knows of a person.
        placements: those that count.
        shown: what people were shown.
        together: what versions have seen taken together.
        trials: of placements.
        sources: what rows call each partition of the log, by topic and number.
        top_k: items of a list that says no limit.
        deadline_s: how long an answer waits for what it could do without.
    """

    answerer: Answerer
    recommender: Recommender
    items: FilterableItems
    placements: PlacementTable
    shown: ShownItems
    together: TogetherTables
    trials: PlacementTrials
    rows: RowReader
    routes: Routes
    schema: FeatureSchema
    intake: EventIntake
    publisher: EventPublisher
    read_attributes: Callable[[str], Awaitable[Mapping[str, AttributeValue]]]
    sources: Mapping[tuple[str, int], Hash]
    top_k: int
    deadline_s: float


class Operations:
    """Some of the operations."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
