"""A worker's process: what its probes say, that its name is its own, and that it ends when told."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import pytest
from headwater_client import EventProducer, ServerError, SettingsError
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.process import free_port
from deploy.services.worker import WorkerName
from deploy.settings import Settings
from features.kafka import admin, ensure_topics
from features.settings import BrokerSettings, SecurityProtocol
from tests.harness.probes import ask, missing
from tests.harness.servers import asleep, renew_topics
from tests.harness.waiting import wait_until
from tests.harness.workers import COMMAND, WorkerProcess, WorkerProgress, environment, running

LAG = "headwater_consumer_lag"
PARTITIONS = BrokerSettings().partitions
GRACE_S = 30.0
"""How long Kubernetes waits between SIGTERM and SIGKILL."""


@pytest.mark.faults
@pytest.mark.timeout(240)
def test_a_worker_is_probed_keeps_its_name_and_ends_whatever_is_away(
    kafka_and_store: Settings, tmp_path: Path
) -> None:
    settings, port = kafka_and_store, free_port()
    renew_topics(settings.kafka)
    worker = WorkerProcess(settings, "one", tmp_path / "one.log", group="ending", metrics_port=port)
    with running(worker), EventProducer(settings.kafka.client_settings) as producer:
        producer.click(user_id="u", item_id="i")
        producer.flush()
        WorkerProgress(settings, "ending").wait_for_all(60, [worker])
        wait_until(lambda: read_lag(port) == 0, 20)
        # No version was ever announced here; all else is there.
        assert set(missing(port)) == {"model"}
        assert ask(port, "/livez")[0] == 200

        second = subprocess.run(
            COMMAND,
            env=environment(settings, "one", group="ending"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 2, second.stderr
        (line,) = second.stderr.splitlines()
        assert line.startswith("headwater: worker.name: one: a worker of group ending has this")
        assert worker.running

        producer.click(user_id="u", item_id="j")
        producer.flush()
        with asleep(settings, "store"):
            wait_until(lambda: "store" in missing(port), 20)
            producer.click(user_id="u", item_id="k")
            producer.flush()
            wait_until(lambda: read_lag(port) >= 1, 20)
            assert ask(port, "/livez")[0] == 200
            with asleep(settings, "kafka"):
                worker.signal(signal.SIGTERM)
                assert worker.process is not None
                assert worker.process.wait(GRACE_S) == 0


def read_lag(port: int) -> float:
    """Of all partitions together; there is one for each partition of clicks."""
    told = text_string_to_metric_families(ask(port, "/metrics")[1])
    lags = [each for family in told for each in family.samples if each.name == LAG]
    assert sum(each.labels["topic"] == "clicks" for each in lags) in {0, PARTITIONS}
    return sum(each.value for each in lags) if lags else -1.0


@pytest.mark.faults
def test_a_name_elsewhere_is_taken_for_as_long_as_it_is_renewed(kafka_and_store: Settings) -> None:
    # Who is alive is seen at its first sign of life, be that late where others have the cores.
    def name(machine: str, watch_s: float = 20.0) -> WorkerName:
        found = WorkerName(kafka_and_store, renew_s=0.1, watch_s=watch_s)
        found._mine = replace(found._mine, machine=machine)
        return found

    away = name("another container")
    with away.hold(), pytest.raises(SettingsError, match="has this name and runs"), name("").hold():
        pass
    # Given back when it ended.
    with name("").hold():
        pass
    # Or not, where it died.
    asyncio.run(away._take())
    with name("", watch_s=0.6).hold():
        pass


@pytest.mark.faults
def test_a_protocol_that_kafka_does_not_speak_is_named(
    kafka_and_store: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "TIMEOUT_S", 0.0)
    wrong = kafka_and_store.kafka.model_copy(update={"security_protocol": SecurityProtocol.SSL})
    with pytest.raises(ServerError, match=r"PLAINTEXT broker listener.*kafka\.security_protocol"):
        ensure_topics(wrong)
