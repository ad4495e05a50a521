"""The tables of the store are what Feast's definitions say."""

from __future__ import annotations

import asyncio
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from headwater_client.errors import SettingsError
from pydantic import SecretStr, ValidationError
from redis.exceptions import BusyLoadingError, MovedError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from deploy.local.store import list_definitions, write_feature_repo
from features.feast_import import EntityKey, Value, import_feast
from features.settings import StoreSettings
from features.store import (
    ATTRIBUTES,
    CATALOGUE,
    FEEDBACK,
    SHOWN,
    TRENDING,
    USERS,
    StoreRefusalError,
    StoreTable,
    StoreUnavailableError,
    item_sources,
    popularity_table,
    read_views,
    views_for,
)
from features.store.redis import RedisRowStore, feast_settings
from features.store.redis.append_file import waits_for_fsync
from features.store.redis.connection import client_options, list_nodes
from features.store.redis.faults import find_faults
from features.store.redis.keys import field_of, row_key

PARTITIONS = 3
TABLES = [USERS, ATTRIBUTES, SHOWN, CATALOGUE, TRENDING, FEEDBACK, popularity_table(PARTITIONS)]


def of_feast(module: str) -> Any:
    import_feast()
    return import_module(f"feast.{module}")


@pytest.mark.parametrize("name", ["ann", "Ännchen 🦊", "x" * 300])
def test_keys_and_fields_are_those_of_feast(name: str) -> None:
    """They are made without Feast's store, which takes a second to import."""
    helpers = of_feast("infra.online_stores.helpers")
    entity = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=name)])
    assert row_key("user_id", name) == helpers._redis_key("headwater", entity, 3)
    assert field_of("user_activity", name) == helpers._mmh3(f"user_activity:{name}")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feature_repo")
    write_feature_repo(folder, {"connection_string": "127.0.0.1:6379"}, PARTITIONS)
    return folder


def test_all_views_and_entities_are_applied(repository: Path) -> None:
    described = read_views()
    found = {definition.name for definition in list_definitions(repository)}
    assert found == {*described["entities"], *described["views"]}
    assert {table.name for table in TABLES} == set(described["views"])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_feast_has_the_columns_of_a_table(repository: Path, table: StoreTable) -> None:
    (view,) = (one for one in list_definitions(repository) if one.name == table.name)
    found = {column.name: column.dtype.to_value_type().name.lower() for column in view.schema}
    assert found == table.types


def test_the_views_file_names_the_topics_of_the_event_types() -> None:
    """Who copies features/repo has nothing but the file."""
    assert read_views()["topics"] == views_for(PARTITIONS)["topics"]


ODD_TEXTS = [
    "plain",
    "ab,cd=1",
    "a,ssl=true",
    "12e3",
    "0007",
    "true",
    "null",
    '"q"',
    "[1]",
    "Infinity",
    "a=b",
    "sp ace ",
    "Pässw0rd 🦊",
    "$HOME${PATH}",
    "back\\slash:@/'",
]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_a_login_of_any_characters_reaches_redis_and_plain_feast(tmp_path: Path, text: str) -> None:
    settings = StoreSettings(address="cache:6379", username=text, password=SecretStr(text))
    options = client_options(settings)
    assert list_nodes(settings) == [("cache", 6379)]
    write_feature_repo(tmp_path, feast_settings(settings), PARTITIONS)
    config = of_feast("repo_config").load_repo_config(tmp_path, tmp_path / "feature_store.yaml")
    theirs = of_feast("infra.online_stores.redis").RedisOnlineStore
    found = theirs._parse_connection_string(config.online_store.connection_string)
    assert found == ([{"host": "cache", "port": "6379"}], options)
    assert (options["username"], options["password"]) == (text, text)


def test_a_repository_is_only_its_owners(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text("of a release before")
    (tmp_path / "feature_store.yaml").chmod(0o644)
    write_feature_repo(tmp_path, {"connection_string": "cache:6379"}, PARTITIONS)
    assert (tmp_path / "feature_store.yaml").stat().st_mode & 0o777 == 0o600


def test_feast_asks_the_same_sentinels(tmp_path: Path) -> None:
    settings = StoreSettings(address="a:26379,b:26379", sentinel_service="rows")
    write_feature_repo(tmp_path, feast_settings(settings), PARTITIONS)
    config = of_feast("repo_config").load_repo_config(tmp_path, tmp_path / "feature_store.yaml")
    assert config.online_store.redis_type == "redis_sentinel"
    assert config.online_store.sentinel_master == "rows"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"address": "a:1,b:2"}, "set cluster or sentinel_service, or name one"),
        ({"sentinel_service": "rows"}, "name the sentinels"),
        (
            {"address": "a:1", "sentinel_service": "rows", "cluster": True},
            "a cluster needs no sentinels",
        ),
    ],
)
def test_addresses_of_several_servers_say_what_they_are(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        StoreSettings.model_validate({"durability": "acknowledged"} | given)


def test_an_ipv6_address_reaches_redis_and_feast_is_not_given_it() -> None:
    settings = StoreSettings(address="[::1]:6379")
    assert list_nodes(settings) == [("::1", 6379)]
    with pytest.raises(SettingsError, match=r"\[::1\]:6379: Feast reads no IPv6 address"):
        feast_settings(settings)


def test_a_rendered_repository_has_its_partitions_whatever_the_environment_says(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA__PARTITIONS", "9")
    names = {one.name: one for one in list_definitions(repository)}
    assert len(names["item_popularity"].schema) == len(item_sources(PARTITIONS))


WELL = {
    "role": "master",
    "redis_version": "7.2.4",
    "server_name": "valkey",
    "valkey_version": "8.1.8",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
}


@pytest.mark.parametrize(
    ("info", "config", "words"),
    [
        ({"role": "slave"}, {}, ["replica", "store.address"]),
        ({"maxmemory_policy": "allkeys-lru"}, {}, ["allkeys-lru", "noeviction"]),
        ({"aof_enabled": 0}, {}, ["appendonly yes", "store.durability=acknowledged"]),
        ({}, {"appendfsync": "no"}, ["appendfsync no", "everysec"]),
        ({}, {"no-appendfsync-on-rewrite": "yes"}, ["no-appendfsync-on-rewrite no"]),
    ],
)
def test_what_breaks_a_promise_is_named_with_its_remedy(
    info: dict[str, Any], config: dict[str, str], words: list[str]
) -> None:
    [line] = find_faults(WELL | info, config, needs_disk=True)
    assert all(word in line for word in words)
    assert "\n" not in line


def test_a_store_that_keeps_its_promises_has_no_fault() -> None:
    assert list(find_faults(WELL, {"appendfsync": "everysec"}, needs_disk=True)) == []
    # Rows have no time to live, so these drop none of them.
    assert list(find_faults(WELL | {"maxmemory_policy": "volatile-lru"}, {}, needs_disk=True)) == []
    # Where nobody asks for the disk, what a managed server lacks is no fault.
    assert list(find_faults(WELL | {"aof_enabled": 0}, {}, needs_disk=False)) == []


@pytest.mark.parametrize(
    ("info", "trusted"),
    [
        ({"redis_version": "7.2.11"}, True),
        ({"redis_version": "7.4.0"}, False),
        ({"redis_version": "7.4.2"}, False),
        ({"redis_version": "7.4.3"}, True),
        ({"redis_version": "8.2.1"}, True),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "7.2.9"}, True),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "8.1.8"}, False),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, False),
        ({"redis_version": "7.4.9", "server_name": "another"}, False),
        ({}, False),
    ],
)
def test_waitaof_is_believed_where_the_version_is_known_to_wait(
    info: dict[str, Any], trusted: bool
) -> None:
    assert waits_for_fsync(info) is trusted


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ResponseError("MISCONF Errors writing to the AOF file"), "disk", "free its disk"),
        (BusyLoadingError("is loading", status_code="LOADING"), "loading", "still loading"),
        (ResponseError("NOREPLICAS Not enough good replicas"), "replicas", "too few replicas"),
        (ConnectionRefusedError("Connection refused"), "away", "does not answer"),
        (MovedError("12 h:1", status_code="MOVED"), None, "store.cluster=true"),
        # As redis-py told of a certificate that nobody vouches for.
        (
            RedisConnectionError("Error 1 connecting to h:1. [SSL: CERTIFICATE_VERIFY_FAILED]."),
            None,
            "store.tls_ca_file",
        ),
        (
            ResponseError("ERR unknown command 'HMGET', with args beginning with: 'ann' "),
            None,
            "refuses a command",
        ),
    ],
)
def test_each_refusal_has_words_of_its_own_and_names_no_person(
    error: Exception, kind: str | None, words: str
) -> None:
    store = RedisRowStore(StoreSettings(address="h:1"))
    found = asyncio.run(store._failure(error))
    assert words in str(found)
    assert "'ann'" not in str(found)
    if kind is None:
        assert isinstance(found, StoreRefusalError)
    else:
        assert isinstance(found, StoreUnavailableError)
        assert found.reason == kind
