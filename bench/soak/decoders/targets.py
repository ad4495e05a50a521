"""What reads bytes that others wrote: each decoder as a function of bytes, for a fuzzer.

A decoder takes its bytes, or refuses them by an error that its contract names. Whatever else comes
out of a target is a defect: another error, or something taken that cannot be written again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from headwater_client import EVENT_TYPES, EventError, Item, decode, encode
from headwater_client.admin import ADMIN_OPERATIONS
from headwater_client.contract import PlacementRules
from headwater_client.events import DeadLetter, Recommendation
from headwater_client.operations import OPERATIONS
from starlette.datastructures import QueryParams

from bench.harness.hostile import generate_hostile_messages
from bench.soak.decoders import samples
from bench.soak.decoders.files import make_files_of_others, make_own_files
from bench.soak.decoders.target import FuzzTarget
from deploy.rollout.feedback.consumer import decode_feedback
from features import columns
from features.events import EventReader
from features.placements import check_placement
from features.rollout_messages import decode_rollout_message
from features.rows import empty_group, empty_user
from features.rules.errors import RuleError
from features.rules.filters import compile_filter
from features.schema import FeatureSchema
from features.settings import EventSettings, FeatureSettings
from features.store import ATTRIBUTES, CATALOGUE, FEEDBACK, TRENDING, USERS, StoreTable
from stream.api.cloud_events import read_cloud_event
from stream.api.compat import metarank_forms
from stream.api.compat.values import EventAliases
from stream.api.http import read_query
from stream.api.intake import EventIntake
from stream.api.messages import message_class, read_message
from stream.api.proto import request_name
from stream.catalogue import parse_item
from stream.identities import IdentityReader
from stream.people import parse_attributes

# How a target's bytes hold the columns of a row: a length of two bytes before each; or no column.
_NO_COLUMN = 0xFFFF


def make_targets(folder: Path) -> dict[str, FuzzTarget]:
    """All decoders, by name.

    Args:
        folder: where those of files put them; it is theirs.
    """
    targets = {
        **_make_messages(),
        **_make_requests(),
        **_make_rows(),
        **make_own_files(folder),
        **make_files_of_others(folder),
    }
    return {
        name: replace(each, seeds=(*each.seeds, *samples.ODD)) for name, each in targets.items()
    }


def _make_messages() -> dict[str, FuzzTarget]:
    """Of topics."""
    messages = generate_hostile_messages(7, samples.NOW_MS, large_share=0)
    hostile = tuple(each.value or b"" for each in islice(messages, 300))
    identities = IdentityReader(FeatureSchema(FeatureSettings()), lambda *_: None)
    reader = EventReader(EventSettings(), clock=lambda: samples.NOW_MS)
    targets = {
        f"topic.{spec.topic}": FuzzTarget(
            lambda raw, topic=spec.topic: encode(reader.read(topic, raw, samples.NOW_MS)),  # type: ignore[misc]
            (EventError,),
            (samples.CLICK_EVENT, samples.RATED, *hostile),
        )
        for spec in EVENT_TYPES.values()
    }
    targets |= {
        f"message.{struct.__name__}": FuzzTarget(
            lambda raw, struct=struct: encode(decode(struct, raw)),  # type: ignore[misc]
            (EventError,),
            (samples.LETTER, *hostile),
        )
        for struct in (Recommendation, DeadLetter)
    }
    targets |= {
        f"rollouts{key}": FuzzTarget(
            lambda raw, key=key: encode(  # type: ignore[misc]
                decode_rollout_message(f"{samples.MODEL}{key}", raw, samples.MODEL)
            ),
            (EventError,),
            (right, *hostile),
        )
        for key, right in samples.ROLLOUTS.items()
    }
    person = b'{"user_id":"ann","attributes":{"city":"Ghent","age":41}}'
    return targets | {
        "topic.items": FuzzTarget(
            lambda raw: parse_item(b"i", raw), (EventError,), (samples.ITEM, *hostile)
        ),
        "topic.people": FuzzTarget(
            lambda raw: parse_attributes(b"ann", raw), (EventError,), (person, *hostile)
        ),
        "topic.identities": FuzzTarget(
            lambda raw: encode(identities.read(samples.IDENTITY_KEY, raw)[0]),
            (EventError,),
            (*samples.IDENTITIES, *hostile),
        ),
        "topic.placements": FuzzTarget(
            _read_placement, (EventError, RuleError), (samples.PLACEMENT, *hostile)
        ),
    }


def _read_placement(raw: bytes) -> object:
    placement = decode(PlacementRules, raw)
    check_placement("home", placement)
    return encode(placement)


def _make_requests() -> dict[str, FuzzTarget]:
    """Of the API and the console: bodies in JSON and protobuf, query strings, events, filters."""
    intake = EventIntake(EventSettings(), clock=lambda: samples.NOW_MS)
    cloud = (
        b'{"specversion":"1.0","type":"shop.click","id":"e","source":"/shop","subject":"ann",'
        b'"time":"2025-11-24T16:00:00Z","data":{"item_id":"i"}}'
    )
    metarank = (
        b'[{"event":"interaction","id":"e","item":"i","user":"ann","session":"s","type":"click",'
        b'"timestamp":"1764000000000","fields":[{"name":"a","value":1}]}]'
    )
    operations = (*OPERATIONS, *ADMIN_OPERATIONS)
    bodies = {each.body.__name__: each.body for each in operations if each.body}
    targets = {
        f"body.{name}": FuzzTarget(
            lambda raw, struct=struct: encode(decode(struct, raw)),  # type: ignore[misc]
            (EventError,),
            samples.BODIES,
        )
        for name, struct in bodies.items()
    }
    queries = {each.query.__name__: each.query for each in operations if each.query}
    targets |= {
        f"query.{name}": FuzzTarget(
            lambda raw, struct=struct: encode(read_query(struct, QueryParams(raw))),  # type: ignore[misc]
            (EventError,),
            samples.QUERY_STRINGS,
        )
        for name, struct in queries.items()
    }
    targets |= {
        f"protobuf.{name}": FuzzTarget(
            lambda raw, name=name: read_message(message_class(name), raw),  # type: ignore[misc]
            (EventError,),
            (b"\n\x03ann",),
        )
        for name in map(request_name, OPERATIONS)
    }
    return targets | {
        "event": FuzzTarget(intake.read, (EventError,), (samples.CLICK_EVENT,)),
        "cloud_event": FuzzTarget(
            lambda raw: read_cloud_event(intake, raw),
            (EventError,),
            (cloud, samples.CLOUD_OF_NO_TEXT),
        ),
        "metarank": FuzzTarget(_read_metarank, (EventError,), (metarank,)),
        "filter": FuzzTarget(_compile, (RuleError, UnicodeDecodeError), samples.FILTERS),
    }


def _read_metarank(raw: bytes) -> None:
    for each in metarank_forms.read_events(raw):
        said = decode(metarank_forms.MetarankEvent, each)
        if said.event == "interaction":
            encode(metarank_forms.make_event(said, EventAliases(())))
        elif said.event == "item":
            encode(metarank_forms.make_item(said, None))
        elif said.event == "user":
            encode(metarank_forms.make_attributes(said, {}))


def _compile(raw: bytes) -> None:
    compile_filter(raw.decode())


def _make_rows() -> dict[str, FuzzTarget]:
    """Of the feature store."""
    schema = FeatureSchema(FeatureSettings())
    person = columns.encode_user(empty_user(schema))
    item = columns.encode_item(decode(Item, samples.ITEM), 1, 2)
    attributes = columns.encode_attributes({"city": "Ghent"}, (1, 2))
    group = columns.encode_group(empty_group(schema))

    def make(
        table: StoreTable, read: Callable[[Mapping[str, bytes | None]], object], *rows: Any
    ) -> FuzzTarget:
        seeds = tuple(_join(row.get(name) for name in table.columns) for row in rows)
        return FuzzTarget(
            lambda raw: read(_split(raw, table.columns)),
            (columns.DamagedRowError,),
            (*seeds, b""),
        )

    def write_again(stored: Mapping[str, bytes | None]) -> None:
        columns.encode_user(columns.decode_user(stored, schema))

    return {
        "row.user": make(USERS, write_again, person),
        "row.attributes": make(ATTRIBUTES, columns.decode_attributes, attributes),
        "row.catalogue": make(
            CATALOGUE, lambda stored: columns.decode_catalogue_item("i", stored), item
        ),
        "row.entry": make(CATALOGUE, columns.decode_catalogue_entry, item),
        "row.trending": make(TRENDING, lambda stored: columns.decode_trending(stored, schema)),
        "row.feedback": make(FEEDBACK, decode_feedback),
        "row.group": FuzzTarget(
            lambda raw: columns.encode_group(columns.decode_group(raw, schema)),
            (columns.DamagedRowError,),
            (group,),
        ),
        "row.pair": FuzzTarget(columns.decode_pair, (columns.DamagedRowError,), (item["offsets"],)),
    }


def _join(values: Iterable[bytes | None]) -> bytes:
    return b"".join(
        _NO_COLUMN.to_bytes(2, "big") if each is None else len(each).to_bytes(2, "big") + each
        for each in values
    )


def _split(raw: bytes, names: Sequence[str]) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for name in names:
        size, raw = int.from_bytes(raw[:2], "big"), raw[2:]
        found[name] = None if size == _NO_COLUMN else raw[:size]
        raw = raw if size == _NO_COLUMN else raw[size:]
    return found
