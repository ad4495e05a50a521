"""From a trained model to one that answers: version folder, Triton, announcement.

A version appears whole or not at all: it is written and checked in a temporary folder, renamed,
loaded, asked once, and only then announced.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Producer

from features.errors import ServerError
from features.events import Rollout, RoutedVersion, encode
from features.inputs import MODEL_NAME
from features.kafka import client_config
from features.rows import Layout
from features.settings import KafkaSettings
from features.topics import ROLLOUTS
from trainer import checkpoint
from trainer.export import export
from trainer.first_model import Trained
from trainer.model_server import ModelServer
from trainer.settings import TrainerSettings
from trainer.triton_config import render_config

CONFIG = "config.pbtxt"
GRAPH = "model.onnx"
STABLE = "stable"
ANNOUNCE_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Version:
    """A version folder; `address` names it for any fsspec file system."""

    number: int
    folder: Path

    @property
    def address(self) -> str:
        return self.folder.resolve().as_uri()


def publish(
    trained: Trained,
    repository: Path,
    server: ModelServer,
    kafka: KafkaSettings,
    layout: Layout,
    settings: TrainerSettings,
) -> Version:
    """Bring a model live for everyone; the version before it stays loaded.

    Raises:
        ExportError: the graph does not answer as the model does.
        ServerError: Triton or Kafka does not answer, or Triton answers otherwise.
    """
    version = write_version(trained, repository, layout, settings)
    bring_up(version, server, len(trained.vocabulary), layout)
    announce(version, kafka)
    return version


def write_version(
    trained: Trained, repository: Path, layout: Layout, settings: TrainerSettings
) -> Version:
    """Write the next version's folder, and `config.pbtxt` where there is none."""
    model = repository / MODEL_NAME
    model.mkdir(parents=True, exist_ok=True)
    # What all versions share is never written over: that would reload every one of them.
    if not (model / CONFIG).exists():
        _write_whole(model / CONFIG, lambda path: path.write_text(render_config(layout)))
    number = max(version_numbers(model), default=0) + 1
    described = {
        "trainer": settings.model_dump(mode="json"),
        "features": layout.settings.model_dump(mode="json"),
    }

    def fill(folder: Path) -> None:
        folder.mkdir()
        checkpoint.save(trained, folder, described)
        export(trained.model, layout, folder / GRAPH)

    _write_whole(model / str(number), fill)
    return Version(number, model / str(number))


def version_numbers(model: Path) -> list[int]:
    """The versions of a model in its repository, ascending."""
    return sorted(int(one.name) for one in model.iterdir() if one.name.isdecimal())


def bring_up(version: Version, server: ModelServer, items: int, layout: Layout) -> None:
    """Load a version of so many items beside the newest one that is up, and ask it once.

    Raises:
        ServerError: Triton does not answer, or not as ONNX Runtime does here.
    """
    model = version.folder.parent
    earlier = [number for number in version_numbers(model) if number < version.number]
    config = (model / CONFIG).read_text()
    with server.connected() as triton:
        up = [number for number in earlier if triton.is_ready(number)]
        triton.load(config, [*up[-1:], version.number])
        triton.check_answer(version.number, version.folder / GRAPH, items, layout)


def announce(version: Version, kafka: KafkaSettings) -> None:
    """Say on `rollouts` that everyone gets this version.

    Raises:
        ServerError: Kafka does not take it.
    """
    routed = RoutedVersion(
        version=version.number, variant=STABLE, share=1.0, address=version.address
    )
    rollout = Rollout(model=MODEL_NAME, versions=[routed], time=int(time.time() * 1000))
    failures: list[str] = []
    producer = Producer({**client_config(kafka), "enable.idempotence": "true", "log_level": "0"})
    producer.produce(
        ROLLOUTS,
        key=MODEL_NAME,
        value=encode(rollout),
        on_delivery=lambda error, _: failures.append(str(error)) if error else None,
    )
    if producer.flush(ANNOUNCE_TIMEOUT_S) or failures:
        reason = failures[0] if failures else f"no answer in {ANNOUNCE_TIMEOUT_S:.0f} s"
        raise ServerError(f"Kafka: topic {ROLLOUTS}: version {version.number}: {reason}")


def _write_whole(target: Path, fill: Callable[[Path], object]) -> None:
    """Write beside the target and rename, so that nobody reads a part."""
    with _beside(target) as temporary:
        fill(temporary)
        temporary.rename(target)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder)
