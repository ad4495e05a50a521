"""What a local server is: where it is named in the settings, how it starts, when it is well."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from deploy.settings import Settings

Progress = Callable[[str, str], None]
"""Called with the name of a server and what is happening to it."""


class NotReadyError(Exception):
    """A server does not answer, or not yet; never leaves this package."""


class Launch(msgspec.Struct, frozen=True):
    """How to start a server; `files` are written first."""

    command: list[str]
    folder: Path
    environment: dict[str, str]
    files: dict[Path, str] = {}

    @property
    def fingerprint(self) -> str:
        """The same for two launches that start the same server."""
        parts = [*self.command, *(f"{path}\n{text}" for path, text in self.files.items())]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class Server(Protocol):
    """One of the servers that Headwater needs."""

    name: str
    setting: str
    """The key of the setting that names a server elsewhere."""

    def address(self, settings: Settings) -> str | None:
        """Where the settings say that the server is."""

    def with_address(self, settings: Settings, address: str) -> Settings:
        """The settings with this address."""

    def ports(self, settings: Settings) -> dict[str, int]:
        """The ports that it would like, by use; the first one is the address."""

    def launch(self, settings: Settings, ports: Mapping[str, int], progress: Progress) -> Launch:
        """How to start it here; fetches what it needs. ServerError if it cannot be had."""

    def check(self, settings: Settings) -> None:
        """Return if the server at the settings' address answers, else raise NotReadyError."""

    def prove(self, settings: Settings) -> None:
        """Once after a start: a known request has its known answer, else ServerError."""
