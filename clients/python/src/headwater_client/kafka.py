"""Where Kafka is, how a client connects to it, and what a fork does to a connection."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import string
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import msgspec

from headwater_client.documents import read_json
from headwater_client.errors import ServerError, SettingsError

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, KafkaException

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
OAUTH = "OAUTHBEARER"
TOKEN_FILE_S = 60.0
"""How long a token of a file is taken to be good: so often the file is read again."""
DEFAULT_PORT = 9092
log = logging.getLogger("headwater_client")
_ADDRESS = re.compile(r"(?:\[([\da-fA-F:.]+(?:%\w+)?)\]|([^\s:/?#@\[\]=;,]+))(?::(\d{1,5}))?")


def parse_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Host and port of one address; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is none, or has no port and there is no default.

    >>> parse_address(" [::1]:6379 "), parse_address("broker", 9092)
    (('::1', 6379), ('broker', 9092))
    """
    found = _ADDRESS.fullmatch(text.strip())
    if found is None and text.count(":") > 1 and set(text.strip()) <= set(string.hexdigits + ":."):
        raise ValueError("an IPv6 address stands in brackets: write [::1]:port")
    port = int(found[3] or default_port or 0) if found else 0
    if found is None or not 0 < port < 1 << 16:
        raise ValueError("write host:port, or host:port,host:port")
    return found[1] or found[2], port


def join_address(host: str, port: int) -> str:
    """The address of a host and a port.

    >>> join_address("::1", 6379)
    '[::1]:6379'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True)
class KafkaSettings:
    """Where Kafka is, and how to log in there.

    Args:
        bootstrap_servers: host:port,host:port, as librdkafka takes them: blanks and empty places
            are passed over, the port may be missing (9092).
        security_protocol: one of `PROTOCOLS`; those that begin with SASL need a login.
        sasl_mechanism: one of `MECHANISMS`.
        sasl_username: of the login; with OAUTHBEARER the client's id at `sasl_token_url`.
        sasl_password: of the login, or the client's secret; it is not printed.
        sasl_token_url: token endpoint that gives this client tokens (OAUTHBEARER, grant
            `client_credentials`).
        sasl_token_scope: scope to ask for there.
        sasl_token_file: file in which somebody else keeps a fresh token (OAUTHBEARER).
        ssl_ca_file: PEM file of the authority to trust; default: the system's.
        ssl_certificate_file: PEM file of the client's own certificate, where Kafka asks for one.
        ssl_key_file: PEM file of that certificate's private key.

    Raises:
        SettingsError: one of them is missing or not known.

    >>> KafkaSettings("localhost:9092").client_config()
    {'bootstrap.servers': 'localhost:9092', 'security.protocol': 'PLAINTEXT'}
    """

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    sasl_token_url: str | None = None
    sasl_token_scope: str | None = None
    sasl_token_file: str | None = None
    ssl_ca_file: str | None = None
    ssl_certificate_file: str | None = None
    ssl_key_file: str | None = None

    def __post_init__(self) -> None:
        if not self.bootstrap_servers:
            raise SettingsError("bootstrap_servers: is empty: expected host:port")
        for name, known in (("security_protocol", PROTOCOLS), ("sasl_mechanism", MECHANISMS)):
            if (value := getattr(self, name)) not in known:
                raise SettingsError(f"{name}: {value!r}: expected one of {', '.join(known)}")
        if missing := describe_missing_login(self):
            raise SettingsError(missing)
        if not self.brokers:
            raise SettingsError(f"bootstrap_servers: {self.bootstrap_servers!r}: names no broker")

    @property
    def brokers(self) -> list[str]:
        """Each broker as host:port.

        Raises:
            SettingsError: one cannot be read.
        """
        given = (each.strip() for each in self.bootstrap_servers.split(","))
        return [self._broker(each) for each in given if each]

    def _broker(self, given: str) -> str:
        scheme, separator, rest = given.rpartition("://")
        if separator and scheme.upper() != self.security_protocol:
            raise SettingsError(
                f"bootstrap_servers: {given!r}: security_protocol is {self.security_protocol}: "
                "name the protocol there"
            )
        try:
            return join_address(*parse_address(rest, DEFAULT_PORT))
        except ValueError as error:
            raise SettingsError(f"bootstrap_servers: {given!r}: {error}") from error

    def client_config(self) -> dict[str, Any]:
        """The same in librdkafka's words, for any client of confluent-kafka."""
        config: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.brokers),
            "security.protocol": self.security_protocol,
        }
        if self.security_protocol.startswith("SASL"):
            config |= {"sasl.mechanism": self.sasl_mechanism} | self._login_config()
        files = {
            "ssl.ca.location": self.ssl_ca_file,
            "ssl.certificate.location": self.ssl_certificate_file,
            "ssl.key.location": self.ssl_key_file,
        }
        return config | {name: path for name, path in files.items() if path}

    def _login_config(self) -> dict[str, Any]:
        if self.sasl_mechanism != OAUTH:
            return {"sasl.username": self.sasl_username, "sasl.password": self.sasl_password}
        if self.sasl_token_file:
            return {"oauth_cb": partial(_read_token, self.sasl_token_file)}
        scope = {"sasl.oauthbearer.scope": self.sasl_token_scope} if self.sasl_token_scope else {}
        return scope | {
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.token.endpoint.url": self.sasl_token_url,
            "sasl.oauthbearer.client.id": self.sasl_username,
            "sasl.oauthbearer.client.secret": self.sasl_password,
        }


class _Login(Protocol):
    """What settings say of a login."""

    @property
    def security_protocol(self) -> str: ...
    @property
    def sasl_mechanism(self) -> str: ...
    @property
    def sasl_username(self) -> str | None: ...
    @property
    def sasl_password(self) -> object: ...
    @property
    def sasl_token_url(self) -> str | None: ...
    @property
    def sasl_token_file(self) -> str | None: ...


def describe_missing_login(login: _Login) -> str:
    """What the settings of a login lack or say twice; "" where they can be used."""
    if not login.security_protocol.startswith("SASL"):
        return ""
    named = f"security_protocol {login.security_protocol} with sasl_mechanism {OAUTH}"
    has_both = bool(login.sasl_username and login.sasl_password)
    if login.sasl_mechanism != OAUTH:
        if login.sasl_token_url or login.sasl_token_file:
            return f"sasl_token_url and sasl_token_file are for sasl_mechanism {OAUTH}"
        protocol = f"security_protocol {login.security_protocol}"
        return "" if has_both else f"{protocol} needs sasl_username and sasl_password"
    if bool(login.sasl_token_url) == bool(login.sasl_token_file):
        return f"{named} needs either sasl_token_url or sasl_token_file"
    if login.sasl_token_url and not has_both:
        return f"{named} and sasl_token_url needs sasl_username and sasl_password, of the client"
    return ""


def read_token_file(path: str) -> str:
    """The token that a file holds by now.

    Raises:
        SettingsError: it cannot be read, or holds none.
    """
    try:
        token = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"kafka.sasl_token_file: {path}: {error}") from error
    if not token:
        raise SettingsError(f"kafka.sasl_token_file: {path}: is empty: expected a token")
    return token


def _read_token(path: str, _config: str | None) -> tuple[str, float]:
    """As librdkafka asks for it: a token, and until when it is good, in seconds since 1970."""
    try:
        return read_token_file(path), time.time() + TOKEN_FILE_S
    except SettingsError as error:
        # librdkafka tells that its callback has failed, and not why.
        log.warning("%s", error)
        raise


_REFUSALS = (
    ("AUTHENTICATION", "check kafka.sasl_username and kafka.sasl_password, or its token"),
    ("SASL", "check kafka.sasl_mechanism"),
    ("AUTHORIZATION", "give this login the right to it, or use another login"),
    ("SSL", "check kafka.security_protocol, kafka.ssl_ca_file and kafka.ssl_certificate_file"),
)


def unreachable(error: KafkaException) -> ServerError | SettingsError:
    """What to raise where Kafka does not answer a client, or refuses it.

    A refusal is a SettingsError: to ask again is of no use.
    """
    reason: KafkaError = error.args[0]
    if remedy := remedy_of(reason):
        return SettingsError(f"Kafka: {reason.str()}: {remedy}")
    return ServerError(f"Kafka: {reason.str()}: check kafka.bootstrap_servers")


def remedy_of(error: KafkaError) -> str:
    """What to change where Kafka refuses a client; "" for an error that may pass by itself."""
    return next((remedy for word, remedy in _REFUSALS if word in error.name()), "")


class _KnownBroker(msgspec.Struct):
    """A broker as the statistics of a client have it; a logical one stands for another."""

    source: str = ""


class _ClientStatistics(msgspec.Struct):
    brokers: dict[str, _KnownBroker] = {}


TOLD_MS = 60_000
"""How often a client tells of itself; what it tells waits in memory until the app calls it."""

# How often in a row a client knows of no broker once it is lost.
_LOST_AFTER = 2


class BrokerWatch:
    """Tells a client of librdkafka that is lost from one that waits, by its statistics.

    A broker that shuts down tells for some milliseconds of no brokers. A client whose connection
    breaks just then forgets all that it knew, and never looks again, though Kafka comes back
    (confluentinc/librdkafka#5301). Its statistics name no broker from then on; those of one that
    waits for Kafka name whom it tries.
    """

    def __init__(self) -> None:
        self._missed = 0

    def hear(self, statistics: str) -> bool:
        """Take what a client tells of itself; whether it has to be made anew by now."""
        told = read_json(statistics, _ClientStatistics)
        is_well = any(each.source != "logical" for each in told.brokers.values())
        self._missed = 0 if is_well else self._missed + 1
        if self._missed < _LOST_AFTER:
            return False
        self._missed = 0
        return True


class ProcessBound:
    """Holds a handle of librdkafka, which works only in the process that made it.

    Its threads do not survive a fork. A copy of the handle in the child can neither be used nor be
    freed: freeing waits for the threads. And a fork while they run may copy a lock that one of them
    holds: then nothing of librdkafka works in the child. So a handle that can be let go is let go
    before the fork.
    """

    def __init__(self, handle: Any) -> None:
        self._bind(handle)
        _instances.add(self)

    @property
    def is_inherited(self) -> bool:
        """Whether the handle was made in another process."""
        return self._pid != os.getpid()

    def _bind(self, handle: Any) -> None:
        self._handle, self._pid = handle, os.getpid()

    def prepare_fork(self) -> None:
        """In the parent, right before a fork, while `sending` is held."""

    def begin_in_child(self) -> None:
        """In a child, right after the fork: keep the handle from ever being freed."""
        # A reference that Python does not know of, so that it is not dropped at exit either.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._handle))


sending = RLock()
"""Held while a message is handed to librdkafka, and during a fork."""

_instances: WeakSet[ProcessBound] = WeakSet()


def _prepare_fork() -> None:
    sending.acquire()
    for instance in tuple(_instances):
        try:
            instance.prepare_fork()
        except Exception:  # of the app's on_undelivered: a fork cannot be refused
            log.exception("before a fork")


def _begin_in_child() -> None:
    sending.release()
    for instance in tuple(_instances):
        instance.begin_in_child()


os.register_at_fork(
    before=_prepare_fork, after_in_parent=sending.release, after_in_child=_begin_in_child
)
