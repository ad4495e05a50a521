"""How Kafka is asked about itself."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("question", [".describe_cluster(", ".list_offsets("])
def test_nobody_asks_what_ends_the_process(question: str) -> None:
    # librdkafka's AdminClient aborts where a broker that slept answers these: `read_metadata`.
    rooms = ("clients/python", "features", "stream", "trainer", "deploy", "bench")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    assert [path for path in files if question in path.read_text()] == []
