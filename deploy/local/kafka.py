"""The local Kafka: one KRaft node, broker and controller, on this machine."""

from __future__ import annotations

import os
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path

from headwater_client.errors import ServerError

from deploy.local import jars
from deploy.local.jars import find_java
from deploy.local.process import LOOPBACK
from deploy.local.server import Launch, NotReadyError, Progress
from deploy.settings import Settings
from features.kafka import client_config

CHECK_TIMEOUT_S = 2.0

JVM_FLAGS = (
    # Two cores and a small heap: the serial collector's pauses are short, and it needs no
    # threads of its own. The second compiler would take half of what the broker uses in its first
    # minutes, and gains little on so small a load.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
    # Two thousand lines of effective configuration at each start.
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
)


class Kafka:
    """Apache Kafka from its published jars."""

    name = "kafka"
    setting = "kafka.bootstrap_servers"

    def address(self, settings: Settings) -> str | None:
        return settings.kafka.bootstrap_servers

    def with_address(self, settings: Settings, address: str) -> Settings:
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": address})
        return settings.model_copy(update={"kafka": kafka})

    def ports(self, settings: Settings) -> dict[str, int]:
        local = settings.local
        return {"broker": local.kafka_port, "controller": local.kafka_controller_port}

    def launch(self, settings: Settings, ports: Mapping[str, int], progress: Progress) -> Launch:
        folder = settings.local.state_dir / "kafka"
        folder.mkdir(parents=True, exist_ok=True)
        properties = folder / "server.properties"
        java = find_java()
        progress(self.name, "checking its jars")
        paths = jars.fetch(settings.local.cache_dir / "maven", settings.local.maven_url)
        base = [str(java), *JVM_FLAGS, "-cp", ":".join(map(str, paths))]
        text = server_properties(folder / "data", ports)
        if not (folder / "data" / "meta.properties").exists():
            progress(self.name, "formatting its storage")
            properties.write_text(text)
            _format(base, properties)
        heap = f"-Xmx{settings.local.kafka_heap_mb}m"
        command = [*base[:1], heap, *base[1:], "kafka.Kafka", str(properties)]
        return Launch(command, folder, dict(os.environ), {properties: text})

    def check(self, settings: Settings) -> None:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        # librdkafka would log each refused connection while the broker is starting.
        quiet = {"log_level": "0", "socket.timeout.ms": str(int(CHECK_TIMEOUT_S * 1000))}
        admin = AdminClient({**client_config(settings.kafka), **quiet})
        try:
            admin.list_topics(timeout=CHECK_TIMEOUT_S)
        except KafkaException as error:
            raise NotReadyError(error.args[0].str()) from error

    def prove(self, settings: Settings) -> None:
        """Nothing: the metadata that `check` asks for comes from a broker that is up."""


def server_properties(data: Path, ports: Mapping[str, int]) -> str:
    """The configuration of the one node."""
    broker, controller = (f"{LOOPBACK}:{ports[name]}" for name in ("broker", "controller"))
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{broker},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{broker}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}

# A first consumer need not wait for others to join its group.
group.initial.rebalance.delay.ms=0
# A topic is made by what knows its partitions and retention, never by a typing error.
auto.create.topics.enable=false
# Replayed events carry times of years ago: by age they would be deleted at once.
log.retention.ms=-1

# A killed broker is let in again only once the controller takes its predecessor for dead.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500

default.replication.factor=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# One node has no one to share these with: few partitions open faster.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=1

num.network.threads=2
num.io.threads=4
background.threads=2
"""


def _format(base: list[str], properties: Path) -> None:
    """Prepare an empty data folder; a broker refuses one that is not."""
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # One argument: one id in 64 begins with a dash, and would be taken for an option.
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}"]
    # For this second of work the fast first compiler does.
    command = [base[0], "-XX:TieredStopAtLevel=1", *base[1:], *tool, "--config", str(properties)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        raise ServerError(f"kafka: formatting {properties.parent} failed: {lines[-1:]}")
