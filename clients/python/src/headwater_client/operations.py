"""The operations of the HTTP API: what answers which request, and to whose key."""

from dataclasses import dataclass

from msgspec import Struct

from headwater_client import contract
from headwater_client.contract import Scope
from headwater_client.events import Item

JSON = "application/json"
CLOUD_EVENT = "application/cloudevents+json"
CLOUD_EVENTS = "application/cloudevents-batch+json"
ADMIN_PREFIX = "/v1/admin/"


@dataclass(frozen=True)
class Operation:
    """One operation of the API.

    Attributes:
        name: of the function that answers, and of the operation in the OpenAPI document.
        scope: what the caller's key must be for; None: any key.
        body: what a request holds; events are read one by one.
        answer: what is answered with status 200.
        query: what its query string holds.
        is_open: whether no key is asked for.
        media_types: what a body may be.
    """

    name: str
    method: str
    path: str
    summary: str
    answer: type[Struct] | None = None
    scope: Scope | None = None
    body: type[Struct] | None = None
    query: type[Struct] | None = None
    is_open: bool = False
    media_types: tuple[str, ...] = (JSON,)

    @property
    def is_admin(self) -> bool:
        """Whether the console answers it, and not the API."""
        return self.path.startswith(ADMIN_PREFIX)

    @property
    def is_action(self) -> bool:
        """Whether it changes the system or what is known of a person: the console keeps a trace."""
        return self.method != "GET" and self.scope in (Scope.SEND, Scope.OPERATE, Scope.ADMINISTER)


OPERATIONS = (
    Operation(
        "send_events",
        "POST",
        "/v1/events",
        "Send events, one or many, of any registered type",
        contract.EventsAnswer,
        Scope.SEND,
        media_types=(JSON, CLOUD_EVENT, CLOUD_EVENTS),
    ),
    Operation(
        "recommend",
        "POST",
        "/v1/recommendations",
        "The best items for a person, who may have done something a moment ago",
        contract.RecommendationAnswer,
        Scope.ASK,
        contract.RecommendationQuery,
    ),
    Operation(
        "rank_items",
        "POST",
        "/v1/rank",
        "Put a list of the caller's own in order for a person",
        contract.RankAnswer,
        Scope.ASK,
        contract.RankQuery,
    ),
    Operation(
        "find_similar",
        "POST",
        "/v1/items/similar",
        "What is like an item, or like those of a cart",
        contract.RecommendationAnswer,
        Scope.ASK,
        contract.SimilarQuery,
    ),
    Operation(
        "find_together",
        "POST",
        "/v1/items/together",
        "What people take together with an item, or with a cart",
        contract.TogetherAnswer,
        Scope.ASK,
        contract.TogetherQuery,
    ),
    Operation(
        "list_popular",
        "GET",
        "/v1/popular",
        "What is popular now, overall, in a category, or with the people of a segment",
        contract.PopularAnswer,
        Scope.ASK,
        query=contract.PopularQuery,
    ),
    Operation(
        "describe_person",
        "GET",
        "/v1/people/{person}",
        "What is known of a person",
        contract.PersonAnswer,
        Scope.READ_PEOPLE,
    ),
    Operation(
        "put_attributes",
        "PUT",
        "/v1/people/{person}/attributes",
        "Say what is known of a person",
        contract.AttributesAnswer,
        Scope.SEND,
        contract.AttributesQuery,
    ),
    Operation(
        "merge_guest",
        "POST",
        "/v1/people/{guest}/merge",
        "A guest has become a member, for good",
        contract.MergeAnswer,
        Scope.SEND,
        contract.MergeQuery,
    ),
    Operation(
        "erase_person",
        "DELETE",
        "/v1/people/{person}",
        "Forget a person; the answer says what is kept",
        contract.ErasureAnswer,
        Scope.ADMINISTER,
    ),
    Operation(
        "put_items",
        "PUT",
        "/v1/items",
        "Put items into the catalogue",
        contract.ItemsAnswer,
        Scope.ADMINISTER,
        contract.ItemsQuery,
    ),
    Operation(
        "get_item",
        "GET",
        "/v1/items/{item}",
        "What the catalogue says of an item",
        Item,
        Scope.ASK,
    ),
    Operation(
        "delete_item",
        "DELETE",
        "/v1/items/{item}",
        "Take an item out of the catalogue",
        contract.ItemRemovalAnswer,
        Scope.ADMINISTER,
    ),
    Operation(
        "list_placements",
        "GET",
        "/v1/placements",
        "The placements, as this service follows them",
        contract.PlacementsAnswer,
        Scope.ADMINISTER,
    ),
    Operation(
        "get_placement",
        "GET",
        "/v1/placements/{name}",
        "A placement, as this service follows it",
        contract.PlacementAnswer,
        Scope.ADMINISTER,
    ),
    Operation(
        "put_placement",
        "PUT",
        "/v1/placements/{name}",
        "Make a placement, or change it whole; it counts at once",
        contract.PlacementAnswer,
        Scope.ADMINISTER,
        contract.PlacementRules,
    ),
    Operation(
        "delete_placement",
        "DELETE",
        "/v1/placements/{name}",
        "Remove a placement; whoever asks for it is refused from then on",
        contract.RemovalAnswer,
        Scope.ADMINISTER,
    ),
    Operation(
        "try_placement",
        "POST",
        "/v1/placements/{name}/trials",
        "Try other rules of a placement out on a growing share of people",
        contract.TrialAnswer,
        Scope.ADMINISTER,
        contract.TrialQuery,
    ),
    Operation(
        "list_trials",
        "GET",
        "/v1/placements/{name}/trials",
        "The trials of a placement, newest first",
        contract.TrialsAnswer,
        Scope.ADMINISTER,
    ),
    Operation(
        "steer_trial",
        "POST",
        "/v1/placements/{name}/trials/{action}",
        "Promote, roll back, pause or resume the trial that is under way",
        contract.TrialAnswer,
        Scope.ADMINISTER,
        contract.SteeringQuery,
    ),
    Operation(
        "list_segments",
        "GET",
        "/v1/segments",
        "The segments, as this service follows them",
        contract.SegmentsAnswer,
        Scope.ADMINISTER,
    ),
    Operation(
        "get_segment",
        "GET",
        "/v1/segments/{name}",
        "A segment, as this service follows it",
        contract.SegmentAnswer,
        Scope.ADMINISTER,
    ),
    Operation(
        "put_segment",
        "PUT",
        "/v1/segments/{name}",
        "Make a segment of people, or change it; it counts at once",
        contract.SegmentAnswer,
        Scope.ADMINISTER,
        contract.SegmentRules,
    ),
    Operation(
        "delete_segment",
        "DELETE",
        "/v1/segments/{name}",
        "Remove a segment that no placement asks for",
        contract.RemovalAnswer,
        Scope.ADMINISTER,
    ),
    Operation("tell_version", "GET", "/version", "Which release answers", contract.VersionAnswer),
    Operation("tell_metrics", "GET", "/metrics", "Prometheus metrics"),
    Operation("tell_contract", "GET", "/openapi.json", "This document"),
    Operation("show_contract", "GET", "/docs", "This document as a page"),
    Operation(
        "tell_live",
        "GET",
        "/livez",
        "Whether the service lives",
        contract.HealthAnswer,
        is_open=True,
    ),
    Operation(
        "tell_ready",
        "GET",
        "/readyz",
        "Whether it may be sent requests, and what is missing",
        contract.HealthAnswer,
        is_open=True,
    ),
    Operation(
        "tell_started",
        "GET",
        "/startupz",
        "Whether it has read all that its first answer needs",
        contract.HealthAnswer,
        is_open=True,
    ),
)
