"""Settings as people read them: what is wrong with each, and the whole as TOML, secrets masked.

Old names of settings, in a file and in the environment: read as the new ones, with a warning.

A source is translated before it meets the others, so that the environment wins over the file
whichever names they use.
"""

import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

import structlog
from headwater_client.errors import SettingsError, mask_logins
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from features.settings import Section

PREFIX = "HEADWATER_"
# What the checked-in feature_store.yaml and definitions ask for, not a setting of Headwater.
FEAST_PREFIX = "HEADWATER_FEAST_"
DELIMITER = "__"
MASK = "**********"

Model = type[BaseModel]
Location = tuple[int | str, ...]


def variable(key: str) -> str:
    """The environment variable of a key.

    >>> variable("kafka.partitions")
    'HEADWATER_KAFKA__PARTITIONS'
    """
    return PREFIX + key.replace(".", DELIMITER).upper()


def unknown_variables(model: Model, environment: Mapping[str, str]) -> Iterator[str]:
    """A line per misspelt section, which pydantic-settings would pass over in silence."""
    for name in sorted(environment):
        section = name.removeprefix(PREFIX).split(DELIMITER)[0].lower()
        unknown = name.startswith(PREFIX) and section not in model.model_fields
        if unknown and not _is_foreign(name, environment[name]):
            yield f"{name}: unknown setting{_suggest_variable(name, section, model)}"


def _suggest_variable(name: str, section: str, model: Model) -> str:
    """Two `_` part a section and its setting; one is the commonest mistake."""
    given = name.removeprefix(PREFIX).lower()
    for known, fields in sections(model):
        setting = given.removeprefix(f"{known}_")
        if setting != given and setting in fields.model_fields:
            return f"; did you mean {variable(f'{known}.{setting}')}?"
    return _suggestion(section, model)


def explain_json(error: Exception, environment: Mapping[str, str]) -> str:
    """Which variable is to hold JSON and does not: pydantic-settings names the section."""
    text = getattr(error.__cause__, "doc", None)
    found = (name for name, value in sorted(environment.items()) if value == text)
    names = ", ".join(name for name in found if name.upper().startswith(PREFIX))
    return f'{names or error}: lists and tables in a variable are written as JSON: ["a", "b"]'


# What Kubernetes sets for a Service, and Docker for a link, whose name begins with `headwater`.
_OF_SERVICES = (
    re.compile(r"\w*_SERVICE_(HOST|PORT(_\w+)?)=.*", re.DOTALL),
    re.compile(r"\w*_PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://.*", re.DOTALL),
    re.compile(r"\w*_PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=.*", re.DOTALL),
    re.compile(r"\w*_(NAME=/|ENV_\w+=).*", re.DOTALL),
)


def _is_foreign(name: str, value: str) -> bool:
    """Whether a variable is none of the settings, though its name begins as theirs do.

    >>> _is_foreign("HEADWATER_PORT", "tcp://10.0.0.9:80"), _is_foreign("HEADWATER_PORT", "80")
    (True, False)
    """
    text = f"{name.removeprefix(PREFIX.rstrip('_'))}={value}"
    of_service = any(pattern.fullmatch(text) for pattern in _OF_SERVICES)
    return (of_service and DELIMITER not in name) or name.startswith(FEAST_PREFIX)


def problems(model: Model, error: ValidationError) -> Iterator[str]:
    """A line per problem: the setting as key and variable, its value, what is wrong with it."""
    for detail in error.errors(include_url=False):
        if detail["type"] == "default_factory_not_called":
            continue  # what it derives from is wrong, and has a line of its own
        location, message = detail["loc"], detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            message = _explain_unknown(str(location[-1]), _section(model, location[:-1]))
        if location:
            message = f"{_name(location)}{_value(model, location, detail['input'])}: {message}"
        yield message


def _name(location: Location) -> str:
    key = ".".join(str(part) for part in location)
    # A variable holds a list whole.
    of_variable = takewhile(lambda part: isinstance(part, str), location)
    return f"{key} ({variable('.'.join(map(str, of_variable)))})"


def _value(model: Model, location: Location, value: object) -> str:
    """The refused value, unless it is a whole section or may be a secret."""
    if isinstance(value, dict | BaseModel):
        return ""
    field = _field(model, location)
    return f" = {MASK if field is None or is_secret(field) else mask_logins(repr(value))}"


def is_secret(field: FieldInfo) -> bool:
    """Whether what a setting holds is shown to nobody."""
    return "Secret" in str(field.annotation)


def _field(model: Model, location: Location) -> FieldInfo | None:
    """The field at this place, or the one that holds it: an item of a list has none itself."""
    section: Model | None = model
    field = None
    for part in location:
        if section is None:
            break
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part)
        section = _as_model(field.annotation) if field else None
    return field


def _section(model: Model, location: Location) -> Model | None:
    field = _field(model, location)
    return _as_model(field.annotation) if field else model


def _as_model(annotation: object) -> Model | None:
    """The section that a field is, or that a list of tables has; None for any other."""
    models = (
        each
        for each in (annotation, *get_args(annotation))
        if isinstance(each, type) and issubclass(each, BaseModel)
    )
    return next(models, None)


def _explain_unknown(name: str, section: Model | None) -> str:
    removed = getattr(section, "REMOVED", {})
    if name in removed:
        return f"this setting is gone: {removed[name]}"
    homes = () if section is None else sections(section)
    if found := [each for each, fields in homes if name in fields.model_fields]:
        return f"unknown setting; it is one of the section [{'], ['.join(found)}]"
    return f"unknown setting{_suggestion(name, section)}"


def _suggestion(name: str, section: Model | None) -> str:
    known = list(section.model_fields) if section else []
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def toml(settings: BaseModel) -> str:
    """The settings as a TOML file would hold them; what is not set stands in a comment."""
    fields = list(settings)
    head = [_line(name, value) for name, value in fields if not isinstance(value, BaseModel)]
    blocks = [head]
    for name, value in fields:
        if isinstance(value, BaseModel):
            blocks.append([f"[{name}]", *(_line(*item) for item in value)])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _line(name: str, value: object) -> str:
    return f"# {name} is not set" if value is None else f"{name} = {toml_literal(value)}"


def toml_literal(value: object) -> str:
    """A value as TOML has it; a secret is masked."""
    match value:
        case SecretStr():
            return f'"{MASK}"'
        case bool() | int() | float():
            return str(value).lower()
        case frozenset():
            return toml_literal(sorted(value))
        case BaseModel():
            pairs = (f"{name} = {toml_literal(item)}" for name, item in value)
            return f"{{ {', '.join(pairs)} }}"
        case tuple() | list():
            return f"[{', '.join(toml_literal(item) for item in value)}]"
        case _:
            return json.dumps(mask_logins(str(value)), ensure_ascii=False)


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


def other_variables(model: type[BaseModel], key: str) -> list[str]:
    """Environment variables that set a key by another name: an old one, or that of a file."""
    name, _, setting = key.partition(".")
    renamed = dict(sections(model))[name].RENAMED if setting else {}
    old = [f"{name}.{old}" for old, new in renamed.items() if new == setting]
    return [variable(each) for each in (*old, f"{key}_file")]


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
