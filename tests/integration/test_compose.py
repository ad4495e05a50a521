"""What the compose file gives its store: a user who may do what a worker does, and no more."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from headwater_client import EventProducer
from redis import Redis
from redis.exceptions import NoPermissionError

from deploy.settings import Settings
from tests.harness.servers import connect_redis
from tests.harness.workers import WorkerProcess, WorkerProgress, running

pytestmark = pytest.mark.integration
FOLDER = Path(__file__).parents[2] / "deploy" / "compose"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    subprocess.run([FOLDER / "make-secrets", tmp_path / "secrets"], check=True)
    return tmp_path / "secrets"


@pytest.fixture
def store_with_users(empty_streams: Settings, secrets: Path) -> Iterator[Redis]:
    """The store with the users of the file; the default user, whom other tests are, stays."""
    with closing(connect_redis(empty_streams)) as store:
        lines = (secrets / "store-users.acl").read_text().splitlines()
        users = {name: rules for _, name, *rules in map(str.split, lines)}
        assert users.pop("default") == ["off"]
        for name, rules in users.items():
            store.execute_command("ACL", "SETUSER", name, *rules)
        yield store
        store.execute_command("ACL", "DELUSER", *users)


def test_a_worker_runs_with_the_rights_of_its_user(
    empty_streams: Settings,
    store_with_users: Redis,
    secrets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    login = tomllib.loads((secrets / "worker.toml").read_text())["store"]
    monkeypatch.setenv("HEADWATER_STORE__USERNAME", login["username"])
    monkeypatch.setenv("HEADWATER_STORE__PASSWORD", login["password"])
    worker = WorkerProcess(empty_streams, "compose", tmp_path / "worker.log", group="compose")
    with (
        running(worker),
        EventProducer(empty_streams.kafka.client_settings, {"log_level": 0}) as producer,
    ):
        for person in ("ann", "bob"):
            producer.click(user_id=person, item_id="i1")
        producer.flush()
        WorkerProgress(empty_streams, "compose").wait_for_all(60, [worker])
    assert "PermissionError" not in worker.log.read_text()
    assert store_with_users.dbsize() > 2


def test_the_probe_may_ask_whether_the_store_is_there_and_nothing_else(
    empty_streams: Settings, store_with_users: Redis
) -> None:
    host, _, port = (empty_streams.store.address or "").rpartition(":")
    with closing(Redis(host, int(port), username="probe", password="probe")) as probe:
        assert probe.ping()
        with pytest.raises(NoPermissionError):
            probe.keys("*")
