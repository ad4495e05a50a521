"""Trainers that publish, one after another, each killed at a moment: run by test_publishing.py.

    python -m tests.faults.killed_publishers [forgetful]

For each line `SEED MOMENT PAUSE_S` on standard input a trainer lives: a process of its own, forked
where everything is imported. It is killed so long after a moment: a call that the code of
publishing makes, or the return of one. MOMENT is the end of its name, such as
`commit>Path.rename:return`, or how many different ones there were by then. The answer is its name;
for a MOMENT that is never reached, `lived` and how many there were. Of `forgetful` trainers none
looks for what the one before it left, to show that the test then fails.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType

import torch

from deploy.jobs.train import model_registry
from deploy.settings import Settings, load_settings
from features import model_server, rollouts
from features.kafka import one_partition
from features.schema import FeatureSchema
from tests.harness.models import SETTINGS, offline_registry, untrained
from trainer import disk
from trainer.registry import ModelRepository, checkpoint, loaded, registry, repository, staging

KEPT = 3
VERSIONS_OF_A_LIFE = 2
MODULES = (
    checkpoint,
    disk,
    loaded,
    model_server,
    one_partition,
    registry,
    repository,
    rollouts,
    staging,
)
FILES = {module.__file__ for module in MODULES}
TRAINER = SETTINGS.model_copy(update={"keep_versions": KEPT, "publish_retry_s": 5.0})


class Moments:
    """Counts the moments that have not been before, and tells of the awaited one."""

    def __init__(self, awaited: str, pipe: int, *, dies: bool) -> None:
        self._awaited = awaited
        self._pipe = pipe
        self._dies = dies
        self._seen: set[tuple[str, int]] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def __call__(self, frame: FrameType, event: str, called: object) -> None:
        native = event.startswith("c_")
        caller = frame if native else frame.f_back
        if caller is None or not {frame.f_code.co_filename, caller.f_code.co_filename} & FILES:
            return
        callee = getattr(called, "__qualname__", "") if native else frame.f_code.co_qualname
        name = f"{caller.f_code.co_qualname}>{callee}:{event.removeprefix('c_')}"
        moment = (name, caller.f_lineno)
        if moment in self._seen:
            return
        self._seen.add(moment)
        if self._awaited == str(len(self)) or name.endswith(self._awaited):
            os.write(self._pipe, f"{name}\n".encode())
            # Once is enough, where it lives on for a moment.
            sys.setprofile(None)
            if self._dies:
                os.kill(os.getpid(), signal.SIGKILL)


def publish_versions(settings: Settings, seed: int) -> None:
    """As a trainer does: go on with what was left, then one version after another."""
    schema, versions = FeatureSchema(settings.features), model_registry(settings, TRAINER)
    with versions.repository.lock():
        versions.recover()
        for number in range(VERSIONS_OF_A_LIFE):
            with versions.stage(untrained(schema, seed + number)) as staged:
                version = staged.commit(b'{"passed": true}')
            versions.go_live(version)


def live_and_die(settings: Settings, seed: int, awaited: str, pause_s: float) -> str:
    """One trainer; what to say of it."""
    told, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Its log: standard output is for answers.
        os.dup2(2, 1)
        moments = Moments(awaited, pipe, dies=pause_s == 0)
        try:
            sys.setprofile(moments)
            publish_versions(settings, seed)
            sys.setprofile(None)
            os.write(pipe, f"lived {len(moments)}\n".encode())
        except Exception:
            traceback.print_exc()
            raise
        finally:
            os._exit(0)
    os.close(pipe)
    with os.fdopen(told) as reader:
        moment = reader.readline().strip()
        time.sleep(pause_s)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return moment or "failed"


def warm_up(schema: FeatureSchema) -> None:
    """What only the first version of a process takes long for."""
    with tempfile.TemporaryDirectory() as folder:
        offline_registry(Path(folder), schema, TRAINER).write_version(untrained(schema, 0))


if __name__ == "__main__":
    if "forgetful" in sys.argv:
        ModelRepository.list_unannounced = lambda _: []  # type: ignore[method-assign]
    # No thread of torch's may be lost by a fork.
    torch.set_num_threads(1)
    settings = load_settings()
    warm_up(FeatureSchema(settings.features))
    for line in sys.stdin:
        seed, awaited, pause_s = line.split()
        print(live_and_die(settings, int(seed), awaited, float(pause_s)), flush=True)
