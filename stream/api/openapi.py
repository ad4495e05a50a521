"""The HTTP API as an OpenAPI 3.1 document, and the document as a page that needs no other host."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import msgspec
from headwater_client import EVENT_TYPES
from headwater_client.admin import ADMIN_OPERATIONS
from headwater_client.contract import MAX_EVENTS, EventsAnswer, PlacementName, Problem, TrialAction
from headwater_client.events import Id
from headwater_client.operations import CLOUD_EVENT, CLOUD_EVENTS, OPERATIONS, Operation
from msgspec import Struct

from stream.api.problems import KINDS, MEDIA_TYPE

VERSION = "1.0.0"
ALL_OPERATIONS = (*OPERATIONS, *ADMIN_OPERATIONS)
# What shows the system answers its operations, and no other process does.
CONSOLE = {"url": "http://127.0.0.1:8090", "description": "headwater console"}
_REF = "#/components/schemas/{name}"
_FILLED_IN = ("event_id", "timestamp", "user_id")
_Document = dict[str, Any]
_CLOUD_BODIES = {
    CLOUD_EVENT: {"$ref": _REF.format(name="CloudEvent")},
    CLOUD_EVENTS: {"$ref": _REF.format(name="CloudEvents")},
}


def make_openapi(operations: Sequence[Operation] = ALL_OPERATIONS) -> _Document:
    """The OpenAPI 3.1 document of operations; by default of all, those of the console too."""
    kinds: set[type[Struct]] = {Problem, *(spec.struct for spec in EVENT_TYPES.values())}
    for operation in operations:
        kinds |= {kind for kind in (operation.body, operation.answer, operation.query) if kind}
    named = sorted(kinds, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(named, ref_template=_REF)
    schemas |= _event_schemas(schemas)
    paths: _Document = {}
    for operation in operations:
        described = _describe(operation, schemas)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    # What is in a query string is said there.
    for kind in {operation.query for operation in operations if operation.query}:
        del schemas[kind.__name__]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headwater",
            "version": VERSION,
            "description": "Ask and be answered: an answer knows the events that came with the "
            "request. Times are integer milliseconds UTC. Answers grow by optional fields only: "
            "ignore the ones that you do not know.",
            "license": {"name": "Apache-2.0"},
        },
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a key of `headwater keys add`",
                }
            },
        },
    }


def _event_schemas(schemas: Mapping[str, Any]) -> _Document:
    """Events as the API takes them: with their type, and without what it fills in."""
    made: _Document = {}
    for name, spec in EVENT_TYPES.items():
        known = schemas[spec.struct.__name__]
        required = [field for field in known["required"] if field not in _FILLED_IN]
        made[f"{spec.struct.__name__}Event"] = known | {
            "title": f"{spec.struct.__name__}Event",
            "properties": {"type": {"const": name}, **known["properties"]},
            "required": ["type", *required],
        }
    references = [{"$ref": _REF.format(name=name)} for name in made]
    made["Event"] = {
        "description": "An event of a registered type. A new `event_id`, `timestamp` now and, "
        "where the request names a person, `user_id` are filled in.",
        "oneOf": references,
        "discriminator": {
            "propertyName": "type",
            "mapping": {
                name: reference["$ref"]
                for name, reference in zip(EVENT_TYPES, references, strict=True)
            },
        },
    }
    # By names, so that a new type of event is seen to be no other change of the request.
    made["SentEvent"] = {
        "description": "An event that says whose it is.",
        "$ref": _REF.format(name="Event"),
        "required": ["user_id"],
    }
    sent = {"$ref": _REF.format(name="SentEvent")}
    made["SentEvents"] = {"type": "array", "items": sent, "minItems": 1, "maxItems": MAX_EVENTS}
    made |= _cloud_schemas(made)
    for query in ("RecommendationQuery", "RankQuery", "TogetherQuery"):
        schemas[query]["properties"]["events"]["items"] = {"$ref": _REF.format(name="Event")}
    for spec in EVENT_TYPES.values():
        made[spec.struct.__name__] = schemas[spec.struct.__name__]
    return made


def _cloud_schemas(events: Mapping[str, Any]) -> _Document:
    """CloudEvents: attributes, and in `data` the fields of an event that they do not have."""
    made: _Document = {}
    for name, spec in EVENT_TYPES.items():
        event = events[f"{spec.struct.__name__}Event"]
        fields = {
            field: kind
            for field, kind in event["properties"].items()
            if field not in ("type", *_FILLED_IN)
        }
        needed = [field for field in event["required"] if field in fields]
        text, identity = {"type": "string", "minLength": 1}, event["properties"]["event_id"]
        attributes = {
            "specversion": {"const": "1.0"},
            "id": identity,
            "source": text,
            "type": {"type": "string", "pattern": rf"^([^.]*\.)*{name}$"},
            "subject": identity,
        }
        made[f"{spec.struct.__name__}CloudEvent"] = {
            "title": f"{spec.struct.__name__}CloudEvent",
            "type": "object",
            "properties": {
                **attributes,
                "time": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
                "data": {"type": "object", "properties": fields, "required": needed},
            },
            "required": [*attributes, "data"],
        }
    made["CloudEvent"] = {
        "description": "A CloudEvent 1.0: `id` is the `event_id`, `type` ends with the event's "
        "type, `subject` is the person, `time` the timestamp, and `data` has the other fields. In "
        "binary mode the attributes are headers (`ce-id`, ...), and the body is `data`.",
        "oneOf": [{"$ref": _REF.format(name=name)} for name in made],
    }
    one = {"$ref": _REF.format(name="CloudEvent")}
    made["CloudEvents"] = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_EVENTS}
    return made


def _describe(operation: Operation, schemas: Mapping[str, Any]) -> _Document:
    described: _Document = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": ["admin"] if operation.is_admin else [],
        "servers": [CONSOLE] if operation.is_admin else [],
        "parameters": [*_path_parameters(operation), *_query_parameters(operation, schemas)],
        "responses": _responses(operation),
    }
    if operation.scope:
        described["description"] = f"Asks for a key with the scope `{operation.scope}`."
    if operation.is_open:
        described["security"] = []
    if body := _body_schema(operation):
        described["requestBody"] = {
            "required": True,
            "content": {
                kind: {"schema": _CLOUD_BODIES.get(kind, body)} for kind in operation.media_types
            },
        }
    return {name: value for name, value in described.items() if value or name == "security"}


def _body_schema(operation: Operation) -> _Document:
    if operation.answer is EventsAnswer:
        return {"oneOf": [{"$ref": _REF.format(name=f"SentEvent{s}")} for s in ("", "s")]}
    return {"$ref": _REF.format(name=operation.body.__name__)} if operation.body else {}


_PATH_SCHEMAS: dict[str, _Document] = {
    "name": msgspec.json.schema(PlacementName),
    "item": msgspec.json.schema(Id),
    "action": {"type": "string", "enum": [each.value for each in TrialAction]},
}


def _path_parameters(operation: Operation) -> Iterator[_Document]:
    for name in re.findall(r"{(\w+)}", operation.path):
        schema = _PATH_SCHEMAS.get(name, {"type": "string"})
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(operation: Operation, schemas: Mapping[str, Any]) -> Iterator[_Document]:
    if operation.query is None:
        return
    for name, schema in schemas[operation.query.__name__]["properties"].items():
        kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
        yield {"name": name, "in": "query", "required": False, "schema": kinds[0]}


def _responses(operation: Operation) -> _Document:
    made = {"description": "answered"}
    content = {"text/plain": {"schema": {"type": "string"}}}
    if operation.answer is not None:
        reference = {"$ref": _REF.format(name=operation.answer.__name__)}
        content = {"application/json": {"schema": reference}}
    elif operation.name == "tell_contract":
        content = {"application/json": {"schema": {"type": "object"}}}
    elif operation.name == "stream_live":
        content = {"text/event-stream": {"schema": {"type": "string"}}}
    elif operation.name == "show_contract":
        content = {"text/html": {"schema": {"type": "string"}}}
    responses: _Document = {"200": {**made, "content": content}}
    if operation.is_open:
        responses["503"] = {"description": "not so; `missing` says why", "content": content}
        return responses
    problem = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}}
    responses["default"] = {"description": "a problem (RFC 9457)", "content": problem}
    return responses


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{border-top:1px solid #ddd;padding-top:1rem}code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:#f6f6f6;padding:.7rem;overflow:auto}table{border-collapse:collapse}
td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}.m{color:#06c}
"""


def render_page(document: Mapping[str, Any]) -> str:
    """The document as one page of HTML: neither a script nor anything of another host."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{_text(info['description'])}</p>",
        "<p>For programs: <a href='/openapi.json'>openapi.json</a>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _render_operation(path, method, operation)
    parts.append("<h2 id='problems'>Problems</h2><table>")
    for name, kind in KINDS.items():
        parts.append(
            f"<tr id='{name}'><td><code>{name}</code></td><td>{kind.status}</td>"
            f"<td>{_text(f'{kind.title}. {kind.text}')}</td></tr>"
        )
    parts.append("</table><h2 id='schemas'>Schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f"<h3 id='{escape(name)}'>{escape(name)}</h3>{_render_schema(schema)}")
    return "\n".join([*parts, "</body></html>"])


def _render_operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    name, title = escape(operation["operationId"]), f"<code>{escape(path)}</code>"
    yield f"<h2 id='{name}'><span class='m'>{method.upper()}</span> {title}</h2>"
    yield f"<p>{_text(operation['summary'])}. {_text(operation.get('description', ''))}</p>"
    for parameter in operation.get("parameters", ()):
        schema = escape(json.dumps(parameter["schema"]))
        yield f"<p><code>{escape(parameter['name'])}</code> ({parameter['in']}): {schema}</p>"
    told = {"takes": operation.get("requestBody"), "answers": operation["responses"]["200"]}
    for word, part in told.items():
        for content in (part or {}).get("content", {}).values():
            names = re.findall(r"schemas/(\w+)", json.dumps(content["schema"]))
            links = ", ".join(f"<a href='#{each}'>{each}</a>" for each in dict.fromkeys(names))
            yield f"<p>{word} {links or 'text'}</p>"


def _render_schema(schema: Mapping[str, Any]) -> str:
    about = f"<p>{_text(schema.get('description', ''))}</p>"
    rows = []
    for name, field in schema.get("properties", {}).items():
        needed = "required" if name in schema.get("required", ()) else ""
        kind = escape(json.dumps(field, ensure_ascii=False))
        rows.append(
            f"<tr><td><code>{escape(name)}</code></td><td>{needed}</td><td>{kind}</td></tr>"
        )
    return about + (f"<table>{''.join(rows)}</table>" if rows else "")


def _text(text: str) -> str:
    """Plain text as HTML; what stands in back-ticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
