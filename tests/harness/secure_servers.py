"""Servers that ask for TLS and a login: a Kafka with SASL_SSL and SCRAM, and TLS before a store."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr

from deploy import local
from deploy.local import kafka, process
from deploy.local.process import free_port
from deploy.settings import Settings
from features.kafka import client_config
from features.settings import BrokerSettings, SaslMechanism, SecurityProtocol
from tests.harness.oauth_server import AUDIENCE, OAuthServer
from tests.harness.waiting import wait_until

PASSWORD = 'p=a "s", {s}$1'


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


@dataclass(frozen=True)
class SecureKafka:
    """A broker that listens for who logs in over TLS, and besides for whoever is on this machine.

    Attributes:
        plain: settings of a client that asks nobody.
    """

    plain: BrokerSettings
    secure: BrokerSettings
    log: Path

    def add_user(self, name: str) -> BrokerSettings:
        """The settings of a client with a login of its own."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(name, info, PASSWORD.encode())
        admin = AdminClient(client_config(self.plain))
        admin.alter_user_scram_credentials([change])[name].result(10)
        return self.secure.model_copy(update={"sasl_username": name})


@contextmanager
def secure_kafka(
    own: Settings, both: Path, properties: str = "", oauth: OAuthServer | None = None
) -> Iterator[SecureKafka]:
    """Run such a broker.

    Args:
        properties: more of its configuration.
        oauth: whose tokens it takes, too.
    """
    server = kafka.Kafka()
    ports, secure = server.ports(own), free_port()
    launch = server.launch(own, ports, lambda *_: None)
    [(file, text)] = launch.files.items()
    listener = f",SECURE://127.0.0.1:{secure}\n"
    lines = [
        f"{line}{listener}" if line.startswith(("listeners=", "advertised.")) else f"{line}\n"
        for line in text.splitlines()
    ]
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    file.write_text(
        "".join(lines).replace("PLAINTEXT:PLAINTEXT,", "PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL,")
        + f"sasl.enabled.mechanisms=SCRAM-SHA-512{',OAUTHBEARER' if oauth else ''}\n"
        + f"listener.name.secure.scram-sha-512.sasl.jaas.config={scram}\n"
        + (_take_tokens(oauth) if oauth else "")
        + f"ssl.keystore.type=PEM\nssl.keystore.location={both}\n{properties}"
    )
    log = own.local.state_dir / "kafka.log"
    environment = dict(launch.environment)
    if oauth:
        allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={oauth.keys_url}"
        options = environment.get("JDK_JAVA_OPTIONS", "")
        environment["JDK_JAVA_OPTIONS"] = f"{options} {allowed}"
    started = process.start(launch.command, environment, launch.folder, log)
    try:
        reached = server.with_address(own, f"127.0.0.1:{ports['broker']}")
        wait_until(lambda: not local.find_ailment(reached, "kafka"), 60)
        secure_settings = BrokerSettings(
            bootstrap_servers=f"127.0.0.1:{secure}",
            security_protocol=SecurityProtocol.SASL_SSL,
            sasl_mechanism=SaslMechanism.SCRAM_SHA_512,
            sasl_username="nobody",
            sasl_password=SecretStr(PASSWORD),
            ssl_ca_file=str(both.with_name("certificate.pem")),
        )
        yield SecureKafka(reached.kafka, secure_settings, log)
    finally:
        # Its log is read by nobody again.
        process.stop(started, 0.2)


def _take_tokens(oauth: OAuthServer) -> str:
    package = "org.apache.kafka.common.security.oauthbearer"
    told = {
        "sasl.jaas.config": f"{package}.OAuthBearerLoginModule required;",
        "sasl.server.callback.handler.class": f"{package}.OAuthBearerValidatorCallbackHandler",
        "sasl.oauthbearer.jwks.endpoint.url": oauth.keys_url,
        "sasl.oauthbearer.expected.audience": AUDIENCE,
    }
    return "".join(f"listener.name.secure.oauthbearer.{key}={told[key]}\n" for key in told)


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
