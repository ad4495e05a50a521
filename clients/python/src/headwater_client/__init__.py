"""What apps need to talk to Headwater: send what people do, receive what to recommend to them.

The event contract (`Click`, `Purchase` and the other types of `EVENT_TYPES`, `Item`,
`Recommendation`), a producer, a consumer, clients of the HTTP API (what it takes and answers is in
`headwater_client.contract`), and the errors, drawn as a tree in `headwater_client.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headwater_client.actions import (
    AddToCart,
    Dislike,
    Hide,
    Impression,
    Play,
    Rating,
    RemoveFromCart,
    Return,
)
from headwater_client.errors import (
    DeliveryError,
    EventError,
    ForkedError,
    HeadwaterError,
    ProblemError,
    QueueFullError,
    ServerError,
    SettingsError,
    Undelivered,
)
from headwater_client.event_types import EVENT_TYPES, EventSpec
from headwater_client.events import (
    Click,
    DeadLetter,
    Interaction,
    Item,
    Purchase,
    Reason,
    Recommendation,
    RecommendedItem,
    decode,
    encode,
)
from headwater_client.kafka import KafkaSettings

if TYPE_CHECKING:
    from headwater_client.consumer import RecommendationConsumer
    from headwater_client.http import ApiClient, AsyncApiClient
    from headwater_client.producer import EventProducer, WhenFull

__all__ = [
    "EVENT_TYPES",
    "AddToCart",
    "ApiClient",
    "AsyncApiClient",
    "Click",
    "DeadLetter",
    "DeliveryError",
    "Dislike",
    "EventError",
    "EventProducer",
    "EventSpec",
    "ForkedError",
    "HeadwaterError",
    "Hide",
    "Impression",
    "Interaction",
    "Item",
    "KafkaSettings",
    "Play",
    "ProblemError",
    "Purchase",
    "QueueFullError",
    "Rating",
    "Reason",
    "Recommendation",
    "RecommendationConsumer",
    "RecommendedItem",
    "RemoveFromCart",
    "Return",
    "ServerError",
    "SettingsError",
    "Undelivered",
    "WhenFull",
    "decode",
    "encode",
]

# They need confluent-kafka or httpx, which take a tenth of a second: who only reads or writes
# messages of the contract does not pay for it.
_LOADED_WHEN_ASKED = {
    "ApiClient": "http",
    "AsyncApiClient": "http",
    "EventProducer": "producer",
    "WhenFull": "producer",
    "RecommendationConsumer": "consumer",
}


def __getattr__(name: str) -> Any:
    if name not in _LOADED_WHEN_ASKED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADED_WHEN_ASKED[name]}"), name)


def __dir__() -> list[str]:
    return __all__
