"""Writes what the Helm chart has of the code: which settings there are, and the alerts.

uv run python tools/helm_chart.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from deploy.settings import Settings

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "headwater"
ALERTS = ROOT / "deploy" / "monitoring" / "alerts.yml"
SCHEMA, VALUES, CHART_ALERTS = "values.schema.json", "values.yaml", "files/alerts.yml"

Schema = dict[str, Any]
# What draft 7 knows, so that every Helm 3 can read it. Formats of pydantic are none of its own.
_LEFT_OUT = ("title", "format", "writeOnly")


def render_schema(schema: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The chart's schema with the settings as they are now; the rest of it stays.

    Args:
        schema: the one that is there.
        values: those that the chart comes with: a setting that has one there cannot be taken away,
            since templates read it.
    """
    found = dict(schema)
    given = values["config"]
    config, secrets = _sections(Settings, given)
    found["properties"] = found["properties"] | {"config": config, "secretConfig": secrets}
    return json.dumps(found, indent=2) + "\n"


def _sections(model: type[BaseModel], given: Mapping[str, Any]) -> tuple[Schema, Schema]:
    """The schemas of `config`, without what is secret, and of `secretConfig`."""
    whole = model.model_json_schema()
    config: Schema = {}
    secrets: Schema = {}
    for name, listed in whole["properties"].items():
        found = _inline(listed, whole["$defs"])
        if "properties" not in found:
            config[name] = _setting(found, is_required=name in given)
            continue
        settings = found["properties"]
        secret = {each for each, schema in settings.items() if _is_secret(schema)}
        needed = given.get(name, {})
        open_settings = {
            each: _setting(schema, is_required=each in needed)
            for each, schema in settings.items()
            if each not in secret
        }
        config[name] = _section(open_settings, found.get("description", ""), list(needed))
        if secret:
            by_name = {each: _reference(settings[each]) for each in settings if each in secret}
            secrets[name] = _section(by_name, "Secrets with the settings of this section")
    about = "headwater.toml, as docs/reference/settings.md lists it"
    return _section(config, about, list(given)), _section(secrets, "Secrets with settings")


def _section(properties: Schema, description: str, required: list[str] | None = None) -> Schema:
    found = {
        "type": "object",
        "description": " ".join(description.split()),
        "additionalProperties": False,
        "properties": properties,
    }
    return found | ({"required": sorted(required)} if required else {})


def _inline(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with what it refers to in place of the reference."""
    if isinstance(schema, list):
        return [_inline(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        beside = {name: each for name, each in schema.items() if name != "$ref"}
        schema = definitions[schema["$ref"].split("/")[-1]] | beside
    return {name: _inline(each, definitions) for name, each in schema.items()}


def _is_secret(schema: Mapping[str, Any]) -> bool:
    return any(each.get("format") == "password" for each in [schema, *schema.get("anyOf", ())])


def _reference(schema: Mapping[str, Any]) -> Schema:
    """An object that names a Secret. Draft 7 passes over what stands beside the reference."""
    return {"$ref": "#/definitions/secretKey", "description": schema["description"]}


def _setting(schema: Mapping[str, Any], *, is_required: bool) -> Schema:
    """A setting's schema. Where the chart comes with no value, null stands for the default."""
    kinds = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    found = _clean({name: each for name, each in schema.items() if name != "anyOf"})
    if len(kinds) == 1:
        found = _clean(kinds[0]) | found
    elif kinds:
        found["anyOf"] = [_clean(each) for each in kinds] + [{"type": "null"}] * (not is_required)
    if found.get("default") is None or is_required:
        found.pop("default", None)
    if is_required:
        # A port of 0 opens none, and probes need it.
        return found | ({"minimum": 1} if found.get("minimum") == 0 else {})
    if "type" in found:
        found["type"] = [found["type"], "null"]
    if "enum" in found:
        found["enum"] = [*found["enum"], None]
    return found


def _clean(schema: Any, *, of_fields: bool = False) -> Any:
    """The schema without what draft 7 does not know. Names of fields are no keywords."""
    if isinstance(schema, list):
        return [_clean(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _clean(each, of_fields=name == "properties")
        for name, each in schema.items()
        if of_fields or name not in _LEFT_OUT
    }


def main() -> None:
    """Write the files of the chart that are made."""
    schema, values = (yaml.safe_load((CHART / name).read_text()) for name in (SCHEMA, VALUES))
    (CHART / SCHEMA).write_text(render_schema(schema, values))
    (CHART / CHART_ALERTS).write_text(ALERTS.read_text())


if __name__ == "__main__":
    main()
