"""Where Kafka is, how a client connects to it, and what a fork does to a connection."""

from __future__ import annotations

import ctypes
import logging
import os
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from headwater_client.errors import ServerError, SettingsError

if TYPE_CHECKING:
    from confluent_kafka import KafkaException

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
log = logging.getLogger("headwater_client")


@dataclass(frozen=True)
class KafkaSettings:
    """Where Kafka is, and how to log in there.

    Args:
        bootstrap_servers: host:port,host:port.
        security_protocol: one of `PROTOCOLS`; those that begin with SASL need a login.
        sasl_mechanism: one of `MECHANISMS`.
        sasl_username: of the login.
        sasl_password: of the login; it is not printed.
        ssl_ca_file: PEM file of the authority to trust; default: the system's.

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
    ssl_ca_file: str | None = None

    def __post_init__(self) -> None:
        if not self.bootstrap_servers:
            raise SettingsError("bootstrap_servers: is empty: expected host:port")
        for name, known in (("security_protocol", PROTOCOLS), ("sasl_mechanism", MECHANISMS)):
            if (value := getattr(self, name)) not in known:
                raise SettingsError(f"{name}: {value!r}: expected one of {', '.join(known)}")
        if self._uses_sasl and not (self.sasl_username and self.sasl_password):
            raise SettingsError(
                f"security_protocol {self.security_protocol} needs sasl_username and sasl_password"
            )

    def client_config(self) -> dict[str, str]:
        """The same in librdkafka's words, for any client of confluent-kafka."""
        config = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
        }
        if self._uses_sasl and self.sasl_username and self.sasl_password:
            config["sasl.mechanism"] = self.sasl_mechanism
            config["sasl.username"] = self.sasl_username
            config["sasl.password"] = self.sasl_password
        if self.ssl_ca_file:
            config["ssl.ca.location"] = self.ssl_ca_file
        return config

    @property
    def _uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")


def unreachable(error: KafkaException) -> ServerError:
    """What to raise where Kafka does not answer a client."""
    return ServerError(f"Kafka: {error.args[0].str()}: check kafka.bootstrap_servers")


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


sending = Lock()
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
