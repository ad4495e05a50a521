"""Old names of settings, in a file and in the environment: read as the new ones, with a warning.

A source is translated before it meets the others, so that the environment wins over the file
whichever names they use.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import structlog
from headwater_client.errors import SettingsError
from pydantic import BaseModel

from deploy.settings_text import DELIMITER, PREFIX, variable
from features.settings import Section

UNTIL = "0.3.0"
"""The release that no longer knows the old names of the settings."""


def sections(model: type[BaseModel]) -> Iterator[tuple[str, type[Section]]]:
    """The sections of the settings, by name."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield name, kind


def current_sections(
    model: type[BaseModel], given: Mapping[str, Any], path: Path | None
) -> dict[str, Any]:
    """The sections of a settings file with the names of today.

    Raises:
        SettingsError: a setting is there by both of its names.
    """
    found = dict(given)
    for name, section in sections(model):
        values = found.get(name)
        if isinstance(values, dict):
            renames = {old: new for old, new in section.RENAMED.items() if old in values}
            for old, new in renames.items():
                if new in values:
                    raise SettingsError(_twice(f"{path}: {name}.{old}", f"{name}.{new}"))
                _warn(f"{path}: {name}.{old}", f"{name}.{new}")
            found[name] = section.with_current_names(values)
    return found


def current_variables(
    model: type[BaseModel], given: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Environment variables, in lower case, with the names of today.

    Raises:
        SettingsError: a setting is there by both of its names.
    """
    found = dict(given)
    for name, section in sections(model):
        for old, new in section.RENAMED.items():
            before, now = (f"{PREFIX}{name}{DELIMITER}{each}".lower() for each in (old, new))
            if before in found:
                if now in found:
                    raise SettingsError(_twice(before.upper(), now.upper()))
                _warn(variable(f"{name}.{old}"), variable(f"{name}.{new}"))
                found[now] = found.pop(before)
    return found


def old_variables(model: type[BaseModel], key: str) -> list[str]:
    """Environment variables that set a key by an old name."""
    name, _, setting = key.partition(".")
    renamed = dict(sections(model))[name].RENAMED if setting else {}
    return [variable(f"{name}.{old}") for old, new in renamed.items() if new == setting]


def _twice(old: str, new: str) -> str:
    return f"{old}: is the old name of {new}, which is given too: remove the old one"


@cache
def _warn(old: str, new: str) -> None:
    """Say it once a process: in the log of a service, as a line for people elsewhere."""
    if structlog.is_configured():
        structlog.get_logger().warning("setting_renamed", old=old, new=new, accepted_until=UNTIL)
    else:
        sys.stderr.write(
            f"headwater: {old}: is now {new}: rename it; accepted until release {UNTIL}\n"
        )
