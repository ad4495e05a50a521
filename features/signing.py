"""Signatures of messages that say what people get: on `rollouts` and on `placements`.

With `kafka.signing_key` each message bears in its header `headwater-signature` the HMAC-SHA256 of
the topic's name, its own key and its value, byte by byte as they stand in Kafka; so a field of a
later release breaks none. Without the key whoever may write to these topics is believed.

A message on `placements` says in the header `headwater-follows` which one its writer knew as the
newest of its key. The signature is of that, too: a copy of an old message follows one that is not
the newest any more, wherever it stands.
"""

import hashlib
import hmac
from collections.abc import Sequence

import confluent_kafka

from features.settings import BrokerSettings

SIGNATURE_HEADER = "headwater-signature"
FOLLOWS_HEADER = "headwater-follows"
_MOST_DIGITS = 19
Headers = Sequence[tuple[str, str | bytes | None]]


def sign_message(
    settings: BrokerSettings, topic: str, key: str, value: bytes, follows: bytes = b""
) -> str:
    """The signature of a message with the settings' key, in hexadecimal; "" where none is set.

    Args:
        follows: what its header of this name holds; empty: it has none.
    """
    if settings.signing_key is None:
        return ""
    # A value is JSON, which holds no NUL.
    signed = b"\0".join((topic.encode(), key.encode(), value, *([follows] if follows else [])))
    secret = settings.signing_key.get_secret_value().encode()
    return hmac.new(secret, signed, hashlib.sha256).hexdigest()


def signature_headers(
    settings: BrokerSettings, topic: str, key: str, value: bytes, follows: int | None = None
) -> Headers:
    """The headers of a message that is about to be written.

    Args:
        follows: the offset of the newest message of its key, -1 for none; None: it does not say.
    """
    said = b"" if follows is None else str(follows).encode()
    signature = sign_message(settings, topic, key, value, said).encode()
    headers = ((FOLLOWS_HEADER, said), (SIGNATURE_HEADER, signature))
    return [(name, held) for name, held in headers if held]


def is_trusted(settings: BrokerSettings, message: confluent_kafka.Message) -> bool:
    """Whether a message bears our signature, or none is asked for."""
    topic, key = message.topic() or "", _as_bytes(message.key()).decode(errors="surrogateescape")
    value, follows = _as_bytes(message.value()), read_header(message, FOLLOWS_HEADER)
    if settings.signing_key is None:
        return True
    try:
        expected = sign_message(settings, topic, key, value, follows).encode()
    except UnicodeEncodeError:
        # The key is no text: nobody has signed that.
        return False
    return hmac.compare_digest(expected, read_header(message, SIGNATURE_HEADER))


def read_follows(message: confluent_kafka.Message) -> int | None:
    """The offset that a message says it follows; None where it says none.

    Raises:
        ValueError: it says something else.
    """
    said = read_header(message, FOLLOWS_HEADER)
    if len(said) > _MOST_DIGITS:
        raise ValueError(f"{FOLLOWS_HEADER}: has {len(said)} characters: expected an offset")
    return int(said) if said else None


def read_header(message: confluent_kafka.Message, name: str) -> bytes:
    """What a header holds; empty where it is missing."""
    return _as_bytes(dict(message.headers() or ()).get(name))


def _as_bytes(part: str | bytes | None) -> bytes:
    return part.encode() if isinstance(part, str) else part or b""
