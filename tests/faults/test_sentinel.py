"""A store that Redis Sentinels watch: what a replica that takes over lacks is read again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from headwater_client import EventProducer
from redis import Redis, RedisError

from bench.harness.processes import end_process, variables_of
from deploy import local
from deploy.local.process import free_port
from deploy.local.store import find_server
from deploy.settings import Settings
from features.kafka import ensure_topics
from features.settings import StoreSettings
from tests.harness.oracle import read_log
from tests.harness.rows import check_users
from tests.harness.waiting import wait_until
from tests.harness.workers import WorkerProcess, WorkerProgress, running, without_model

pytestmark = pytest.mark.faults
SERVICE = "rows"
PEOPLE = [f"u{number}" for number in range(8)]


@dataclass
class Watched:
    """A primary, its replica, and three sentinels, each a process on a port of its own."""

    servers: dict[int, subprocess.Popen[bytes]]
    sentinels: list[int]

    def primary(self) -> int:
        """The port of the server that the sentinels hold for the primary."""
        with closing(Redis("127.0.0.1", self.sentinels[0])) as client:
            found = client.sentinel_get_master_addr_by_name(SERVICE)
        return int(found[1])

    def replicas(self) -> int:
        """How many replicas follow the primary."""
        with closing(Redis("127.0.0.1", self.primary())) as client:
            info = client.info("replication")
        return sum(info[f"slave{n}"]["state"] == "online" for n in range(info["connected_slaves"]))


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Run them."""
    with ExitStack() as stack:

        def start(port: int, *more: str) -> subprocess.Popen[bytes]:
            own = folder / str(port)
            own.mkdir()
            config = own / "server.conf"
            config.write_text(
                "\n".join([f"port {port}", f"dir {own}", "bind 127.0.0.1", *more, ""])
            )
            command = [str(find_server()), str(config)]
            if any(line.startswith("sentinel") for line in more):
                command.append("--sentinel")
            with (own / "log").open("wb") as log:
                process = subprocess.Popen(command, env=dict(os.environ), stdout=log, stderr=log)
            stack.callback(end_process, process)
            wait_until(lambda: answers(port), 30)
            return process

        rows = ["appendonly yes", "appendfsync everysec", 'save ""']
        first, second = free_port(), free_port()
        servers = {
            first: start(first, *rows),
            second: start(second, *rows, f"replicaof 127.0.0.1 {first}"),
        }
        told = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {first} 2",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        sentinels = [free_port() for _ in range(3)]
        for port in sentinels:
            start(port, *told)
        made = Watched(servers, sentinels)
        wait_until(lambda: made.replicas() == 1, 30)
        wait_until(lambda: all(knows_others(port) for port in sentinels), 30)
        yield made


def answers(port: int) -> bool:
    with closing(Redis("127.0.0.1", port)) as client:
        try:
            return bool(client.ping())
        except RedisError:
            return False


def knows_others(port: int) -> bool:
    """Whether a sentinel knows both others and the replica: else it elects nobody."""
    with closing(Redis("127.0.0.1", port)) as client:
        told = client.sentinel_master(SERVICE)
    return bool(told["num-other-sentinels"] == 2 and told["num-slaves"] == 1)


def send(producer: EventProducer, start: int, end: int) -> None:
    for number in range(start, end):
        producer.click(
            user_id=PEOPLE[number % len(PEOPLE)], item_id=f"i{number % 5}", event_id=f"e{number}"
        )
    producer.flush()


@pytest.mark.timeout(240)
def test_what_a_replica_that_takes_over_lacks_is_read_again(
    own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = without_model(local.up(own, only=["kafka"]))
    with watched(tmp_path) as store:
        address = ",".join(f"127.0.0.1:{port}" for port in store.sentinels)
        watching = StoreSettings(address=address, sentinel_service=SERVICE)
        settings = plain.model_copy(update={"store": watching})
        ensure_topics(settings.kafka)
        assert not local.find_ailment(settings, "store")
        for name, value in variables_of({"store.sentinel_service": SERVICE}).items():
            monkeypatch.setenv(name, value)
        worker = WorkerProcess(settings, "watched", tmp_path / "worker.log", group="watched")
        progress = WorkerProgress(settings, "watched")
        with running(worker), EventProducer(settings.kafka.client_settings) as producer:
            send(producer, 0, 40)
            progress.wait_for_all(60, [worker])
            # What comes now is committed, and the replica does not get it.
            before = store.primary()
            [replica] = store.servers.keys() - {before}
            store.servers[replica].send_signal(signal.SIGSTOP)
            send(producer, 40, 60)
            progress.wait_for_all(60, [worker])
            store.servers[before].kill()
            store.servers[replica].send_signal(signal.SIGCONT)
            wait_until(lambda: store.primary() == replica, 60)
            send(producer, 60, 80)
            wait_until(lambda: not worker.running, 60)
            assert "was restarted or failed over" in worker.log.read_text()
            worker.start()
            progress.wait_for_all(60, [worker])
            logged = read_log(settings)
            assert len(logged) == 80
            promoted = StoreSettings(address=f"127.0.0.1:{replica}")
            check_users(settings.model_copy(update={"store": promoted}), logged, {})
