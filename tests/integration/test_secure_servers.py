"""A worker whose servers ask for TLS and a login: Kafka by SCRAM or by tokens, the store too."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest
from aiokafka.errors import KafkaConnectionError
from headwater_client import EventProducer
from headwater_client.errors import SettingsError
from pydantic import SecretStr

from bench.harness.processes import variables_of
from deploy import local
from deploy.settings import Settings
from features.kafka import ensure_topics
from features.settings import SaslMechanism
from features.store import USERS
from features.store.redis.keys import row_key
from stream.kafka_tokens import make_token_provider
from tests.harness.oauth_server import PROGRAM, oauth_server
from tests.harness.secure_servers import PASSWORD, secure_kafka, tls_before, write_certificate
from tests.harness.servers import connect_redis
from tests.harness.workers import WorkerProcess, WorkerProgress, running, without_model

pytestmark = pytest.mark.integration
USER = "headwater"
PEOPLE = ["ann", "bob"]


@pytest.mark.timeout(180)
def test_a_worker_logs_in_over_tls_everywhere(
    own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = without_model(local.up(own, only=["store"]))
    certificate, both = write_certificate(tmp_path)
    port = int((plain.store.address or "").rpartition(":")[2])
    with closing(connect_redis(plain)) as client:
        client.acl_setuser(
            USER, enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], categories=["+@all"]
        )
    with secure_kafka(own, both) as server, tls_before(port, both) as tls_port:
        broker = server.add_user(USER)
        store = plain.store.model_copy(update={"address": f"127.0.0.1:{tls_port}"})
        settings = plain.model_copy(update={"kafka": broker, "store": store})
        ensure_topics(broker)
        for name, value in variables_of(
            {
                "kafka.security_protocol": broker.security_protocol,
                "kafka.sasl_mechanism": broker.sasl_mechanism,
                "kafka.sasl_username": USER,
                "kafka.sasl_password": PASSWORD,
                "kafka.ssl_ca_file": certificate,
                "store.username": USER,
                "store.password": PASSWORD,
                "store.tls": True,
                "store.tls_ca_file": certificate,
            }
        ).items():
            monkeypatch.setenv(name, value)
        worker = WorkerProcess(settings, "secure", tmp_path / "worker.log", group="secure")
        with running(worker), EventProducer(broker.client_settings, {"log_level": 0}) as producer:
            for number in range(10):
                producer.click(user_id=PEOPLE[number % 2], item_id="i")
            producer.flush()
            WorkerProgress(settings, "secure").wait_for_all(60, [worker])

        # What is refused is said at once, and whom is trusted is the settings' to say.
        wrong = broker.model_copy(update={"sasl_password": SecretStr("wrong")})
        with pytest.raises(SettingsError, match=r"kafka\.sasl_username"):
            ensure_topics(wrong)
        stranger = broker.model_copy(update={"ssl_ca_file": None})
        with pytest.raises(SettingsError, match=r"kafka\.security_protocol"):
            ensure_topics(stranger)
        with closing(connect_redis(plain)) as client:
            assert client.exists(*(row_key(USERS.join_key, name) for name in PEOPLE)) == len(PEOPLE)


@pytest.mark.timeout(180)
def test_tokens_of_oauth_open_kafka(
    own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = without_model(local.up(own, only=["store"]))
    _, both = write_certificate(tmp_path)
    with oauth_server(tmp_path / "oauth") as oauth, secure_kafka(own, both, oauth=oauth) as server:
        broker = server.secure.model_copy(
            update={
                "sasl_mechanism": SaslMechanism.OAUTHBEARER,
                "sasl_username": PROGRAM,
                "sasl_password": SecretStr(oauth.secret),
                "sasl_token_url": oauth.token_url,
                "sasl_token_scope": "kafka",
            }
        )
        token_file = tmp_path / "token"
        token_file.write_text(oauth.fetch_token())
        by_file = {"sasl_token_url": None, "sasl_token_file": str(token_file)}
        app = broker.model_copy(update=by_file)
        ensure_topics(broker)
        for name, value in variables_of(
            {
                "kafka.security_protocol": broker.security_protocol,
                "kafka.sasl_mechanism": broker.sasl_mechanism,
                "kafka.sasl_username": broker.sasl_username,
                "kafka.sasl_password": oauth.secret,
                "kafka.sasl_token_url": broker.sasl_token_url,
                "kafka.sasl_token_scope": broker.sasl_token_scope,
                "kafka.ssl_ca_file": broker.ssl_ca_file,
            }
        ).items():
            monkeypatch.setenv(name, value)
        settings = plain.model_copy(update={"kafka": broker})
        worker = WorkerProcess(settings, "tokens", tmp_path / "worker.log", group="tokens")
        with running(worker), EventProducer(app.client_settings, {"log_level": 0}) as producer:
            for number in range(10):
                producer.click(user_id=PEOPLE[number % 2], item_id="i")
            producer.flush()
            WorkerProgress(settings, "tokens").wait_for_all(60, [worker])

        # Who is refused is told so: at the endpoint by librdkafka and by aiokafka, and by Kafka.
        wrong = broker.model_copy(update={"sasl_password": SecretStr("wrong")})
        with pytest.raises(SettingsError, match=r"kafka\.sasl_username"):
            ensure_topics(wrong)
        with pytest.raises(KafkaConnectionError, match=r"invalid_client.*kafka\.sasl_username"):
            asyncio.run(make_token_provider(wrong).token())
        token_file.write_text("no token")
        with pytest.raises(SettingsError, match=r"kafka\.sasl_username"):
            ensure_topics(app)
