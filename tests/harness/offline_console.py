"""The console without servers: its pages over a store in memory, with Kafka and Triton away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from deploy.console.audit import AuditLog
from deploy.console.live import LiveFeed
from deploy.console.pages import ConsolePages
from deploy.console.parts import ConsoleParts, PersonMasks
from deploy.console.service import ConsoleService
from deploy.console.session import Gate, LoginGuard, Sessions
from deploy.console.transport import ConsoleApi, SecureAnswers
from deploy.settings import Settings
from stream.api.keys import KeyRing
from stream.api.parts import ApiParts
from stream.api.readiness import Readiness
from tests.harness.http_api import CONFIG, HttpAnswer, OfflineApi, ask

SECRET = "s" * 32
BROWSER = {"host": "127.0.0.1", "accept": "text/html"}
FORM = BROWSER | {"content-type": "application/x-www-form-urlencoded"}


@dataclass
class OfflineConsole(OfflineApi):
    """Answers as the console does."""

    mask_people: bool = False
    logins_per_minute: float = 1000.0
    sessions: Sessions = field(default_factory=lambda: Sessions(SECRET, 3600))

    def make_app(self, parts: ApiParts, readiness: Readiness) -> Any:
        settings = Settings(kafka=CONFIG.kafka, triton=CONFIG.triton)
        masks = PersonMasks(SECRET) if self.mask_people else None
        audit = AuditLog(settings.kafka)
        service = ConsoleService(
            ConsoleParts.extend(parts, settings=settings, audit=audit, masks=masks)
        )
        guard = LoginGuard(self.logins_per_minute)
        gate = Gate(KeyRing(self.keys_file), self.sessions, guard, is_secure=False)
        api = ConsoleApi(service, gate, readiness, LiveFeed(service.samplers, 0.05))
        return SecureAnswers(api.make_app((), ConsolePages(api, service).make_routes()))

    def get(self, path: str, **headers: str) -> HttpAnswer:
        return self.run(lambda app: ask(app, "GET", path, headers=BROWSER | headers))

    def post(self, path: str, fields: dict[str, str], **headers: str) -> HttpAnswer:
        body = urlencode(fields).encode()
        return self.run(lambda app: ask(app, "POST", path, body, FORM | headers))
