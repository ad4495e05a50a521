"""How clients connect to Redis: ours, and Feast's."""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from headwater_client.errors import ServerError, SettingsError
from hiredis import pack_command
from pydantic import SecretStr
from redis.asyncio.connection import Connection

from features.settings import StoreSettings

# How long an answer may take.
ANSWER_S = 5


def _connection_string(settings: StoreSettings) -> str:
    """The store's address and login as Feast reads them: host:port,name=value,...

    Feast splits it at commas and reads each value as JSON, so that a password `1e5` or `true` would
    become something else; and it replaces `$NAME` by variables. As JSON texts without either they
    come through as they are.

    """
    nodes = list_nodes(settings)
    if any(":" in host for host, _ in nodes):
        raise SettingsError(
            f"store.address: {settings.address}: Feast reads no IPv6 address: give it a name"
        )
    options = (f"{name}={_as_json(value)}" for name, value in client_options(settings).items())
    return ",".join([*(f"{host}:{port}" for host, port in nodes), *options])


def _as_json(value: object) -> str:
    return json.dumps(value).replace(",", "\\u002c").replace("$", "\\u0024")


def list_nodes(settings: StoreSettings) -> list[tuple[str, int]]:
    """Host and port of each server.

    Raises:
        ServerError: no address is set.
    """
    if not settings.nodes:
        raise ServerError(
            "the store has no address: run `headwater up`, or set HEADWATER_STORE__ADDRESS"
        )
    return settings.nodes


def feast_settings(settings: StoreSettings) -> dict[str, str]:
    """What Feast's online store has to know of the store.

    Raises:
        SettingsError: an address is one that Feast cannot read.
    """
    found = {"connection_string": _connection_string(settings)}
    if settings.sentinel_service:
        found |= {"redis_type": "redis_sentinel", "sentinel_master": settings.sentinel_service}
    return found


def client_options(settings: StoreSettings) -> dict[str, Any]:
    """What redis-py is given besides the address."""
    return _login_options(settings, settings.username, settings.password)


def sentinel_options(settings: StoreSettings) -> dict[str, Any]:
    """The same for the sentinels that know where the store is."""
    return _login_options(settings, settings.sentinel_username, settings.sentinel_password)


def _login_options(
    settings: StoreSettings, username: str | None, password: SecretStr | None
) -> dict[str, Any]:
    options: dict[str, Any] = {"socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S}
    if username:
        options["username"] = username
    if password:
        options["password"] = password.get_secret_value()
    if settings.tls:
        options["ssl"] = True
    files = {
        "ssl_ca_certs": settings.tls_ca_file,
        "ssl_certfile": settings.tls_certificate_file,
        "ssl_keyfile": settings.tls_key_file,
    }
    return options | {name: path for name, path in files.items() if path}


class _PackedByHiredis:
    """Packs a connection's commands in C: in Python, as redis-py does here, a row takes 20 µs."""

    def pack_command(self, *arguments: Any) -> list[bytes]:
        # A command of two words, such as CLIENT SETINFO, goes over the wire as two arguments.
        name = arguments[0]
        words = tuple(name.split()) if isinstance(name, str) else (name,)
        return [pack_command((*words, *arguments[1:]))]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(part for command in commands for part in self.pack_command(*command))]


@lru_cache
def with_fast_packing(kind: type[Connection]) -> type[Connection]:
    """The connection class with hiredis' packing; a class that has it already as it is."""
    if issubclass(kind, _PackedByHiredis):
        return kind
    return type(f"Packed{kind.__name__}", (_PackedByHiredis, kind), {})
