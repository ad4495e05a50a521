"""Feast's own command line reads the rows, with no code of ours."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
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


def feast(folder: Path, *arguments: str) -> str:
    program = Path(sys.executable).with_name("feast")
    own = {k: v for k, v in os.environ.items() if not k.startswith(("HEADWATER_", "PYTHONPATH"))}
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=own, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_feast_lists_and_reads(servers: Settings) -> None:
    asyncio.run(write_ann(servers))
    folder = feature_repo(servers)
    views = feast(folder, "feature-views", "list")
    for view in read_views()["views"]:
        assert view in views
    columns = ("counters", "history_times_ms")
    wanted = [part for name in columns for part in ("-f", f"user_activity:{name}")]
    found = feast(folder, "get-online-features", "-e", "user_id=ann-of-feast", *wanted)
    assert str(NOW_MS) in found


def test_feast_applies_the_repository_by_itself(servers: Settings, tmp_path: Path) -> None:
    source = feature_repo(servers)
    for name in ("definitions.py", "feature_store.yaml", "views.yaml"):
        (tmp_path / name).write_text((source / name).read_text())
    feast(tmp_path, "apply")
    assert "user_activity" in feast(tmp_path, "feature-views", "list")
