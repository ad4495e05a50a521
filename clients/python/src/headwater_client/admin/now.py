"""What happens now: the console's first page."""

from msgspec import Struct

from headwater_client.contract import Scope
from headwater_client.operations import Operation


class NowAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What Kafka has of each kind of message, and which versions answer.

    `events`, `recommendations` and `dead_letters` are sums of offsets: all that were ever sent,
    whatever Kafka has deleted since. `versions` are those that take traffic, by variant.
    """

    time: int
    events: int
    recommendations: int
    dead_letters: int
    versions: dict[str, int]


OPERATIONS = (
    Operation("tell_now", "GET", "/v1/admin/now", "What happens now", NowAnswer, Scope.VIEW),
)
