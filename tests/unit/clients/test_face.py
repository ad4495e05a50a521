"""What `headwater_client` offers: a name that goes or comes is a change for every app."""

from __future__ import annotations

import re
import subprocess
import sys

import headwater_client
import pytest
from headwater_client import KafkaSettings, SettingsError, errors

from tools.measure_code import PRODUCT, ROOT, source_files

NAMES = [
    "AddToCart",
    "ApiClient",
    "AsyncApiClient",
    "Click",
    "DeadLetter",
    "DeliveryError",
    "Dislike",
    "EVENT_TYPES",
    "EventError",
    "EventProducer",
    "EventSpec",
    "ForkedError",
    "HeadwaterError",
    "Hide",
    "Impression",
    "Interaction",
    "Item",
    "KafkaSettings",
    "Play",
    "ProblemError",
    "Purchase",
    "QueueFullError",
    "Rating",
    "Reason",
    "Recommendation",
    "RecommendationConsumer",
    "RecommendedItem",
    "RemoveFromCart",
    "Return",
    "ServerError",
    "SettingsError",
    "Undelivered",
    "WhenFull",
    "decode",
    "encode",
]


def test_the_public_names() -> None:
    assert sorted(headwater_client.__all__) == sorted(NAMES)
    assert dir(headwater_client) == sorted(headwater_client.__all__)
    for name in NAMES:
        assert getattr(headwater_client, name) is not None
    with pytest.raises(AttributeError, match="Nothing"):
        _ = headwater_client.Nothing


def test_the_contract_alone_does_not_load_kafka() -> None:
    heavy = {"confluent_kafka", "httpx", "pydantic", "numpy", "features"}
    code = f"import sys, headwater_client; sys.exit(bool({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_tree_of_errors_shows_the_whole_family() -> None:
    defined = re.compile(r"^class (\w+)\((\w+Error)\):", re.MULTILINE)
    family = {"HeadwaterError": ""}
    classes = [
        (name, parent, str(path.relative_to(ROOT)))
        for path in source_files(PRODUCT)
        for name, parent in defined.findall(path.read_text())
    ]
    while more := {n: at for n, parent, at in classes if parent in family and n not in family}:
        family |= more
    tree = (errors.__doc__ or "").splitlines()
    for name, path in family.items():
        [line] = [line for line in tree if re.search(rf"\b{name}\b(?!`)", line)]
        assert path in line or path.startswith("clients/"), line
    assert len(family) > 20


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"bootstrap_servers": ""}, "bootstrap_servers: is empty"),
        ({"security_protocol": "TLS"}, "security_protocol: 'TLS': expected one of PLAINTEXT"),
        ({"sasl_mechanism": "GSSAPI"}, "sasl_mechanism: 'GSSAPI'"),
        ({"security_protocol": "SASL_SSL", "sasl_username": "ann"}, "needs sasl_username and"),
    ],
)
def test_wrong_settings_are_told(given: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        KafkaSettings(**{"bootstrap_servers": "localhost:9092", **given})


def test_a_login_goes_to_kafka_and_nowhere_else() -> None:
    settings = KafkaSettings(
        "host:9093",
        security_protocol="SASL_SSL",
        sasl_username="ann",
        sasl_password="secret",
        ssl_ca_file="/ca.pem",
    )
    assert "secret" not in repr(settings)
    assert settings.client_config() == {
        "bootstrap.servers": "host:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "ann",
        "sasl.password": "secret",
        "ssl.ca.location": "/ca.pem",
    }
