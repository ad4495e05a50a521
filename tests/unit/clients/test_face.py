"""What `headwater_client` offers: a name that goes or comes is a change for every app."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import headwater_client
import pytest
from headwater_client import KafkaSettings, SettingsError, errors
from headwater_client.operations import OPERATIONS

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


TOKENS = {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"bootstrap_servers": ""}, "bootstrap_servers: is empty"),
        ({"security_protocol": "TLS"}, "security_protocol: 'TLS': expected one of PLAINTEXT"),
        ({"sasl_mechanism": "GSSAPI"}, "sasl_mechanism: 'GSSAPI'"),
        ({"security_protocol": "SASL_SSL", "sasl_username": "ann"}, "needs sasl_username and"),
        (TOKENS, "needs either sasl_token_url or sasl_token_file"),
        (TOKENS | {"sasl_token_url": "http://t", "sasl_token_file": "f"}, "needs either"),
        (TOKENS | {"sasl_token_url": "http://t"}, "needs sasl_username and sasl_password, of the"),
        (
            {"security_protocol": "SASL_SSL", "sasl_token_url": "http://t"},
            "are for sasl_mechanism OAUTHBEARER",
        ),
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


def test_a_client_gets_tokens_from_an_endpoint_or_a_file(tmp_path: Path) -> None:
    login = {"sasl_username": "ann", "sasl_password": "secret", "sasl_token_url": "http://t"}
    config = KafkaSettings("host:9093", **TOKENS, **login, sasl_token_scope="k").client_config()
    assert {name: config[name] for name in config if name.startswith("sasl.")} == {
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": "http://t",
        "sasl.oauthbearer.client.id": "ann",
        "sasl.oauthbearer.client.secret": "secret",
        "sasl.oauthbearer.scope": "k",
    }

    file = tmp_path / "token"
    settings = KafkaSettings("host:9093", **TOKENS, sasl_token_file=str(file))
    with pytest.raises(SettingsError, match=f"sasl_token_file: {file}: .*No such file"):
        settings.client_config()["oauth_cb"](None)
    file.write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        settings.client_config()["oauth_cb"](None)
    file.write_text("abc\n")
    token, until_s = settings.client_config()["oauth_cb"](None)
    assert token == "abc"
    assert until_s > time.time()


def test_whatever_changes_something_leaves_a_trace_at_the_console() -> None:
    asks = {"recommend", "rank_items", "find_similar", "find_together"}
    posts = {each.name for each in OPERATIONS if each.method != "GET"}
    assert posts - {each.name for each in OPERATIONS if each.is_action} == asks
