"""Asks the HTTP API: by a client that waits for each answer, or by one for asyncio.

>>> from headwater_client.contract import RecommendationQuery
>>> def example() -> None:
...     with ApiClient("http://127.0.0.1:8080", key="hw_...") as api:
...         answer = api.recommend(RecommendationQuery(person="ann", limit=5))
...         print([item.item_id for item in answer.items])

Needs `pip install headwater-client[http]`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from headwater_client import contract
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import ProblemError, ServerError, SettingsError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Context, Interaction, Item, encode
from headwater_client.operations import OPERATIONS

try:
    import httpx
    from httpx_retries import Retry, RetryTransport
except ModuleNotFoundError as error:
    needed = "asking over HTTP needs httpx: pip install headwater-client[http]"
    raise ModuleNotFoundError(needed, name=error.name) from error

TIMEOUT_S = 10.0
TRIES = 4
LONGEST_WAIT_S = 30.0
_OF = {operation.name: operation for operation in OPERATIONS}
_SHOWN_CHARS = 200
AnswerT = TypeVar("AnswerT", bound=Struct)


def raw_event(event: Interaction) -> msgspec.Raw:
    """An event as queries of the API take it: with the name of its type.

    >>> from headwater_client import Click
    >>> bytes(raw_event(Click(event_id="e", user_id="ann", item_id="a", timestamp=10**12)))[:34]
    b'{"type":"click","event_id":"e","us'
    """
    fields = msgspec.structs.asdict(event)
    named = {"type": EVENT_TYPES.spec_of(event).name}
    return msgspec.Raw(encode(named | {name: at for name, at in fields.items() if at is not None}))


@dataclass(frozen=True)
class _ApiRequest(Generic[AnswerT]):
    """A request that is ready to be sent.

    Attributes:
        answer: what is answered with status 200.
    """

    method: str
    path: str
    answer: type[AnswerT]
    body: bytes | None = None
    params: Mapping[str, Any] | None = None

    def build(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        headers = {} if self.body is None else {"Content-Type": "application/json"}
        return client.build_request(
            self.method, self.path, content=self.body, params=self.params, headers=headers
        )

    def read(self, response: httpx.Response) -> AnswerT:
        """The answer.

        Raises:
            ProblemError: it is a problem.
            ServerError: it is no answer of Headwater's, but of a proxy's.
        """
        if response.status_code != 200:
            raise ProblemError(_read_problem(response))
        try:
            return read_json(response.content, self.answer)
        except DocumentError as error:
            what = f"{response.url}: answers what is no {self.answer.__name__}: {error}"
            raise ServerError(f"{what}: is this the address of a Headwater API?") from error


def _read_problem(response: httpx.Response) -> contract.Problem:
    """The problem of an answer; one that a proxy has made up may be any text."""
    try:
        return read_json(response.content, contract.Problem)
    except DocumentError:
        return contract.Problem(
            type="about:blank",
            title=response.reason_phrase,
            status=response.status_code,
            detail=response.text[:_SHOWN_CHARS],
        )


def _ask(
    name: str, answer: type[AnswerT], query: Struct | None = None, /, **path: str
) -> _ApiRequest[AnswerT]:
    """A request of an operation: its query as a body, or as a query string."""
    operation = _OF[name]
    where = operation.path.format_map({part: quote(value, "") for part, value in path.items()})
    given = {} if query is None else dict(_changes(query))
    if operation.method in ("GET", "DELETE"):
        return _ApiRequest(operation.method, where, answer, params=given)
    return _ApiRequest(operation.method, where, answer, encode(given))


def _changes(query: Struct) -> Iterator[tuple[str, Any]]:
    """The fields that are not as by default: an API of before a new field was does not know it."""
    for field in msgspec.structs.fields(query):
        made = field.default_factory
        default = field.default if made is msgspec.NODEFAULT else made()
        if (value := getattr(query, field.name)) != default:
            yield field.encode_name, value


def _send_events(events: Sequence[Interaction]) -> _ApiRequest[contract.EventsAnswer]:
    operation = _OF["send_events"]
    body = encode([raw_event(event) for event in events])
    return _ApiRequest(operation.method, operation.path, contract.EventsAnswer, body)


def _tell_attributes(person: str, attributes: Context) -> _ApiRequest[contract.AttributesAnswer]:
    query = contract.AttributesQuery(attributes=attributes)
    return _ask("put_attributes", contract.AttributesAnswer, query, person=person)


@dataclass(frozen=True)
class _Options:
    """How the API is reached; as `ApiClient` has it."""

    url: str
    key: str | None
    timeout_s: float
    tries: int

    def __post_init__(self) -> None:
        checks = {
            "url": (self.url, httpx.URL(self.url).scheme in ("http", "https"), "http://HOST:PORT"),
            "timeout_s": (self.timeout_s, self.timeout_s > 0, "more than 0 seconds"),
            "tries": (self.tries, self.tries >= 1, "1 or more"),
        }
        for name, (value, holds, expected) in checks.items():
            if not holds:
                raise SettingsError(f"{name}: {value!r}: expected {expected}")

    def arguments(self) -> dict[str, Any]:
        """What both of httpx's clients are made with."""
        retry = Retry(
            total=self.tries - 1,
            # What is sent again counts once: each event has its event_id.
            allowed_methods=sorted({operation.method for operation in OPERATIONS}),
            status_forcelist=(429, 503),
            backoff_factor=0.2,
            max_backoff_wait=LONGEST_WAIT_S,
        )
        return {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {self.key}"} if self.key else {},
            "timeout": self.timeout_s,
            "transport": RetryTransport(retry=retry),
        }

    def explain(self, error: httpx.TransportError) -> ServerError:
        """Why nothing was answered."""
        if isinstance(error, httpx.TimeoutException):
            what = f"no answer in {self.timeout_s:g} s ({type(error).__name__})"
        else:
            what = f"{error or type(error).__name__}: is `headwater api` running there?"
        return ServerError(f"{self.url}: {what}")


class ApiClient:
    """Asks the API, and waits for each answer; threads may share it.

    What the API is too busy for (429), or cannot do because a server is away (503), is asked again
    as `Retry-After` says, and so is what got no answer: an event counts once, by its `event_id`.

    Args:
        url: where the API is, such as http://127.0.0.1:8080.
        key: of `headwater keys add`; None: on the API's own machine, where it asks for none.
        timeout_s: how long one try may take to connect, and to be answered.
        tries: how often a request is sent, at most.

    Raises:
        SettingsError: of the constructor.
        ProblemError: of each method: the API refuses a request, and says why.
        ServerError: of each method: nothing answers.
    """

    def __init__(
        self, url: str, key: str | None = None, timeout_s: float = TIMEOUT_S, tries: int = TRIES
    ) -> None:
        self._options = _Options(url, key, timeout_s, tries)
        self._http = httpx.Client(**self._options.arguments())

    def send_events(self, events: Sequence[Interaction]) -> contract.EventsAnswer:
        """Send events; what became of each, in their order."""
        return self._take(_send_events(events))

    def recommend(self, query: contract.RecommendationQuery) -> contract.RecommendationAnswer:
        """The best items for a person."""
        return self._take(_ask("recommend", contract.RecommendationAnswer, query))

    def rank_items(self, query: contract.RankQuery) -> contract.RankAnswer:
        """A list of the caller's own, in order."""
        return self._take(_ask("rank_items", contract.RankAnswer, query))

    def find_similar(self, query: contract.SimilarQuery) -> contract.RecommendationAnswer:
        """What goes with items."""
        return self._take(_ask("find_similar", contract.RecommendationAnswer, query))

    def find_together(self, query: contract.TogetherQuery) -> contract.TogetherAnswer:
        """What people take together with items."""
        return self._take(_ask("find_together", contract.TogetherAnswer, query))

    def list_popular(self, query: contract.PopularQuery | None = None) -> contract.PopularAnswer:
        """What is popular now."""
        return self._take(
            _ask("list_popular", contract.PopularAnswer, query or contract.PopularQuery())
        )

    def describe_person(self, person: str) -> contract.PersonAnswer:
        """What is known of a person."""
        return self._take(_ask("describe_person", contract.PersonAnswer, person=person))

    def put_attributes(self, person: str, attributes: Context) -> contract.AttributesAnswer:
        """Say what is known of a person, whole: it replaces what was sent before."""
        return self._take(_tell_attributes(person, attributes))

    def merge_guest(self, guest: str, query: contract.MergeQuery) -> contract.MergeAnswer:
        """Say that a guest has become a member, for good."""
        return self._take(_ask("merge_guest", contract.MergeAnswer, query, guest=guest))

    def erase_person(self, person: str) -> contract.ErasureAnswer:
        """Forget a person; the answer says what is kept."""
        return self._take(_ask("erase_person", contract.ErasureAnswer, person=person))

    def put_items(self, items: Sequence[Item]) -> contract.ItemsAnswer:
        """Put items into the catalogue, each whole."""
        return self._take(
            _ask("put_items", contract.ItemsAnswer, contract.ItemsQuery(items=list(items)))
        )

    def get_item(self, item: str) -> Item:
        """What the catalogue says of an item."""
        return self._take(_ask("get_item", Item, item=item))

    def delete_item(self, item: str) -> contract.ItemRemovalAnswer:
        """Take an item out of the catalogue."""
        return self._take(_ask("delete_item", contract.ItemRemovalAnswer, item=item))

    def list_placements(self) -> contract.PlacementsAnswer:
        """The placements, as the API follows them."""
        return self._take(_ask("list_placements", contract.PlacementsAnswer))

    def get_placement(self, name: str) -> contract.PlacementAnswer:
        """A placement, as the API follows it."""
        return self._take(_ask("get_placement", contract.PlacementAnswer, name=name))

    def put_placement(self, name: str, rules: contract.PlacementRules) -> contract.PlacementAnswer:
        """Make a placement, or change it whole."""
        return self._take(_ask("put_placement", contract.PlacementAnswer, rules, name=name))

    def delete_placement(self, name: str) -> contract.RemovalAnswer:
        """Remove a placement."""
        return self._take(_ask("delete_placement", contract.RemovalAnswer, name=name))

    def try_placement(self, name: str, query: contract.TrialQuery) -> contract.TrialAnswer:
        """Try other rules of a placement out on a growing share of people."""
        return self._take(_ask("try_placement", contract.TrialAnswer, query, name=name))

    def list_trials(self, name: str) -> contract.TrialsAnswer:
        """The trials of a placement, newest first."""
        return self._take(_ask("list_trials", contract.TrialsAnswer, name=name))

    def steer_trial(
        self, name: str, action: contract.TrialAction, query: contract.SteeringQuery
    ) -> contract.TrialAnswer:
        """Promote, roll back, pause or resume the trial of a placement that is under way."""
        asked = _ask("steer_trial", contract.TrialAnswer, query, name=name, action=action)
        return self._take(asked)

    def list_segments(self) -> contract.SegmentsAnswer:
        """The segments of people, as the API follows them."""
        return self._take(_ask("list_segments", contract.SegmentsAnswer))

    def get_segment(self, name: str) -> contract.SegmentAnswer:
        """A segment, as the API follows it."""
        return self._take(_ask("get_segment", contract.SegmentAnswer, name=name))

    def put_segment(self, name: str, rules: contract.SegmentRules) -> contract.SegmentAnswer:
        """Make a segment of people, or change it."""
        return self._take(_ask("put_segment", contract.SegmentAnswer, rules, name=name))

    def delete_segment(self, name: str) -> contract.RemovalAnswer:
        """Remove a segment that no placement asks for."""
        return self._take(_ask("delete_segment", contract.RemovalAnswer, name=name))

    def tell_version(self) -> contract.VersionAnswer:
        """Which release answers, with which versions of the model."""
        return self._take(_ask("tell_version", contract.VersionAnswer))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _take(self, request: _ApiRequest[AnswerT]) -> AnswerT:
        try:
            response = self._http.send(request.build(self._http))
        except httpx.TransportError as error:
            raise self._options.explain(error) from error
        return request.read(response)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncApiClient:
    """As `ApiClient`, for asyncio: `async with`, and each method is awaited."""

    def __init__(
        self, url: str, key: str | None = None, timeout_s: float = TIMEOUT_S, tries: int = TRIES
    ) -> None:
        self._options = _Options(url, key, timeout_s, tries)
        self._http = httpx.AsyncClient(**self._options.arguments())

    async def send_events(self, events: Sequence[Interaction]) -> contract.EventsAnswer:
        """Send events; what became of each, in their order."""
        return await self._take(_send_events(events))

    async def recommend(self, query: contract.RecommendationQuery) -> contract.RecommendationAnswer:
        """The best items for a person."""
        return await self._take(_ask("recommend", contract.RecommendationAnswer, query))

    async def rank_items(self, query: contract.RankQuery) -> contract.RankAnswer:
        """A list of the caller's own, in order."""
        return await self._take(_ask("rank_items", contract.RankAnswer, query))

    async def find_similar(self, query: contract.SimilarQuery) -> contract.RecommendationAnswer:
        """What goes with items."""
        return await self._take(_ask("find_similar", contract.RecommendationAnswer, query))

    async def find_together(self, query: contract.TogetherQuery) -> contract.TogetherAnswer:
        """What people take together with items."""
        return await self._take(_ask("find_together", contract.TogetherAnswer, query))

    async def list_popular(
        self, query: contract.PopularQuery | None = None
    ) -> contract.PopularAnswer:
        """What is popular now."""
        return await self._take(
            _ask("list_popular", contract.PopularAnswer, query or contract.PopularQuery())
        )

    async def describe_person(self, person: str) -> contract.PersonAnswer:
        """What is known of a person."""
        return await self._take(_ask("describe_person", contract.PersonAnswer, person=person))

    async def put_attributes(self, person: str, attributes: Context) -> contract.AttributesAnswer:
        """As `ApiClient.put_attributes`."""
        return await self._take(_tell_attributes(person, attributes))

    async def merge_guest(self, guest: str, query: contract.MergeQuery) -> contract.MergeAnswer:
        """Say that a guest has become a member, for good."""
        return await self._take(_ask("merge_guest", contract.MergeAnswer, query, guest=guest))

    async def erase_person(self, person: str) -> contract.ErasureAnswer:
        """Forget a person; the answer says what is kept."""
        return await self._take(_ask("erase_person", contract.ErasureAnswer, person=person))

    async def put_items(self, items: Sequence[Item]) -> contract.ItemsAnswer:
        """Put items into the catalogue, each whole."""
        return await self._take(
            _ask("put_items", contract.ItemsAnswer, contract.ItemsQuery(items=list(items)))
        )

    async def get_item(self, item: str) -> Item:
        """What the catalogue says of an item."""
        return await self._take(_ask("get_item", Item, item=item))

    async def delete_item(self, item: str) -> contract.ItemRemovalAnswer:
        """Take an item out of the catalogue."""
        return await self._take(_ask("delete_item", contract.ItemRemovalAnswer, item=item))

    async def list_placements(self) -> contract.PlacementsAnswer:
        """The placements, as the API follows them."""
        return await self._take(_ask("list_placements", contract.PlacementsAnswer))

    async def get_placement(self, name: str) -> contract.PlacementAnswer:
        """A placement, as the API follows it."""
        return await self._take(_ask("get_placement", contract.PlacementAnswer, name=name))

    async def put_placement(
        self, name: str, rules: contract.PlacementRules
    ) -> contract.PlacementAnswer:
        """Make a placement, or change it whole."""
        return await self._take(_ask("put_placement", contract.PlacementAnswer, rules, name=name))

    async def delete_placement(self, name: str) -> contract.RemovalAnswer:
        """Remove a placement."""
        return await self._take(_ask("delete_placement", contract.RemovalAnswer, name=name))

    async def try_placement(self, name: str, query: contract.TrialQuery) -> contract.TrialAnswer:
        """Try other rules of a placement out on a growing share of people."""
        return await self._take(_ask("try_placement", contract.TrialAnswer, query, name=name))

    async def list_trials(self, name: str) -> contract.TrialsAnswer:
        """The trials of a placement, newest first."""
        return await self._take(_ask("list_trials", contract.TrialsAnswer, name=name))

    async def steer_trial(
        self, name: str, action: contract.TrialAction, query: contract.SteeringQuery
    ) -> contract.TrialAnswer:
        """Promote, roll back, pause or resume the trial of a placement that is under way."""
        asked = _ask("steer_trial", contract.TrialAnswer, query, name=name, action=action)
        return await self._take(asked)

    async def list_segments(self) -> contract.SegmentsAnswer:
        """The segments of people, as the API follows them."""
        return await self._take(_ask("list_segments", contract.SegmentsAnswer))

    async def get_segment(self, name: str) -> contract.SegmentAnswer:
        """A segment, as the API follows it."""
        return await self._take(_ask("get_segment", contract.SegmentAnswer, name=name))

    async def put_segment(self, name: str, rules: contract.SegmentRules) -> contract.SegmentAnswer:
        """Make a segment of people, or change it."""
        return await self._take(_ask("put_segment", contract.SegmentAnswer, rules, name=name))

    async def delete_segment(self, name: str) -> contract.RemovalAnswer:
        """Remove a segment that no placement asks for."""
        return await self._take(_ask("delete_segment", contract.RemovalAnswer, name=name))

    async def tell_version(self) -> contract.VersionAnswer:
        """Which release answers, with which versions of the model."""
        return await self._take(_ask("tell_version", contract.VersionAnswer))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _take(self, request: _ApiRequest[AnswerT]) -> AnswerT:
        try:
            response = await self._http.send(request.build(self._http))
        except httpx.TransportError as error:
            raise self._options.explain(error) from error
        return request.read(response)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
