"""What an operation is called with, and what the operations use."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from headwater_client import contract

from features.columns import AttributeValue
from features.placements import PlacementTable
from features.schema import FeatureSchema
from features.topics import Hash
from stream.api.answers import Answerer
from stream.api.intake import EventIntake, EventPublisher
from stream.api.keys import ApiKey
from stream.filtering import FilterableItems
from stream.placement_follower import PlacementFollower
from stream.recommender import Recommender
from stream.routing import Routes
from stream.row_updates import RowReader
from stream.segment_rates import SegmentRates
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


class TrialDesk(Protocol):
    """Hands what is asked of a placement's trial to the controller, and reads how it stands.

    `key` names the API key of who asks.

    Raises:
        RequestError: the controller refuses.
        ServerError: Kafka or the controller does not answer.
    """

    async def begin(
        self, placement: str, query: contract.TrialQuery, key: str
    ) -> contract.TrialAnswer:
        """Try other rules out."""

    async def steer(
        self,
        placement: str,
        action: contract.TrialAction,
        query: contract.SteeringQuery,
        key: str,
    ) -> contract.TrialAnswer:
        """Promote, roll back, pause or resume the trial that is under way."""

    async def read(self, placement: str) -> contract.TrialsAnswer:
        """The trials of a placement, newest first."""


@dataclass(frozen=True)
class ApiParts:
    """What the operations use.

    Attributes:
        items: what filters are evaluated over.
        read_attributes: what an app knows of a person.
        placements: those that count.
        placement_log: how they are changed.
        segment_rates: what is popular with the people of a segment.
        shown: what people were shown.
        together: what versions have seen taken together.
        trials: of placements.
        trial_desk: begins and steers them.
        read_retention: how long topics keep a message, as of
            `features.kafka.topics.read_retention`.
        sources: what rows call each partition of the log, by topic and number.
        top_k: items of a list that says no limit.
        deadline_s: how long an answer waits for what it could do without.
    """

    answerer: Answerer
    recommender: Recommender
    items: FilterableItems
    placements: PlacementTable
    placement_log: PlacementFollower
    segment_rates: SegmentRates
    shown: ShownItems
    together: TogetherTables
    trials: PlacementTrials
    trial_desk: TrialDesk
    rows: RowReader
    routes: Routes
    schema: FeatureSchema
    intake: EventIntake
    publisher: EventPublisher
    read_attributes: Callable[[str], Awaitable[Mapping[str, AttributeValue]]]
    read_retention: Callable[[Collection[str]], Mapping[str, int]]
    sources: Mapping[tuple[str, int], Hash]
    top_k: int
    deadline_s: float


class Operations:
    """Some of the operations."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
