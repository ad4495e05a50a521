"""An app installs the client and nothing else; the examples do what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from headwater_client import Click, Item, KafkaSettings, Purchase, Recommendation, decode, encode
from headwater_client.events import Reason, RecommendedItem
from headwater_client.topics import PARTITIONER, RECOMMENDATIONS

from deploy.settings import Settings
from features.kafka import ensure_topics
from tests.harness.topic_reader import TopicReader

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MOST_BYTES = 60 * 1024 * 1024
PROBE = """
import sys
from headwater_client import EventProducer, KafkaSettings
with EventProducer(KafkaSettings(sys.argv[1])) as events:
    print(events.click(user_id="alone", item_id="lamp").event_id)
"""


@pytest.fixture(scope="module")
def kafka(servers: Settings) -> KafkaSettings:
    ensure_topics(servers.kafka)
    return servers.kafka.client_settings


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with nothing but the client's wheel."""
    folder = tmp_path_factory.mktemp("client")
    wheels, venv = folder / "dist", folder / "venv"
    build = ["uv", "build", "--package", "headwater-client", "--wheel", "--out-dir", str(wheels)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["uv", "venv", "--python", sys.executable, str(venv)], check=True)
    [wheel] = wheels.glob("*.whl")
    python = venv / "bin" / "python"
    install = ["uv", "pip", "install", "--python", str(python), "--link-mode", "copy", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return python


@pytest.fixture
def events(servers: Settings, kafka: KafkaSettings) -> Iterator[TopicReader]:
    reader = TopicReader(servers.kafka, "clicks", "purchases", "items")
    yield reader
    reader.close()


def clean(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != "PYTHONPATH"}


def test_the_wheel_alone_is_small_and_sends(
    python: Path, kafka: KafkaSettings, events: TopicReader, tmp_path: Path
) -> None:
    [packages] = python.parents[1].glob("lib/*/site-packages")
    size = sum(f.stat().st_size for f in packages.rglob("*") if f.is_file())
    assert size < MOST_BYTES, f"{size / 2**20:.0f} MB"
    names = {path.name for path in packages.iterdir() if path.is_dir()}
    assert not names & {"features", "stream", "trainer", "deploy", "bench", "feast", "pandas"}
    assert (packages / "headwater_client" / "py.typed").is_file()
    sent = subprocess.run(
        [str(python), "-c", PROBE, kafka.bootstrap_servers],
        cwd=tmp_path,
        env=clean(dict(os.environ)),
        check=True,
        capture_output=True,
        text=True,
    )
    [message] = events.read(1)
    click = decode(Click, message.value())
    assert (message.topic(), click.user_id, click.event_id) == (
        "clicks",
        "alone",
        sent.stdout.strip(),
    )


def run_example(name: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_example_that_sends(kafka: KafkaSettings, events: TopicReader) -> None:
    example = run_example("send_events.py", kafka.bootstrap_servers)
    told, errors = example.communicate(timeout=60)
    assert example.returncode == 0, errors
    assert "not sent: price: -1" in told
    assert "Kafka has the others" in told
    kinds = {"clicks": Click, "purchases": Purchase, "items": Item}
    sent = [(m.topic(), decode(kinds[m.topic() or ""], m.value()).item_id) for m in events.read(5)]
    assert sorted(sent) == [
        ("clicks", "lamp-7"),
        ("clicks", "rug-2"),
        ("items", "lamp-7"),
        ("items", "rug-2"),
        ("purchases", "lamp-7"),
    ]


def test_the_example_that_reads(kafka: KafkaSettings) -> None:
    example = run_example("read_recommendations.py", kafka.bootstrap_servers, "3")
    assert example.stdout is not None
    assert example.stdout.readline() == "listening\n"
    producer = Producer(kafka.client_config() | {"partitioner": PARTITIONER})
    for number in range(3):
        answer = Recommendation(
            recommendation_id=f"r{number}",
            user_id="ann",
            event_id="e",
            items=[RecommendedItem(f"i{number}", 1.0, Reason("trending"))],
            model_version="1",
            variant="stable",
            event_time=1,
            produced_time=2,
            fallback=False,
        )
        producer.produce(RECOMMENDATIONS, encode(answer), "ann")
    producer.flush(10)
    told, errors = example.communicate(timeout=60)
    assert example.returncode == 0, errors
    assert told == "ann: i2 (trending)\n"


def test_the_example_that_forks(kafka: KafkaSettings, events: TopicReader) -> None:
    example = run_example("web_app.py", kafka.bootstrap_servers, "0")
    try:
        assert example.stdout is not None
        port = int(example.stdout.readline().split()[-1])
        pages = set()
        for number in range(60):
            address = f"http://127.0.0.1:{port}/?user=u{number}&item=lamp"
            with urllib.request.urlopen(address, timeout=20) as page:
                pages.add(page.read())
        assert len(pages) == 2, "both workers served"
        users = [decode(Click, message.value()).user_id for message in events.read(60)]
        assert sorted(users) == sorted(f"u{number}" for number in range(60))
    finally:
        os.killpg(example.pid, signal.SIGTERM)
        example.wait(10)
