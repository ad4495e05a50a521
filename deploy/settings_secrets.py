"""Secrets that stand in files of their own, as Docker and Kubernetes hand them on.

`store.password_file` in `headwater.toml`, or `HEADWATER_STORE__PASSWORD_FILE`, names the file in
which `store.password` is; and so for each secret.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headwater_client.errors import SettingsError
from pydantic import BaseModel

from deploy.settings_text import DELIMITER, PREFIX, is_secret, sections, variable

SUFFIX = "_file"
_MOST_BYTES = 64 * 1024


def read_named_secrets(
    model: type[BaseModel], given: Mapping[str, Any], path: Path | None
) -> dict[str, Any]:
    """The sections of a settings file with the secrets that it names files of.

    Raises:
        SettingsError: a file holds no secret, or the secret is given besides.
    """
    found = dict(given)
    for name, setting in _secrets(model):
        values = found.get(name)
        if isinstance(values, dict) and setting + SUFFIX in values:
            key = f"{path}: {name}.{setting}"
            _check_given_once(key, setting in values)
            named = dict(values)
            named[setting] = _read_secret(key + SUFFIX, named.pop(setting + SUFFIX))
            found[name] = named
    return found


def read_secret_variables(
    model: type[BaseModel], given: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Environment variables, in lower case, with the secrets that they name files of.

    Raises:
        SettingsError: a file holds no secret, or the secret is given besides.
    """
    found = dict(given)
    for name, setting in _secrets(model):
        key = f"{PREFIX}{name}{DELIMITER}{setting}".lower()
        if file := found.pop(key + SUFFIX, None):
            shown = variable(f"{name}.{setting}")
            _check_given_once(shown, bool(found.get(key)))
            found[key] = _read_secret(shown + SUFFIX.upper(), file)
    return found


def _secrets(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for name, section in sections(model):
        yield from (
            (name, each) for each, field in section.model_fields.items() if is_secret(field)
        )


def _check_given_once(key: str, is_given: bool) -> None:
    if is_given:
        raise SettingsError(f"{key}: is given, and a file that it is in, too: remove one of them")


def _read_secret(key: str, named: object) -> str:
    """What a file holds, without the line break behind it."""
    if not isinstance(named, str):
        raise SettingsError(f"{key} = {named!r}: is no path of a file")
    try:
        with Path(named).open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
        secret = raw.decode().rstrip("\r\n")
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or "is no text in UTF-8"
        raise SettingsError(f"{key} = {named!r}: cannot be read: {said}") from None
    if not secret or len(raw) > _MOST_BYTES:
        raise SettingsError(
            f"{key} = {named!r}: {'is empty' if not secret else 'is too large for a secret'}"
        )
    return secret
