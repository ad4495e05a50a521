"""Values of the Helm chart: what is required, and all that there is; and the pods it makes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from tests.harness.helm import Manifest
from tools import helm_chart

PODS = ("StatefulSet", "Deployment")
REQUIRED: dict[str, Any] = {
    "config": {
        "kafka": {"bootstrap_servers": "kafka-1:9092,kafka-2:9092"},
        "store": {"address": "valkey:6379"},
        "triton": {"url": "triton:8001"},
    },
    "apiKeys": {"existingSecret": "headwater-keys"},
    "modelRepository": {"existingClaim": "models"},
    "windows": {"existingClaim": "windows"},
}
SECRET = {"name": "headwater", "key": "value"}


def merge(values: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others over them, as Helm puts files over each other."""
    found = copy.deepcopy(dict(values))
    for name, value in other.items():
        both = isinstance(value, dict) and isinstance(found.get(name), dict)
        found[name] = merge(found[name], value) if both else copy.deepcopy(value)
    return found


def every_secret() -> dict[str, Any]:
    """`secretConfig` with all that there are."""
    schema = yaml.safe_load((helm_chart.CHART / helm_chart.SCHEMA).read_text())
    sections = schema["properties"]["secretConfig"]["properties"]
    return {name: dict.fromkeys(found["properties"], SECRET) for name, found in sections.items()}


def everything() -> dict[str, Any]:
    """Values that turn on all that the chart has."""
    peers = [{"podSelector": {"matchLabels": {"app": "kafka"}}}]
    common = {
        "podAnnotations": {"example.com/team": "shop"},
        "podLabels": {"team": "shop"},
        "extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "headwater"}],
        "nodeSelector": {"pool": "shop"},
        "tolerations": [{"key": "pool", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule",
            }
        ],
        "priorityClassName": "shop",
    }
    ingress = {
        "enabled": True,
        "className": "nginx",
        "annotations": {"a.example.com/b": "c"},
        "tls": [{"hosts": ["recommendations.example.com"], "secretName": "tls"}],
    }
    full = {
        "image": {
            "registry": "registry.example.com",
            "pullSecrets": [{"name": "registry"}],
            "serving": {"digest": f"sha256:{'0' * 64}"},
        },
        "config": {
            "kafka": {"security_protocol": "SASL_SSL", "sasl_username": "headwater"},
            "api": {"grpc_port": 9090},
            "trainer": {"release": "canary"},
        },
        "secretConfig": every_secret(),
        "extraEnv": [{"name": "AWS_REGION", "value": "eu-central-1"}],
        "extraEnvFrom": [{"secretRef": {"name": "object-store"}}],
        "extraVolumes": [{"name": "tls", "secret": {"secretName": "kafka-tls"}}],
        "extraVolumeMounts": [{"name": "tls", "mountPath": "/etc/ssl/kafka", "readOnly": True}],
        "serviceAccount": {"annotations": {"example.com/role": "headwater"}},
        "worker": common,
        "api": common
        | {
            "autoscaling": {
                "enabled": True,
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
            },
            "service": {"type": "LoadBalancer", "annotations": {"a.example.com/b": "c"}},
            "ingress": ingress,
        },
        "console": common
        | {
            "replicas": 2,
            "ingress": ingress,
            "podDisruptionBudget": {"enabled": True, "maxUnavailable": "50%"},
        },
        "controller": common,
        "trainer": common
        | {
            "cronJob": {"enabled": True},
            "cache": {"existingClaim": "cache"},
            "extraVolumes": [{"name": "log", "persistentVolumeClaim": {"claimName": "log"}}],
            "extraVolumeMounts": [{"name": "log", "mountPath": "/srv/headwater/log"}],
            "resources": {"limits": {"nvidia.com/gpu": 1}},
        },
        "keda": {"enabled": True, "authenticationRef": "kafka"},
        "networkPolicy": {
            "enabled": True,
            "clients": peers,
            "monitoring": peers,
            "kafka": {"to": peers},
            "extraEgress": [{"ports": [{"protocol": "TCP", "port": 443}]}],
        },
        "monitoring": {
            "serviceMonitor": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "apiKey": {"name": "metrics-key"},
            },
            "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        },
    }
    return merge(REQUIRED, full)


SITES = {"what is required": REQUIRED, "everything": everything()}


def pods(manifests: Sequence[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The templates of pods, by name of what makes them."""
    for each in manifests:
        spec = each.get("spec", {})
        if each["kind"] == "CronJob":
            yield each["metadata"]["name"], spec["jobTemplate"]["spec"]["template"]
        elif each["kind"] in PODS:
            yield each["metadata"]["name"], spec["template"]
