"""The local servers are real, found again, restarted over their data, and stopped exactly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic
from headwater_client.errors import ServerError
from headwater_client.topics import ROLLOUTS
from typer.testing import CliRunner

from bench.harness.processes import server_variables
from deploy import local
from deploy.cli import app
from deploy.local import kafka, process
from deploy.local.process import StateFolder
from deploy.settings import Settings
from features.kafka import client_config, ensure_topics
from features.model_server import on_each
from stream.inference import model_servers
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration


def pid_of(settings: Settings, name: str) -> int:
    return StateFolder(settings.local.state_dir).records()[name].process.pid


def store_of(settings: Settings) -> redis.Redis:
    host, _, port = (settings.store.address or "").rpartition(":")
    return redis.Redis(host=host, port=int(port), decode_responses=True)


def is_on_disk(client: redis.Redis) -> bool:
    return bool(client.waitaof(1, 0, 5000) == [1, 0])


def test_all_servers_are_healthy_and_ours(servers: Settings) -> None:
    found = local.status(local_only(servers))
    assert [one.name for one in found] == ["kafka", "store", "triton"]
    assert all(one.healthy and one.pid and not one.external for one in found)


def local_only(settings: Settings) -> Settings:
    """The settings as they were before `up` filled in the addresses."""
    update = {
        "kafka": settings.kafka.model_copy(update={"bootstrap_servers": None}),
        "store": settings.store.model_copy(update={"address": None}),
        "triton": settings.triton.model_copy(update={"url": None}),
    }
    return settings.model_copy(update=update)


def test_connect_finds_what_up_started(servers: Settings) -> None:
    assert local.connect(local_only(servers)) == servers


def test_up_again_keeps_what_runs(servers: Settings) -> None:
    before = {name: pid_of(servers, name) for name in local.NAMES}
    assert local.up(local_only(servers)) == servers
    assert {name: pid_of(servers, name) for name in local.NAMES} == before


def test_every_server_listens_on_loopback_only(servers: Settings) -> None:
    for name in local.NAMES:
        started = psutil.Process(pid_of(servers, name))
        for one in (started, *started.children(recursive=True)):
            listening = [c for c in one.net_connections() if c.status == psutil.CONN_LISTEN]
            assert {c.laddr.ip for c in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_kafka_carries_a_message(servers: Settings) -> None:
    options = client_config(servers.kafka)
    admin = AdminClient(options)  # kept: its futures fail when it is collected
    admin.create_topics([NewTopic("servers-test", 2)])["servers-test"].result(10)
    producer = Producer(options | {"enable.idempotence": True})
    producer.produce("servers-test", b"value", b"key")
    assert producer.flush(10) == 0
    group = {"group.id": "servers-test", "auto.offset.reset": "earliest"}
    consumer = Consumer(options | group)
    consumer.subscribe(["servers-test"])
    try:
        message = consumer.poll(15)
        assert message is not None
        assert (message.key(), message.value()) == (b"key", b"value")
    finally:
        consumer.close()


def test_kafka_makes_no_topic_by_itself(servers: Settings) -> None:
    options = client_config(servers.kafka)
    undelivered = Producer(options | {"message.timeout.ms": 1500})
    undelivered.produce("never-created", b"value")
    undelivered.flush(5)
    assert "never-created" not in AdminClient(options).list_topics(timeout=5).topics


def test_the_store_keeps_a_value_on_disk(servers: Settings) -> None:
    client = store_of(servers)
    client.set("servers-test", "kept")
    assert client.get("servers-test") == "kept"
    assert is_on_disk(client)


def test_triton_answers(servers: Settings) -> None:
    with model_servers(servers.triton)[0].connect() as triton:
        triton.load_model("headwater_check")
        try:
            sent = {"whole": np.array([[5], [6]]), "real": np.array([[0.5], [1.5]], np.float32)}
            answer = triton.infer("headwater_check", sent)
            assert answer.as_numpy("whole_result").tolist() == [[11], [13]]
            assert answer.as_numpy("real_result").tolist() == [[2.0], [4.0]]
        finally:
            triton.unload_model("headwater_check")


def test_triton_listens_for_grpc_and_metrics_only(servers: Settings) -> None:
    record = StateFolder(servers.local.state_dir).records()["triton"]
    connections = psutil.Process(record.process.pid).net_connections("tcp")
    listening = {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}
    assert listening == set(record.ports.values())
    assert record.ports.keys() == {"grpc", "metrics"}


def test_nobody_else_on_this_machine_reads_the_state_folder(servers: Settings) -> None:
    state = servers.local.state_dir
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "triton" / "control_key").stat().st_mode & 0o777 == 0o600


def test_a_taken_port_is_left_alone(own: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        chosen = own.local.model_copy(update={"store_port": port})
        settings = local.up(own.model_copy(update={"local": chosen}), only=["store"])
        assert settings.store.address != f"127.0.0.1:{port}"
        assert store_of(settings).ping()


def test_another_server_on_the_port_is_not_taken_for_ours(own: Settings, tmp_path: Path) -> None:
    """A port may be lost between its choice and the start: here the stranger speaks Redis, too."""
    other = own.model_copy(
        update={"local": own.local.model_copy(update={"state_dir": tmp_path / "other"})}
    )
    stranger = local.up(other, only=["store"])
    try:
        local.up(own, only=["store"])
        state = StateFolder(own.local.state_dir)
        record = state.records()["store"]
        port = int(str(stranger.store.address).rpartition(":")[2])
        confused = {"address": stranger.store.address, "ports": {"redis": port}}
        state.record("store", msgspec.structs.replace(record, **confused))
        assert _status(own, "store").detail == f"does not listen on port {port}"
    finally:
        local.down(other)


def test_a_killed_store_starts_again_over_its_data(own: Settings) -> None:
    settings = local.up(own, only=["store"])
    client = store_of(settings)
    client.set("key", "survives")
    assert is_on_disk(client)
    os.kill(pid_of(own, "store"), signal.SIGKILL)
    wait_until(lambda: not _status(own, "store").healthy)
    assert _status(own, "store").detail == "died"
    again = local.up(own, only=["store"])
    assert again.store.address == settings.store.address
    assert store_of(again).get("key") == "survives"


def test_a_killed_kafka_starts_again_over_its_log(own: Settings) -> None:
    options = client_config(local.up(own, only=["kafka"]).kafka)
    # Also as long as it has none of Headwater's topics.
    assert _status(own, "kafka").detail == "ok"
    admin = AdminClient(options)
    admin.create_topics([NewTopic("kept", 1)])["kept"].result(10)
    producer = Producer(options)
    producer.produce("kept", b"value")
    assert producer.flush(10) == 0
    os.kill(pid_of(own, "kafka"), signal.SIGKILL)
    wait_until(lambda: _status(own, "kafka").detail == "died")
    again = client_config(local.up(own, only=["kafka"]).kafka)
    assert again == options
    consumer = Consumer(again | {"group.id": "after", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition("kept", 0, 0)])
    message = consumer.poll(15)
    consumer.close()
    assert message is not None
    assert message.value() == b"value"


def _status(settings: Settings, name: str) -> local.ServerStatus:
    return next(one for one in local.status(settings) if one.name == name)


def test_down_stops_what_was_started_and_nothing_else(own: Settings, tmp_path: Path) -> None:
    local.up(own, only=["store"])
    other_state = own.local.model_copy(update={"state_dir": tmp_path / "other"})
    other = own.model_copy(update={"local": other_state})
    local.up(other, only=["store"])
    try:
        stopped = psutil.Process(pid_of(own, "store"))
        assert local.down(own) == ["store"]
        wait_until(lambda: not stopped.is_running())
        assert _status(other, "store").healthy
        assert local.down(own) == []
    finally:
        assert local.down(other) == ["store"]


def test_a_recycled_pid_is_never_killed(own: Settings) -> None:
    local.up(own, only=["store"])
    state = StateFolder(own.local.state_dir)
    record = state.records()["store"]
    os.kill(record.process.pid, signal.SIGKILL)
    wait_until(lambda: process.find(record.process) is None)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        recycled = process.ProcessId(bystander.pid, record.process.started_s)
        state.record("store", msgspec.structs.replace(record, process=recycled))
        assert local.down(own) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_server_with_an_address_is_not_started(servers: Settings, own: Settings) -> None:
    elsewhere = own.model_copy(
        update={"kafka": servers.kafka, "store": servers.store, "triton": servers.triton}
    )
    assert local.up(elsewhere) == elsewhere
    assert StateFolder(own.local.state_dir).records() == {}
    found = local.status(elsewhere)
    assert [(one.detail, one.external, one.pid) for one in found] == [("ok", True, None)] * 3


def test_status_says_what_takes_no_writes(servers: Settings) -> None:
    ensure_topics(servers.kafka)
    rollouts = ConfigResource(ConfigResource.Type.TOPIC, ROLLOUTS)
    admin, client = AdminClient(client_config(servers.kafka)), store_of(servers)
    try:
        change_least_copies(admin, rollouts, "2")
        client.config_set("maxmemory", "1")
        done = CliRunner().invoke(app, ["status", "--json"], env=server_variables(servers))
    finally:
        client.config_set("maxmemory", "0")
        change_least_copies(admin, rollouts, "1")
    assert done.exit_code == 3
    kafka_told, store_told, _ = json.loads(done.stdout)
    assert (kafka_told["healthy"], store_told["healthy"]) == (False, False)
    assert "topic rollouts takes no messages in partition 0" in kafka_told["detail"]
    assert "is full: raise its maxmemory" in store_told["detail"]
    try:
        client.replicaof("127.0.0.1", "1")
        assert "takes no writes: set store.address" in _status(servers, "store").detail
    finally:
        client.replicaof("NO", "ONE")
    assert [one.healthy for one in local.status(servers)[:2]] == [True, True]


def change_least_copies(admin: AdminClient, topic: ConfigResource, copies: str) -> None:
    """How many brokers have to have a message before Kafka takes it."""
    entry = ConfigEntry("min.insync.replicas", copies, incremental_operation=AlterConfigOpType.SET)
    change = ConfigResource(topic.restype, topic.name, incremental_configs=[entry])
    admin.incremental_alter_configs([change])[change].result(10)


def test_changed_settings_restart_a_server(own: Settings) -> None:
    local.up(own, only=["store"])
    before = pid_of(own, "store")
    state = StateFolder(own.local.state_dir)
    record = state.records()["store"]
    state.record("store", msgspec.structs.replace(record, fingerprint="of another day"))
    local.up(own, only=["store"])
    assert pid_of(own, "store") != before


def test_a_server_that_dies_at_its_start_says_why(own: Settings) -> None:
    local.up(own, only=["store"])
    local.down(own)
    aof = own.local.state_dir / "store" / "appendonlydir"
    (aof / "appendonly.aof.manifest").write_text("not a manifest\n")
    with pytest.raises(ServerError, match=r"store died at its start: .*(manifest|AOF).*store\.log"):
        local.up(own, only=["store"])


def test_two_ups_at_once_start_one_server(own: Settings) -> None:
    command = [sys.executable, "-m", "deploy.cli", "up", "store"]
    local_variables = {
        "HEADWATER_LOCAL__STATE_DIR": str(own.local.state_dir),
        "HEADWATER_LOCAL__CACHE_DIR": str(own.local.cache_dir),
    }
    racers = [
        subprocess.Popen(command, env=os.environ | local_variables, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = {racer.communicate(timeout=60)[0] for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    assert len(answers) == 1
    folder = str(own.local.state_dir / "store")
    running = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == folder]
    assert len(running) == 1


def test_what_a_killed_triton_leaves_is_stopped_too(own: Settings) -> None:
    settings = local.up(own, only=["triton"])
    on_each(model_servers(settings.triton), lambda triton: triton.load_model("headwater_check"))
    server = psutil.Process(pid_of(own, "triton"))
    orphans = server.children(recursive=True)
    assert orphans
    server.kill()
    wait_until(lambda: _status(own, "triton").detail == "died")
    assert local.down(own) == []
    assert not any(orphan.is_running() for orphan in orphans)


def test_the_locked_jars_are_of_one_kafka() -> None:
    names = [jar.path(Path()).name for jar in kafka.locked_jars()]
    assert kafka.kafka_versions(names) == {kafka.KAFKA_VERSION}
