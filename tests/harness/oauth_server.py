"""A server of OAuth 2.0 and OpenID Connect: Django OAuth Toolkit, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

from jwcrypto.jwk import JWK

from deploy.local import process
from deploy.local.process import free_port
from tests.harness.waiting import wait_until

AUDIENCE = "kafka"
CONSOLE, PROGRAM = "headwater-console", "headwater"
PASSWORD = "correct horse"
ROLES = {"ann": ["shop-operators"], "bob": ["cooks"]}
"""Who can log in, all with the same password."""
_DJANGO = [sys.executable, "-m", "django"]
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class OAuthServer:
    """Where it is, and the secret of its clients: the console, and a program."""

    url: str
    secret: str

    @property
    def issuer(self) -> str:
        """Its name, below which its discovery document is."""
        return f"{self.url}/o"

    @property
    def token_url(self) -> str:
        """Its token endpoint."""
        return f"{self.url}/o/token/"

    @property
    def keys_url(self) -> str:
        """Where its public keys are."""
        return f"{self.url}/o/.well-known/jwks.json"

    def fetch_token(self, scope: str = "kafka") -> str:
        """A token for its client that is a program."""
        form = {
            "grant_type": "client_credentials",
            "client_id": PROGRAM,
            "client_secret": self.secret,
            "scope": scope,
        }
        with urllib.request.urlopen(self.token_url, urlencode(form).encode()) as answer:
            token: str = json.load(answer)["access_token"]
        return token

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            urllib.request.urlopen(self.keys_url, timeout=5).close()
        except OSError:
            return False
        return True


@contextmanager
def oauth_server(folder: Path, redirect_url: str = "") -> Iterator[OAuthServer]:
    """Run one that keeps its state in a folder.

    Args:
        redirect_url: where it leads people who have logged in; "": it knows none.
    """
    folder.mkdir()
    key = JWK.generate(kty="RSA", size=2048)
    (folder / "key.pem").write_bytes(key.export_to_pem(private_key=True, password=None))
    server = OAuthServer(f"http://127.0.0.1:{free_port()}", uuid4().hex)
    module = "tests.harness.oauth_settings"
    environment = {**os.environ, "OAUTH_FOLDER": str(folder), "DJANGO_SETTINGS_MODULE": module}
    environment["DJANGO_SUPERUSER_PASSWORD"] = PASSWORD
    secret = ["--client-secret", server.secret, "confidential"]
    create = ["createapplication", "--client-id"]
    commands = [
        ["migrate", "--verbosity", "0"],
        [*create, PROGRAM, *secret, "client-credentials"],
    ]
    if redirect_url:
        told = ["--redirect-uris", redirect_url, "--algorithm", "RS256", "--skip-authorization"]
        commands.append([*create, CONSOLE, *told, *secret, "authorization-code"])
        named = (["--username", name, "--email", f"{name}@shop.example"] for name in ROLES)
        commands += (["createsuperuser", "--noinput", *each] for each in named)
    for command in commands:
        subprocess.run([*_DJANGO, *command], env=environment, cwd=_ROOT, check=True)
    address = server.url.removeprefix("http://")
    serve = [*_DJANGO, "runserver", "--noreload", address]
    started = process.start(serve, environment, _ROOT, folder / "log")
    try:
        wait_until(server.is_ready, 60)
        yield server
    finally:
        process.stop(started, 1)
