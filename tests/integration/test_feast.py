"""Feast's own command line reads the rows, with no code of ours."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from headwater_client.event_types import CLICK

from deploy.local.store import feature_repo
from deploy.settings import Settings
from features.columns import encode_user
from features.rows import Observation, apply_event, empty_user
from features.schema import FeatureSchema
from features.store import USERS, VERSION, RowWrite, read_views
from features.store.redis import RedisRowStore
from features.topics import hash64, source_hash

pytestmark = pytest.mark.integration
NOW_MS = 1_700_000_000_000
END = "\x1e"
PROGRAM = f"""
import json, sys
from feast.cli.cli import cli
for command in json.loads(sys.argv[1]):
    cli(command, standalone_mode=False)
    print(end={END!r})
if "features" in sys.modules:
    sys.exit("the repository needs a module of ours")
"""


async def write_ann(settings: Settings) -> None:
    schema = FeatureSchema(settings.features)
    row = empty_user(schema)
    seen = Observation(
        CLICK.code, "ann", "lamp", hash64("lamp"), NOW_MS, hash64("e"), source_hash("t", 0), 0
    )
    apply_event(row, seen, schema)
    store = RedisRowStore(settings.store)
    write = RowWrite(USERS, "ann-of-feast", encode_user(row), NOW_MS, VERSION, None)
    assert await store.write([write]) == [True]
    assert await store.write([write]) == [False], "a row that is there is not written over"
    await store.close()


def feast(*commands: Sequence[object]) -> list[str]:
    """What `feast` prints to each of some commands.

    One process runs them all, as its program would each: to import Feast takes seconds.
    """
    own = {k: v for k, v in os.environ.items() if not k.startswith(("HEADWATER_", "PYTHONPATH"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([[*map(str, each)] for each in commands])],
        cwd="/",
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(END)[:-1]


def test_feast_reads_what_is_written_and_applies_the_repository_by_itself(
    servers: Settings, tmp_path: Path
) -> None:
    asyncio.run(write_ann(servers))
    ours = feature_repo(servers)
    for name in ("definitions.py", "feature_store.yaml", "views.yaml"):
        (tmp_path / name).write_text((ours / name).read_text())
    columns = ("counters", "history_times_ms")
    wanted = [part for name in columns for part in ("-f", f"user_activity:{name}")]
    views, found, _, applied = feast(
        ["-c", ours, "feature-views", "list"],
        ["-c", ours, "get-online-features", "-e", "user_id=ann-of-feast", *wanted],
        ["-c", tmp_path, "apply"],
        ["-c", tmp_path, "feature-views", "list"],
    )
    for view in read_views()["views"]:
        assert view in views
        assert view in applied
    assert str(NOW_MS) in found
