"""Every process with a login of its own, and the rights of its role: enough, and no more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Producer
from headwater_client import EventProducer, RecommendationConsumer, SettingsError
from headwater_client.contract import Scope
from headwater_client.event_types import CLICK
from headwater_client.topics import RECOMMENDATIONS, ROLLOUTS

from bench.harness.processes import folder_variables, variables_of
from deploy import local
from deploy.jobs.train import model_registry
from deploy.local.process import free_port
from deploy.settings import Settings
from features.kafka import client_config, ensure_topics
from features.kafka.access import Role, check_rights, grant_rights, list_rights
from features.schema import FeatureSchema
from features.settings import BrokerSettings
from stream.api.keys import make_key, write_keys
from tests.harness.http_process import HttpProcess, call_json, running_service
from tests.harness.models import SETTINGS, untrained
from tests.harness.rollouts import TOKEN
from tests.harness.secure_servers import PASSWORD, SecureKafka, secure_kafka, write_certificate
from tests.harness.workers import environment

pytestmark = pytest.mark.integration
AUTHORIZER = (
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
    "super.users=User:ANONYMOUS\n"
)
DENIED = re.compile(r"User:headwater-(\w+) is Denied operation = (\w+) .* on resource = (\S+)")
PROCESSES = {
    Role.WORKER: "worker.metrics_port",
    Role.API: "api.port",
    Role.CONSOLE: "console.port",
    Role.CONTROLLER: "rollout.metrics_port",
    Role.TRAINER: "trainer.metrics_port",
}


@pytest.mark.timeout(300)
def test_each_role_has_the_rights_that_it_needs_and_no_others(
    own: Settings, tmp_path: Path
) -> None:
    _, both = write_certificate(tmp_path)
    servers = local.up(own, only=["store", "triton"])
    with secure_kafka(own, both, AUTHORIZER) as kafka:
        ensure_topics(kafka.plain)
        logins = {role: kafka.add_user(f"headwater-{role}") for role in Role}
        with pytest.raises(SettingsError) as refused:
            check_rights(logins[Role.WORKER], Role.WORKER)
        needed = "topic clicks: this login has no right to Read, Describe, DescribeConfigs: "
        assert needed in str(refused.value)
        assert "headwater acls worker --principal User:headwater-worker" in str(refused.value)
        for role in Role:
            rights = list(list_rights(role, servers.worker.group, servers.triton.model))
            grant_rights(kafka.plain, rights, f"User:headwater-{role}")
        before = len(list_denied(kafka))

        settings = servers.model_copy(update={"kafka": logins[Role.TRAINER]})
        with closing(model_registry(settings, SETTINGS)) as registry:
            registry.publish(untrained(FeatureSchema(settings.features), 1))
        with ExitStack() as stack:
            secret, key = make_key("test", list(Scope), None)
            write_keys(tmp_path / "keys.toml", [key])
            contexts = [
                running(servers, role, logins[role], port, both.parent)
                for role, port in PROCESSES.items()
            ]
            with ThreadPoolExecutor() as side_by_side:
                ran = dict(
                    zip(PROCESSES, side_by_side.map(stack.enter_context, contexts), strict=True)
                )
            check_loop(logins[Role.APP], ran[Role.API].url, secret)
            assert list_denied(kafka)[before:] == []
        for role, topic in (
            (Role.APP, ROLLOUTS),
            (Role.APP, RECOMMENDATIONS),
            (Role.API, ROLLOUTS),
            (Role.WORKER, CLICK.topic),
            (Role.TRAINER, RECOMMENDATIONS),
        ):
            assert writes(logins[role], topic) == KafkaError.TOPIC_AUTHORIZATION_FAILED


def running(
    servers: Settings, role: Role, login: BrokerSettings, port: str, folder: Path
) -> AbstractContextManager[HttpProcess]:
    """The process of a role, until the end of the block."""
    number = free_port([])
    chosen: Mapping[str, object] = {
        port: number,
        "kafka.security_protocol": login.security_protocol,
        "kafka.sasl_mechanism": login.sasl_mechanism,
        "kafka.sasl_username": login.sasl_username,
        "kafka.sasl_password": PASSWORD,
        "kafka.ssl_ca_file": login.ssl_ca_file,
        "kafka.create_topics": False,
        "api.keys_file": folder / "keys.toml",
        "rollout.admin_token": TOKEN,
    }
    settings = servers.model_copy(update={"kafka": login})
    variables = environment(settings, "alone") | folder_variables(settings) | variables_of(chosen)
    return running_service(role, number, variables, folder, "/readyz")


def check_loop(app: BrokerSettings, url: str, secret: str) -> None:
    """An event by Kafka, one by HTTP, and what an app asks for."""
    with (
        RecommendationConsumer(app.client_settings) as answers,
        EventProducer(app.client_settings) as producer,
    ):
        sent = producer.click(user_id="ann", item_id="i1")
        producer.flush()
        assert any(
            answer is not None and answer.event_id == sent.event_id
            for answer in (answers.receive(1.0) for _ in range(30))
        )
    event = {"type": "click", "user_id": "bob", "item_id": "i1"}
    for path, body in (("/v1/events", event), ("/v1/recommendations", {"person": "bob"})):
        status, answer = call_json(f"{url}{path}", "POST", body, secret)
        assert status == 200, answer


def writes(login: BrokerSettings, topic: str) -> int | None:
    """The code of the error that a message leads to."""
    told: list[KafkaError | None] = []
    producer = Producer({**client_config(login), "log_level": "0"})
    producer.produce(topic, b"{}", "ann", on_delivery=lambda error, _: told.append(error))
    producer.flush(20)
    return told[0].code() if told and told[0] else None


def list_denied(kafka: SecureKafka) -> list[tuple[str, ...]]:
    """Who was refused what, in the broker's words."""
    return [found.groups() for found in DENIED.finditer(kafka.log.read_text())]
