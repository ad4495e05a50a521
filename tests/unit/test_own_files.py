"""Files and marks of Headwater's own that are damaged: one line each, whatever they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from headwater_client.errors import DataError, HeadwaterError, ServerError, SettingsError

from deploy.local.process import StateFolder
from deploy.optimize.runtime import read_record
from deploy.services.worker import _read_mark
from features.positions import PositionError, _decode
from stream.api.keys import read_keys
from trainer.registry.checkpoint import read_manifest
from trainer.windows.store import QuarantinedWindows, unseal

DAMAGED = [b"{", b"\xff\xfe{", b"[" * 5000, b"null", b'{"a": "\xff"}', b"\0" * 40, b"9" * 5000]


def read_named(folder: Path, name: str, read: Callable[[], Any], content: bytes) -> Any:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return read()


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:8]))
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, content: bytes) -> None:
    keys, engine = tmp_path / "keys.toml", tmp_path / "model.engine"
    readers: list[tuple[str, Callable[[], Any], type[HeadwaterError]]] = [
        ("servers.json", StateFolder(tmp_path).records, ServerError),
        ("manifest.json", lambda: read_manifest(tmp_path), DataError),
        ("windows-left-out.json", lambda: QuarantinedWindows(tmp_path), DataError),
        ("model.engine.json", lambda: read_record(engine), DataError),
        ("keys.toml", lambda: read_keys(keys), SettingsError),
    ]
    for name, read, kind in readers:
        with pytest.raises(kind, match=tmp_path.name) as refused:
            read_named(tmp_path, name, read, content)
        assert "\n" not in str(refused.value).strip()
    with pytest.raises(DataError, match=r"00000007\.json"):
        unseal(content, "00000007.json")
    with pytest.raises(PositionError, match="which is no position: HDEL"):
        _decode(content)
    assert _read_mark(content.decode(errors="replace")) is None


def test_keys_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text("\ufeff", encoding="utf-8")
    assert read_keys(tmp_path / "keys.toml") == []
