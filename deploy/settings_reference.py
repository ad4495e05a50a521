"""The reference of all settings as a page of Markdown, made from their definitions."""

from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from deploy.settings_text import UNTIL, sections, toml_literal, variable

HEAD = f"""# Settings

<!-- Made by `headwater config --reference`: change the descriptions in the code, not here. -->

Settings come from `headwater.toml` in the folder where a command starts (or from the file that
`HEADWATER_CONFIG` names), and from environment variables, which win over the file. A variable is
the section and the name of the setting: `trainer.batch_size` is `HEADWATER_TRAINER__BATCH_SIZE`;
lists are written as JSON. A secret can stand in a file of its own, which the same name with `_file`
behind it leads to: `store.password_file`, `HEADWATER_STORE__PASSWORD_FILE`. `headwater config`
prints the effective settings. A wrong value ends a command with exit code 2 and a line that names
the setting, its value and what is wrong with it.

Old names are accepted until release {UNTIL}, with a warning that names the new one.
"""
_COLUMNS = "| setting | value | default | what it is |\n|---|---|---|---|\n"
_RANGES = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "minLength": "not empty",
    "minItems": "not empty",
}


def render_reference(model: type[BaseModel]) -> str:
    """The page: a table for each section, and one for what stands outside of them."""
    parts = dict(sections(model))
    alone = {name: field for name, field in model.model_fields.items() if name not in parts}
    blocks = [HEAD, _block("Outside of the sections", "", _rows(model, alone, "", {}))]
    for name, section in parts.items():
        old_names = {new: old for old, new in section.RENAMED.items()}
        rows = _rows(section, section.model_fields, f"{name}.", old_names)
        blocks.append(_block(f"`[{name}]`", section.__doc__ or "", rows, section.REMOVED))
    return "\n".join(blocks)


def _block(
    title: str, intro: str, rows: Iterator[str], removed: Mapping[str, str] | None = None
) -> str:
    gone = "".join(f"\n`{name}` is gone: {text}.\n" for name, text in (removed or {}).items())
    intro = f"{intro.strip()}\n\n" if intro else ""
    return f"## {title}\n\n{intro}{_COLUMNS}{''.join(rows)}{gone}"


def _rows(
    model: type[BaseModel],
    fields: Mapping[str, FieldInfo],
    prefix: str,
    old_names: Mapping[str, str],
) -> Iterator[str]:
    schema = model.model_json_schema()
    for name, field in fields.items():
        key = f"{prefix}{name}"
        value = _value(schema["properties"][name], schema.get("$defs", {}))
        was = f" Old name: `{old_names[name]}`." if name in old_names else ""
        text = f"{field.description}.{was}<br>`{variable(key)}`"
        yield f"| `{key}` | {value} | {_default(field)} | {text} |\n"


def _default(field: FieldInfo) -> str:
    """The default as a settings file has it; what is computed, the description says."""
    value = field.default
    if value is PydanticUndefined and get_origin(field.annotation) is frozenset:
        value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value in (None, PydanticUndefined) else f"`{toml_literal(value)}`"


def _value(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a value may be, in words, from its JSON schema."""
    schema = definitions[schema["$ref"].split("/")[-1]] if "$ref" in schema else schema
    if schema.get("type") == "object":
        return f"tables of {', '.join(f'`{name}`' for name in schema['properties'])}"
    if "anyOf" in schema:
        kinds = [each for each in schema["anyOf"] if each.get("type") != "null"]
        return ", ".join(_value(each, definitions) for each in kinds)
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    kind = _kind(schema)
    if kind == "list":
        kind = f"list of {_value(schema['items'], definitions)}"
    limits = [_RANGES[name].format(schema[name]) for name in _RANGES if name in schema]
    return ", ".join([kind, *limits])


def _kind(schema: Mapping[str, Any]) -> str:
    kinds = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    special = {"path": "folder", "password": "secret"}
    named = special.get(schema.get("format", ""))
    return named or kinds.get(schema["type"], {"array": "list"}.get(schema["type"], "text"))
