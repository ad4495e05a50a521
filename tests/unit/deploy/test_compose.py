"""The compose file has settings that there are, images that are pinned, and nobody is root."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from headwater_client.contract import Scope

from deploy.local.kafka import KAFKA_VERSION
from deploy.settings import CONFIG_VARIABLE, load_settings
from deploy.settings_text import PREFIX
from stream.api.keys import KeyRing, read_keys
from tests.harness.prometheus import NEEDS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "compose"
DOCUMENT: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
OURS = {name: one for name, one in SERVICES.items() if "build" in one}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PINNED = re.compile(r"^[\w./-]+:v?\d+\.\d+(\.\d+)?(-[\w.]+)?$")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run([FOLDER / "make-secrets", folder], check=True)
    return folder


def file_of(secret: str | dict[str, str], secrets: Path) -> tuple[str, Path]:
    """Where a service sees a secret, and the file that it is."""
    source = secret if isinstance(secret, str) else secret["source"]
    target = secret if isinstance(secret, str) else secret["target"]
    name = Path(DOCUMENT["secrets"][source]["file"]).name
    return f"/run/secrets/{target}", secrets / name


def test_there_is_a_service_of_each_kind() -> None:
    assert OURS.keys() == {"worker", "api", "controller", "console", "first-version", "trainer"}
    assert SERVICES.keys() - OURS.keys() == {"kafka", "valkey", "triton", "prometheus"}


@pytest.mark.parametrize("name", OURS)
def test_its_settings_are_settings_that_there_are(
    name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = OURS[name]
    seen = dict(file_of(secret, secrets) for secret in service["secrets"])
    for variable in [each for each in os.environ if each.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    for variable, value in service["environment"].items():
        assert variable.startswith(PREFIX)
        # What is a secret lies here elsewhere.
        monkeypatch.setenv(variable, str(seen.get(value, value)))
    assert service["environment"][CONFIG_VARIABLE] in seen
    settings = load_settings()
    assert settings.kafka.signing_key is not None
    assert settings.store.password is not None
    may_steer = name in ("controller", "console", "first-version", "trainer")
    assert (settings.rollout.admin_token is not None) == may_steer
    may_load = name in ("controller", "first-version", "trainer")
    assert (settings.triton.control_key is not None) == may_load


def test_the_keys_that_are_made_may_do_what_they_are_for(secrets: Path) -> None:
    ring = KeyRing(secrets / "keys.toml")
    scopes = {key.name: set(key.scopes) for key in read_keys(secrets / "keys.toml")}
    assert scopes == {
        "app": {Scope.SEND, Scope.ASK},
        "operator": {Scope.ADMINISTER, Scope.READ_PEOPLE},
        "metrics": {Scope.ASK},
    }
    for file, name in (
        ("app-key", "app"),
        ("operator-key", "operator"),
        ("metrics-key", "metrics"),
    ):
        secret = (secrets / file).read_text().strip()
        assert ring.admit(f"Bearer {secret}", None).name == name


def test_secrets_are_made_once_and_are_their_owners_alone(secrets: Path) -> None:
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    subprocess.run([FOLDER / "make-secrets", secrets], check=True)
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    assert secrets.stat().st_mode & 0o777 == 0o700
    named = {Path(each["file"]).name for each in DOCUMENT["secrets"].values()}
    # Docker mounts a file with its mode: who runs in the container has another uid.
    assert all((secrets / name).stat().st_mode & 0o777 == 0o444 for name in named)


def test_images_are_pinned_and_kafka_is_the_one_that_is_tested() -> None:
    for name, service in SERVICES.items():
        image = service["image"].replace("${TAG:-", "").replace("}", "")
        assert PINNED.match(image), f"{name}: {image}"
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    for service in OURS.values():
        assert service["image"].endswith(f":${{TAG:-{VERSION}}}")
        assert service["build"]["args"]["VERSION"] == f"${{TAG:-{VERSION}}}"


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_can_become_more_than_they_are(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & service.keys()
    # The entry point of Kafka's image writes its configuration into the image.
    assert service.get("read_only", False) == (name != "kafka")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "docker.sock" not in json.dumps(service.get("volumes", []))


def test_what_goes_on_is_probed_and_ends_in_good_order() -> None:
    for name, service in OURS.items():
        assert service["stop_grace_period"] == "30s"
        if name != "first-version":
            assert "/readyz" in service["healthcheck"]["test"][-1], name
    needed = {
        (other, how["condition"])
        for service in SERVICES.values()
        for other, how in service.get("depends_on", {}).items()
    }
    for other, condition in needed:
        probed = "healthcheck" in SERVICES[other]
        assert probed or condition == "service_completed_successfully"


def test_prometheus_scrapes_services_that_there_are() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    for job in config["scrape_configs"]:
        discovered = [name for each in job.get("dns_sd_configs", []) for name in each["names"]]
        static = [
            target.partition(":")[0]
            for each in job.get("static_configs", [])
            for target in each["targets"]
        ]
        assert {*discovered, *static} <= SERVICES.keys()


def test_promtool_takes_the_configuration_of_prometheus(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None and "CI" not in os.environ:
        pytest.skip(NEEDS)
    assert promtool, NEEDS
    text = (FOLDER / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(
        text.replace("/etc/prometheus/alerts.yml", str(ROOT / "deploy/monitoring/alerts.yml"))
    )
    told = subprocess.run(
        [promtool, "check", "config", "--syntax-only", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr + told.stdout
