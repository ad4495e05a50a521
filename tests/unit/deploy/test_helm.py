"""The Helm chart: what it makes is what a cluster takes, and what cannot be is one line."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from deploy.settings import Settings
from tests.harness import helm
from tests.harness.chart_values import PODS, REQUIRED, SECRET, SITES, every_secret, merge, pods
from tools import helm_chart


@cache
def render_site(name: str) -> list[helm.Manifest]:
    with TemporaryDirectory() as folder:
        return helm.render(Path(folder), SITES[name])


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest) -> list[helm.Manifest]:
    return render_site(request.param)


@pytest.fixture
def whole_site() -> list[helm.Manifest]:
    return render_site("everything")


def find(manifests: list[helm.Manifest], kind: str, name: str = "") -> helm.Manifest:
    """The one of a kind, whose name ends so."""
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"].endswith(name)]
    return found


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    return {each["name"]: each for each in container["env"]}


@pytest.mark.parametrize("name", ["bare", *SITES])
def test_it_passes_the_linter(tmp_path: Path, name: str) -> None:
    done = helm.run_helm(tmp_path, SITES.get(name, {}), ["lint", "--strict"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_cluster_takes_it(site: list[helm.Manifest]) -> None:
    assert [problem for each in site if (problem := helm.find_problem(each))] == []


def test_the_schemas_refuse_what_a_cluster_does_not_know(whole_site: list[helm.Manifest]) -> None:
    for kind in ("StatefulSet", "ScaledObject", "ServiceMonitor"):
        wrong = next(each for each in whole_site if each["kind"] == kind)
        assert helm.find_problem(wrong) == ""
        for spec in ({"replica": 2}, {"selector": "all", "scaleTargetRef": "workers"}):
            assert kind in helm.find_problem(wrong | {"spec": wrong["spec"] | spec})


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("config.kafka.bootstrap_servers", "config.kafka.bootstrap_servers: is not set"),
        ("config.store.address", "config.store.address: is not set"),
        ("config.triton.url", "config.triton.url: is not set"),
        ("apiKeys.existingSecret", "apiKeys.existingSecret: is not set"),
        ("modelRepository.existingClaim", "modelRepository.existingClaim: is not set"),
        ("windows.existingClaim", "windows.existingClaim: is not set"),
    ],
)
def test_without_what_is_required_one_line_says_what_to_set(
    tmp_path: Path, path: str, told: str
) -> None:
    values = copy.deepcopy(REQUIRED)
    *parents, last = path.split(".")
    section = values
    for each in parents:
        section = section[each]
    del section[last]
    assert_refused(tmp_path, values, told)


def assert_refused(folder: Path, values: Mapping[str, Any], told: str) -> None:
    done = helm.run_helm(folder, values)
    assert done.returncode != 0, done.stdout
    (line,) = [each for each in done.stderr.splitlines() if told in each]
    assert done.stdout == ""
    assert len(line) < 400


SASL = {"kafka": {"security_protocol": "SASL_SSL"}}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"worker": {"replicas": 13}}, "worker.replicas: 13 workers share 12 partitions"),
        ({"keda": {"enabled": True, "maxReplicas": 13}}, "keda.maxReplicas: 13 workers share 12"),
        ({"keda": {"enabled": True, "maxReplicas": 1}}, "keda.minReplicas: 2 is more than"),
        ({"keda": {"enabled": True}, "config": SASL}, "keda.authenticationRef: is not set"),
        ({"console": {"replicas": 2}}, "secretConfig.console.secret: is not set"),
        ({"trainer": {"cronJob": {"enabled": True, "suspend": False}}}, "trainer.cronJob.suspend:"),
        (
            {"controller": {"enabled": False}, "config": {"trainer": {"release": "canary"}}},
            "controller.enabled: is false, and config.trainer.release is canary",
        ),
        ({"config": {"model_repository": "/elsewhere"}}, "config.model_repository: /elsewhere is"),
        (
            {"monitoring": {"serviceMonitor": {"enabled": True}}},
            "monitoring.serviceMonitor.apiKey.name: is not set",
        ),
    ],
)
def test_values_that_do_not_fit_each_other_are_one_line(
    tmp_path: Path, values: dict[str, Any], told: str
) -> None:
    assert_refused(tmp_path, merge(REQUIRED, values), told)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"worker": {"replicas": "two"}}, "worker.replicas"),
        ({"worker": {"replica": 2}}, "replica"),
        ({"config": {"worker": {"top_k": "ten"}}}, "config.worker.top_k"),
        ({"config": {"worker": {"top_k": 1000}}}, "config.worker.top_k"),
        ({"config": {"worker": {"topk": 10}}}, "topk"),
        ({"config": {"worker": {"metrics_port": 0}}}, "config.worker.metrics_port"),
        ({"config": {"store": {"durability": "none"}}}, "config.store.durability"),
        ({"config": {"shop": {}}}, "shop"),
        ({"config": {"kafka": {"sasl_password": "secret"}}}, "sasl_password"),
        ({"secretConfig": {"store": {"password": "secret"}}}, "secretConfig.store.password"),
        ({"secretConfig": {"store": {"address": SECRET}}}, "address"),
        ({"keda": {"minReplicas": 0}}, "keda.minReplicas"),
        ({"podSecurityContext": "none"}, "podSecurityContext"),
        ({"networkPolicy": {"kafka": {"ports": [0]}}}, "networkPolicy.kafka.ports.0"),
    ],
)
def test_wrong_types_are_refused(tmp_path: Path, values: dict[str, Any], place: str) -> None:
    done = helm.run_helm(tmp_path, merge(REQUIRED, values))
    assert (done.returncode == 0, done.stdout) == (False, "")
    # Each Helm says it in its own words: "at '/worker/replicas': got string, want integer".
    told = done.stderr.replace("/", ".")
    assert "meet the specifications of the schema" in told
    assert re.search(rf"\b{re.escape(place)}\b", told), told
    assert max(map(len, told.splitlines())) < 400


def open_settings() -> dict[str, Any]:
    """Every setting that is no secret and has a value."""
    found: dict[str, Any] = Settings().model_dump(mode="json", exclude_none=True)
    schema = yaml.safe_load((helm_chart.CHART / helm_chart.SCHEMA).read_text())
    known = schema["properties"]["config"]["properties"]
    return {
        name: {each: v for each, v in value.items() if each in known[name]["properties"]}
        if isinstance(value, dict)
        else value
        for name, value in found.items()
    }


def test_every_setting_is_reached(tmp_path: Path) -> None:
    own = {"name": "wish", "topic": "wishes", "weight": 0.5, "takes_item": True}
    given = merge(open_settings(), REQUIRED["config"] | {"events": {"types": [own]}})
    for section in ("worker", "trainer", "rollout"):
        given[section]["metrics_port"] = 9200
    given["worker"]["name"] = 'a "name" <&> \\ 平 # not a comment'
    given["model_repository"] = "/srv/headwater/models/model_repo"
    config = find(helm.render(tmp_path, REQUIRED | {"config": given}), "ConfigMap")
    read = tomllib.loads(config["data"]["headwater.toml"])
    for name, section in given.items():
        if isinstance(section, dict):
            assert section.items() <= read[name].items(), name
        else:
            assert read[name] == section
    # And they are the settings of a process, with whole numbers where these are asked for.
    assert Settings(**read).worker.name == given["worker"]["name"]
    assert {type(each) for each in read["features"]["user_half_lives_ms"]} == {int}


def test_every_setting_is_in_the_schema() -> None:
    schema = yaml.safe_load((helm_chart.CHART / helm_chart.SCHEMA).read_text())
    open_ones, secrets = (
        schema["properties"][name]["properties"] for name in ("config", "secretConfig")
    )
    for name, field in Settings.model_fields.items():
        settings = getattr(field.annotation, "model_fields", None)
        if settings is None:
            assert name in open_ones
        else:
            there = set(open_ones[name]["properties"]) | set(
                secrets.get(name, {}).get("properties", ())
            )
            assert there == set(settings), name


def test_what_is_made_of_the_code_is_as_the_code_is() -> None:
    made = {
        name: (helm_chart.CHART / name).read_text()
        for name in (helm_chart.SCHEMA, helm_chart.CHART_ALERTS)
    }
    values = yaml.safe_load((helm_chart.CHART / helm_chart.VALUES).read_text())
    again = "run: uv run python tools/helm_chart.py"
    schema = helm_chart.render_schema(yaml.safe_load(made[helm_chart.SCHEMA]), values)
    assert made[helm_chart.SCHEMA] == schema, again
    assert made[helm_chart.CHART_ALERTS] == helm_chart.ALERTS.read_text(), again


def test_the_chart_is_of_this_release() -> None:
    chart = yaml.safe_load((helm_chart.CHART / "Chart.yaml").read_text())
    project = tomllib.loads((helm_chart.ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == chart["version"] == project["version"]


def test_all_objects_of_the_schema_are_closed_but_those_that_are_of_kubernetes() -> None:
    schema = yaml.safe_load((helm_chart.CHART / helm_chart.SCHEMA).read_text())
    free = {"free", "objects", "texts"}
    schema["definitions"] = {n: each for n, each in schema["definitions"].items() if n not in free}
    del schema["properties"]["global"]
    is_open = [path for path, each in walk(schema, "") if "properties" in each
               and each.get("additionalProperties") is not False]  # fmt: skip
    assert is_open == []


def walk(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for name, each in schema.items():
            yield from walk(each, f"{path}/{name}")
    elif isinstance(schema, list):
        for number, each in enumerate(schema):
            yield from walk(each, f"{path}/{number}")


def test_pods_are_restricted(site: list[helm.Manifest]) -> None:
    found = dict(pods(site))
    assert len(found) >= 5
    for name, pod in found.items():
        spec = pod["spec"]
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        mounts = {each["mountPath"] for each in container["volumeMounts"]}
        assert {"/tmp", "/var/lib/headwater", "/etc/headwater"} <= mounts
        assert {each["name"] for each in container["volumeMounts"]} == {
            v["name"] for v in spec["volumes"]
        }
        assert container["resources"]


def test_probes_ask_ports_that_there_are(site: list[helm.Manifest]) -> None:
    for name, pod in pods(site):
        (container,) = pod["spec"]["containers"]
        ports = {each["name"] for each in container.get("ports", ())}
        probes = [container[each]["httpGet"] for each in container if each.endswith("Probe")]
        assert len(probes) == (0 if name.endswith("-train") else 3), name
        assert {each["port"] for each in probes} <= ports
        is_open = environment(pod)
        assert "HEADWATER_CONFIG" in is_open
    read = tomllib.loads(find(site, "ConfigMap")["data"]["headwater.toml"])
    for section in ("worker", "trainer", "rollout"):
        assert read[section]["metrics_address"] == "0.0.0.0"
        assert read[section]["metrics_port"] == 9188


def test_what_selects_pods_finds_them(site: list[helm.Manifest]) -> None:
    labels = [pod["metadata"]["labels"] for _, pod in pods(site)]
    names = {(each["kind"], each["metadata"]["name"]) for each in site}
    services = [each for each in site if each["kind"] == "Service"]
    for each in site:
        spec = each.get("spec", {})
        if each["kind"] == "Service":
            assert_selects(spec["selector"], labels, 1)
        elif each["kind"] == "PodDisruptionBudget":
            assert_selects(spec["selector"]["matchLabels"], labels, 1)
        elif each["kind"] == "ServiceMonitor":
            found = [s["metadata"]["labels"] for s in services]
            assert_selects(spec["selector"]["matchLabels"], found, 1)
            (endpoint,) = spec["endpoints"]
            (service,) = [s for s in services if s["metadata"]["name"] == each["metadata"]["name"]]
            assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        elif each["kind"] == "NetworkPolicy":
            assert_selects(spec["podSelector"]["matchLabels"], labels, len(labels))
        elif each["kind"] in {"ScaledObject", "HorizontalPodAutoscaler"}:
            target = spec["scaleTargetRef"]
            assert (target["kind"], target["name"]) in names
            assert "replicas" not in find(site, target["kind"], target["name"])["spec"]
        elif each["kind"] in PODS:
            assert (
                spec["selector"]["matchLabels"].items()
                <= spec["template"]["metadata"]["labels"].items()
            )


def assert_selects(selector: dict[str, str], labels: list[dict[str, str]], times: int) -> None:
    found = [each for each in labels if selector.items() <= each.items()]
    assert len(found) == times, (selector, labels)


def test_workers_keep_their_names(site: list[helm.Manifest]) -> None:
    workers = find(site, "StatefulSet")
    name = environment(workers["spec"]["template"])["HEADWATER_WORKER__NAME"]
    assert name["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    service = find(site, "Service", "-worker")
    assert workers["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"


def test_each_process_has_the_secrets_that_it_needs_and_no_other(
    whole_site: list[helm.Manifest],
) -> None:
    given = {
        name.removeprefix("shop-headwater-"): set(environment(pod))
        for name, pod in pods(whole_site)
    }
    secrets = {
        f"HEADWATER_{section}__{name}".upper()
        for section, names in every_secret().items()
        for name in names
    }
    assert secrets <= given["console"]
    of_console = {
        each for each in secrets if each.startswith(("HEADWATER_CONSOLE", "HEADWATER_OIDC"))
    }
    assert len(of_console) == 3
    of_store = {each for each in secrets if each.startswith("HEADWATER_STORE")}
    assert len(of_store) == 2
    assert secrets - given["worker"] == {"HEADWATER_ROLLOUT__ADMIN_TOKEN"} | of_console
    assert secrets - given["api"] == secrets - given["controller"] == of_console
    assert secrets - given["trainer"] == of_store | of_console
    for _, pod in pods(whole_site):
        held = {n: e["valueFrom"] for n, e in environment(pod).items() if n in secrets}
        assert all(source == {"secretKeyRef": SECRET} for source in held.values())
    assert not any(each["kind"] == "Secret" for each in whole_site)


def test_pods_start_again_where_their_settings_change(tmp_path: Path) -> None:
    changed = merge(REQUIRED, {"config": {"worker": {"top_k": 20}}})
    before, after = (
        {
            n: p["metadata"]["annotations"]["checksum/config"]
            for n, p in pods(helm.render(tmp_path, v))
        }
        for v in (REQUIRED, changed)
    )
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)
    more = dict(pods(helm.render(tmp_path, merge(REQUIRED, {"worker": {"replicas": 3}}))))
    assert (
        more["shop-headwater-worker"]["metadata"]["annotations"]["checksum/config"]
        in before.values()
    )
    told = json.loads(
        environment(more["shop-headwater-console"])["HEADWATER_CONSOLE__TARGETS"]["value"]
    )
    assert told[2] == ("http://shop-headwater-worker-2.shop-headwater-worker.shop.svc:9188/metrics")
    assert len(told) == 4


def test_scaling_knows_the_traps_of_lag(whole_site: list[helm.Manifest]) -> None:
    spec = find(whole_site, "ScaledObject")["spec"]
    partitions = tomllib.loads(find(whole_site, "ConfigMap")["data"]["headwater.toml"])["kafka"][
        "partitions"
    ]
    assert 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"] <= partitions
    assert [each["metadata"]["topic"] for each in spec["triggers"]] == ["clicks", "purchases"]
    for trigger in spec["triggers"]:
        told = trigger["metadata"]
        assert told["consumerGroup"] == Settings().worker.group
        assert told["offsetResetPolicy"] == "earliest"
        assert told["excludePersistentLag"] == told["limitToPartitionsWithLag"] == "true"
        assert (told["sasl"], told["tls"]) == ("scram_sha512", "enable")
        assert trigger["authenticationRef"] == {"name": "kafka"}
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= 300
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]


def test_alerts_find_the_jobs_of_any_release(whole_site: list[helm.Manifest]) -> None:
    rules = find(whole_site, "PrometheusRule")["spec"]
    assert rules == yaml.safe_load(helm_chart.ALERTS.read_text())
    jobs = {
        each["spec"]["endpoints"][0]["relabelings"][0]["replacement"]
        for each in whole_site
        if each["kind"] == "ServiceMonitor"
    }
    assert jobs == {
        f"headwater-{each}" for each in ("worker", "api", "console", "controller", "trainer")
    }
