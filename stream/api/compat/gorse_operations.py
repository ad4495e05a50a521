"""The table of Gorse's operations: those that are answered, and those that have no counterpart."""

from headwater_client.contract import Scope
from headwater_client.operations import Operation
from msgspec import Struct


class GorsePage(Struct, frozen=True, kw_only=True, rename="kebab"):
    """Which part of a list is asked for."""

    n: int = 10
    offset: int = 0
    category: str | list[str] = []
    user_id: str = ""
    write_back_type: str = ""


_ITEM, _CATEGORY = "/item/{item}", "/item/{item}/category/{category}"
OPERATIONS = tuple(
    Operation(name, method, f"/api{path}", "", scope=scope)
    for name, method, path, scope in (
        ("insert_feedback", "POST", "/feedback", Scope.SEND),
        ("insert_feedback", "PUT", "/feedback", Scope.SEND),
        ("list_feedback", "GET", "/user/{user}/feedback", Scope.READ_PEOPLE),
        ("list_feedback", "GET", "/user/{user}/feedback/{type}", Scope.READ_PEOPLE),
        ("list_feedback", "GET", "/feedback/{user}/{item}", Scope.READ_PEOPLE),
        ("get_feedback", "GET", "/feedback/{type}/{user}/{item}", Scope.READ_PEOPLE),
        ("insert_user", "POST", "/user", Scope.SEND),
        ("insert_users", "POST", "/users", Scope.SEND),
        ("update_user", "PATCH", "/user/{user}", Scope.SEND),
        ("get_user", "GET", "/user/{user}", Scope.READ_PEOPLE),
        ("delete_user", "DELETE", "/user/{user}", Scope.ADMINISTER),
        ("insert_item", "POST", "/item", Scope.ADMINISTER),
        ("insert_items", "POST", "/items", Scope.ADMINISTER),
        ("update_item", "PATCH", _ITEM, Scope.ADMINISTER),
        ("get_item", "GET", _ITEM, Scope.ASK),
        ("delete_item", "DELETE", _ITEM, Scope.ADMINISTER),
        ("add_category", "PUT", _CATEGORY, Scope.ADMINISTER),
        ("remove_category", "DELETE", _CATEGORY, Scope.ADMINISTER),
    )
)
LISTS = tuple(
    Operation(name, method, f"/api{path}{category}", "", scope=Scope.ASK, query=GorsePage)
    for name, method, path in (
        ("recommend", "GET", "/recommend/{user}"),
        ("recommend_session", "POST", "/session/recommend"),
        ("find_neighbors", "GET", "/item/{item}/neighbors"),
        ("list_popular", "GET", "/popular"),
    )
    for category in ("", "/{category}")
)
_LOG = "events are a log, in Kafka: read its topics, or ask for one person's feedback"
_UNDO = "an event is not taken back: what it counts for decays"
_PEOPLE = "people are not listed: each is known by their events alone"
_CATALOGUE = "the catalogue is not listed here: read the topic items"
_LATEST = "there is no list of the newest items: recommendations know them, by their text"
_ALIKE = "no people are said to be like a person"
_PROBES = "ask /livez and /readyz of the service itself: they need no key"
NO_COUNTERPART = tuple(
    Operation("refuse_it", method, f"/api{path}", line)
    for method, path, line in (
        ("GET", "/feedback", _LOG),
        ("GET", "/feedback/{type}", _LOG),
        ("DELETE", "/feedback/{user}/{item}", _UNDO),
        ("DELETE", "/feedback/{type}/{user}/{item}", _UNDO),
        ("GET", "/item/{item}/feedback", _LOG),
        ("GET", "/item/{item}/feedback/{type}", _LOG),
        ("GET", "/users", _PEOPLE),
        ("GET", "/user/{user}/neighbors", _ALIKE),
        ("GET", "/items", _CATALOGUE),
        ("GET", "/latest", _LATEST),
        ("GET", "/latest/{category}", _LATEST),
        ("GET", "/health/live", _PROBES),
        ("GET", "/health/ready", _PROBES),
    )
)
