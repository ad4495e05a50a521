"""Gorse beside: built from its Go module, with the same log, asked on the same cores.

Of one program (`gorse-in-one`), with SQLite for data and Valkey for what it has prepared. A person
is *prepared* once it has made their list, at most once an hour by its defaults; *new to it* is one
who has done as much since: what they are answered with is made when they ask.
"""

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from headwater_client.errors import DataError, ServerError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction

from bench.api.requests import Target, wait_until_answered
from bench.harness.runner import work_folder
from bench.harness.servers import LoadedServers
from deploy.local.process import free_port
from deploy.local.store import find_server
from deploy.settings import default_cache_dir
from trainer.datasets import Log

MODULE, RELEASE = "github.com/zhenghaoz/gorse", "v0.4.15"
NEW = "~new"
_SEED, _REQUESTS, _BATCH = 7, 5_000, 1_000
_READY_S, _STOP_S = 60.0, 20.0
_LOOK_S, _LOOKS, _STEADY = 5.0, 80, 4
_CONFIG = """
[database]
cache_store = "redis://127.0.0.1:{cache}/0"
data_store = "sqlite://{folder}/data.db"
[master]
host = "127.0.0.1"
port = {master}
http_host = "127.0.0.1"
http_port = {http}
[recommend.data_source]
positive_feedback_types = ["purchase"]
read_feedback_types = ["click"]
[recommend.offline]
check_recommend_period = "5s"
"""


def build_gorse(cache: Path) -> Path:
    """The program; built where it is not there yet.

    Raises:
        DataError: there is no Go, or the module cannot be had.
    """
    program = cache / f"gorse-in-one-{RELEASE}"
    if program.exists():
        return program
    if (go := shutil.which("go")) is None:
        raise DataError("--gorse: Gorse is built by Go, which is not on this machine")
    source = cache / f"gorse-{RELEASE}"
    # With the versions that it was released with, which `go install` of a module cannot do here.
    said = json.loads(_run(go, "mod", "download", "-json", f"{MODULE}@{RELEASE}", folder=cache))
    if not source.exists():
        shutil.copytree(said["Dir"], source, copy_function=shutil.copyfile)
    _run(go, "build", "-o", str(program), "./cmd/gorse-in-one", folder=source)
    return program


def _run(*command: str, folder: Path) -> bytes:
    ended = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    if ended.returncode != 0:
        said = (ended.stderr or ended.stdout).decode(errors="replace").strip().splitlines()
        raise DataError(f"--gorse: go {command[1]}: {said[-1] if said else 'failed'}")
    return ended.stdout


class Gorse:
    """A running Gorse."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program, self._folder = program, folder
        self._ports = {"cache": 0, "master": 0, "http": 0}
        for name in self._ports:
            self._ports[name] = free_port(self._ports.values())
        (folder / "gorse.toml").write_text(_CONFIG.format(folder=folder, **self._ports))
        self.target = Target(self._ports["http"], "")
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.target.port}", timeout=60)

    @contextmanager
    def run_cache(self) -> Iterator[None]:
        """Its Valkey, for as long as the block."""
        options = ("--port", str(self._ports["cache"]), "--save", "", "--bind", "127.0.0.1")
        with _running((str(find_server()), *options), self._folder / "cache.log", self._folder):
            yield

    @contextmanager
    def run(self) -> Iterator[None]:
        """Gorse itself, for as long as the block."""
        command = (str(self._program), "-c", str(self._folder / "gorse.toml"))
        with _running(command, self._folder / "gorse.log", self._folder):
            wait_until_answered(
                lambda: self._get("/api/health/ready")["Ready"],
                _READY_S,
                "Gorse does not get ready",
            )
            yield

    def send(self, log: Log, events: Sequence[Interaction]) -> None:
        """Items and feedback, as its users send them."""
        items = [{"ItemId": item.item_id, "Comment": item.title or ""} for item in log.items]
        self._post("/api/items", items)
        self.send_feedback(events)

    def send_feedback(self, events: Sequence[Interaction], suffix: str = "") -> None:
        """What people did; of other people of their names where there is a suffix."""
        feedback = [
            {
                "FeedbackType": EVENT_TYPES.spec_of(event).name,
                "UserId": event.user_id + suffix,
                "ItemId": event.item_id,
                "Timestamp": datetime.fromtimestamp(event.timestamp / 1000, UTC).isoformat(),
            }
            for event in events
        ]
        self._post("/api/feedback", feedback)

    def wait_until_prepared(self, people: Sequence[str]) -> list[str]:
        """Those for whom it has made a list, once it makes no more; it does not for everybody.

        Raises:
            ServerError: it makes none.
        """
        prepared, steady = list[str](), 0
        for _ in range(_LOOKS):
            time.sleep(_LOOK_S)
            address = "/api/intermediate/recommend/{}?n=10"
            found = [person for person in people if self._get(address.format(person))]
            steady = steady + 1 if found and len(found) == len(prepared) else 0
            prepared = found
            if steady == _STEADY:
                return prepared
        raise ServerError(f"Gorse has prepared lists for {len(prepared)} people")

    def _get(self, path: str) -> Any:
        return self._client.get(path).raise_for_status().json()

    def _post(self, path: str, documents: Sequence[Any]) -> None:
        for start in range(0, len(documents), _BATCH):
            some = documents[start : start + _BATCH]
            self._client.post(path, json=some).raise_for_status()


@contextmanager
def _running(command: Sequence[str], log: Path, folder: Path) -> Iterator[None]:
    with log.open("ab") as written:
        process = subprocess.Popen(command, cwd=folder, stdout=written, stderr=written)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


Ask = Callable[[Target, str, list[bytes]], None]


def measure_gorse(loaded: LoadedServers, events: Sequence[Interaction], ask: Ask) -> None:
    """Ask a Gorse that knows these events, on the shared cores.

    Args:
        ask: is told where, of which kind, and what to send.
    """
    program = build_gorse(default_cache_dir())
    people = sorted({event.user_id for event in events})
    draw = random.Random(_SEED)
    with work_folder() as folder:
        gorse = Gorse(program, folder)
        with loaded.cores.working(), gorse.run_cache():
            loaded.say("Gorse: data ...")
            with gorse.run():
                gorse.send(loaded.log, events)
            # It fits when it starts, and then once an hour.
            loaded.say("Gorse: it prepares lists ...")
            with gorse.run():
                prepared = gorse.wait_until_prepared(people)
                asked = [draw.choice(prepared) for _ in range(_REQUESTS)]
                gorse.send_feedback(events, NEW)
                target = gorse.target
                with loaded.cores.measuring():
                    for name, suffix in (("prepared", ""), ("new to it", NEW)):
                        paths = (f"/api/recommend/{person}{suffix}?n=10" for person in asked)
                        ask(target, f"Gorse: {name}", [target.encode_get(path) for path in paths])
