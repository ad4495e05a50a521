"""A worker whose servers ask for TLS and a login: Kafka by SASL_SSL and SCRAM, the store too."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from headwater_client import EventProducer
from headwater_client.errors import SettingsError
from pydantic import SecretStr

from bench.harness.processes import variables_of
from deploy import local
from deploy.local import kafka, process
from deploy.local.process import free_port
from deploy.settings import Settings
from features.kafka import client_config, ensure_topics
from features.settings import BrokerSettings, SaslMechanism, SecurityProtocol
from features.store import USERS
from features.store.redis.keys import row_key
from tests.harness.servers import connect_redis
from tests.harness.waiting import wait_until
from tests.harness.workers import WorkerProcess, WorkerProgress, running, without_model

pytestmark = pytest.mark.integration
USER, PASSWORD = "headwater", 'p=a "s", {s}$1'
PEOPLE = ["ann", "bob"]


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that has signed itself, and a file of its key with it."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", *curve, *name, *files]
    subprocess.run(command, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text(key.read_text() + certificate.read_text())
    return certificate, both


@contextmanager
def secure_kafka(own: Settings, both: Path) -> Iterator[BrokerSettings]:
    """A broker that listens besides for who logs in over TLS; the settings of such a client."""
    server = kafka.Kafka()
    ports, secure = server.ports(own), free_port()
    launch = server.launch(own, ports, lambda *_: None)
    [(properties, text)] = launch.files.items()
    listener = f",SECURE://127.0.0.1:{secure}\n"
    lines = [
        f"{line}{listener}" if line.startswith(("listeners=", "advertised.")) else f"{line}\n"
        for line in text.splitlines()
    ]
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties.write_text(
        "".join(lines).replace("PLAINTEXT:PLAINTEXT,", "PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL,")
        + "sasl.enabled.mechanisms=SCRAM-SHA-512\n"
        + f"listener.name.secure.scram-sha-512.sasl.jaas.config={scram}\n"
        + f"ssl.keystore.type=PEM\nssl.keystore.location={both}\n"
    )
    log = own.local.state_dir / "kafka.log"
    started = process.start(launch.command, launch.environment, launch.folder, log)
    try:
        reached = server.with_address(own, f"127.0.0.1:{ports['broker']}")
        wait_until(lambda: not local.find_ailment(reached, "kafka"), 60)
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(USER, info, PASSWORD.encode())
        admin = AdminClient(client_config(reached.kafka))
        admin.alter_user_scram_credentials([change])[USER].result(10)
        yield BrokerSettings(
            bootstrap_servers=f"127.0.0.1:{secure}",
            security_protocol=SecurityProtocol.SASL_SSL,
            sasl_mechanism=SaslMechanism.SCRAM_SHA_512,
            sasl_username=USER,
            sasl_password=SecretStr(PASSWORD),
            ssl_ca_file=str(both.with_name("certificate.pem")),
        )
    finally:
        # Its log is read by nobody again.
        process.stop(started, 0.2)


@contextmanager
def tls_before(port: int, both: Path) -> Iterator[int]:
    """A port where TLS is spoken, before a server that does not: the bundled Valkey has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while part := await source.read(65_536):
                target.write(part)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    loop, listening = asyncio.new_event_loop(), threading.Event()
    listener = free_port()

    async def serve() -> None:
        async with await asyncio.start_server(forward, "127.0.0.1", listener, ssl=context) as all_:
            listening.set()
            await all_.serve_forever()

    task = loop.create_task(serve())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([task])))
    thread.start()
    assert listening.wait(10)
    try:
        yield listener
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


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
    with secure_kafka(own, both) as broker, tls_before(port, both) as tls_port:
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
