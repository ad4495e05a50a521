"""Files: what Headwater wrote, and what others did, that may have changed since."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from headwater_client.errors import DataError, SettingsError

from bench.soak.decoders.samples import CONTROL_IN_HEADING, MODEL
from bench.soak.decoders.target import FuzzTarget
from deploy import settings as deploy_settings
from deploy.jobs import foreign_logs
from deploy.local.append_file import mend_append_files
from deploy.optimize.runtime import read_record, record_path
from features.schema import read_vocabulary
from features.settings import EventSettings
from stream.api.compat.values import EventAliases
from stream.api.keys import read_keys
from trainer.datasets import DataSource, load_log
from trainer.registry.checkpoint import MANIFEST, read_manifest
from trainer.windows.store import unseal

# Of the release before.
GOLDEN = Path(__file__).parents[3] / "tests/golden/13a9bcc"


def make_own_files(folder: Path) -> dict[str, FuzzTarget]:
    """Of what Headwater wrote, and a disk, a copy or a person has changed."""
    version = GOLDEN / "model_repo" / MODEL / "1"
    windows = sorted((GOLDEN / "windows").rglob("*"))
    record = (
        b'{"kind":"tensorrt","version":"10.0","gpu":null,"compute_capability":null,'
        b'"graph_sha256":"a","engine_sha256":"b","products":"fp16","inputs":{},"outputs":{},'
        b'"seconds":1.5}'
    )
    log = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n"
    key = b'[[keys]]\nname = "a"\nscopes = ["ask"]\nsha256 = "' + b"5" * 64 + b'"\n'
    settings = b'[kafka]\nbootstrap_servers = "a:9092"\n[features]\nhalf_lives_days = [1, 7]\n'

    def make(name: str, read: Callable[[Path], object], refusal: Any, *seeds: bytes) -> FuzzTarget:
        def write_and_read(raw: bytes) -> None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
            read(path)

        return FuzzTarget(write_and_read, refusal, seeds)

    data = (DataError,)
    return {
        "file.manifest": make(
            f"model/{MANIFEST}",
            lambda path: read_manifest(path.parent),
            data,
            (version / MANIFEST).read_bytes(),
        ),
        "file.vocabulary": make(
            "vocabulary.parquet",
            lambda path: read_vocabulary(str(path)),
            (OSError, ValueError),
            (version / "vocabulary.parquet").read_bytes(),
        ),
        "file.window": FuzzTarget(
            lambda raw: unseal(raw, "window"),
            data,
            tuple(each.read_bytes() for each in windows if each.suffix == ".json"),
        ),
        "file.engine": make(
            record_path(Path("engine.plan")).name,
            lambda path: read_record(path.with_name("engine.plan")),
            data,
            record,
        ),
        "file.keys": make("keys.toml", read_keys, (SettingsError,), key),
        "file.settings": make(
            "headwater.toml", deploy_settings.read_file, (SettingsError,), settings
        ),
        "file.append_only": make(
            "appendonlydir/a.incr.aof", lambda path: mend_append_files(path.parent.parent), (), log
        ),
    }


def make_files_of_others(folder: Path) -> dict[str, FuzzTarget]:
    """Of logs: of shops, and of other systems."""
    header = b"user_id,item_id,timestamp,type,price,title\n"
    table = header + b'ann,i,1764000000,click,"1,5",A\nbob,"j ""x""",1764000001,purchase,2,B\n'
    gorse = b'{"FeedbackType":"click","UserId":"a","ItemId":"i","Timestamp":"2025-11-24T16:00:00Z"}'
    refused = (DataError, SettingsError)

    def make(name: str, read: Callable[[Path], object], *seeds: bytes) -> FuzzTarget:
        place = folder / f"log-of-{name}"

        def write_and_read(raw: bytes) -> None:
            place.mkdir(exist_ok=True)
            (place / name).write_bytes(raw)
            read(place / name)

        return FuzzTarget(write_and_read, refused, seeds)

    def read_log(path: Path) -> object:
        return load_log(DataSource(folder, path))

    aliases, settings = EventAliases(()), EventSettings()
    return {
        "log.csv": make(
            "log.csv", read_log, table, table.replace(b",", b";"), table.decode().encode("utf-16")
        ),
        "log.tsv": make("log.tsv", read_log, table.replace(b",", b"\t"), CONTROL_IN_HEADING),
        "log.parquet": make("log.parquet", read_log, _make_parquet()),
        "log.gorse": make(
            "feedback.jsonl",
            lambda path: foreign_logs.read_gorse(path, settings, aliases),
            gorse,
        ),
        "log.gorse_dump": make(
            "dump.bin", lambda path: foreign_logs.read_gorse(path, settings, aliases), b"\xff" * 8
        ),
        "log.metarank": make(
            "events.jsonl",
            lambda path: foreign_logs.read_metarank(path, settings, aliases),
            b'{"event":"item","id":"e","item":"i","timestamp":"1764000000000","fields":[]}',
        ),
    }


def _make_parquet() -> bytes:
    table: dict[str, list[Any]] = {"user_id": ["a", "b"], "item_id": ["i", None]}
    table |= {"timestamp": [1_764_000_000, 7], "type": ["click", "click"]}
    file = io.BytesIO()
    pq.write_table(pa.table(table), file)
    return file.getvalue()
