"""Runs the console in this process: the API's core, the operations of all areas, and the pages."""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import closing
from secrets import token_urlsafe

import structlog

from deploy.console import audit, live, pages, parts, service, session, transport
from deploy.console.single_sign_on import SingleSignOn
from deploy.services.api import Work, check_servers, find_keys_file, listen, make_core, open_keys
from deploy.settings import Settings
from features.kafka import LogIdentity
from features.kafka.access import Role
from stream.api.keys import KeyRing

log = structlog.get_logger()


def run_console(settings: Settings, *, is_local: bool) -> None:
    """Show the system until told to stop.

    Args:
        settings: with all addresses.
        is_local: whether all servers are this machine's own: then it needs no keys on loopback.

    Raises:
        SettingsError: keys are missing, or an OpenID provider guards what is open; the port is
            taken, or rows of other settings are there.
        ServerError: Kafka or the store does not answer at the start; or a topic was made anew, or
            has more partitions.
    """
    console = settings.console
    keys, works = open_keys(settings, find_keys_file(settings, "console", is_local=is_local))
    identity = check_servers(settings, Role.CONSOLE)
    with closing(listen("console", console.address, console.port)) as listener:
        asyncio.run(_run(settings, keys, works, identity, listener))


async def _run(
    settings: Settings,
    keys: KeyRing,
    more: Sequence[Work],
    identity: LogIdentity,
    listener: socket.socket,
) -> None:
    chosen, core = settings.console, make_core(settings, identity)
    secret = chosen.secret.get_secret_value() if chosen.secret else token_urlsafe(32)
    operations = service.ConsoleService(
        parts.ConsoleParts.extend(
            core.parts,
            settings=settings,
            audit=audit.AuditLog(settings.kafka),
            masks=parts.PersonMasks(secret) if chosen.mask_people else None,
        )
    )
    gate = session.Gate(
        keys,
        session.Sessions(secret, chosen.session_s),
        session.LoginGuard(chosen.logins_per_minute),
        chosen.secure_cookies or (settings.oidc.redirect_url or "").startswith("https:"),
        SingleSignOn(settings.oidc, secret) if settings.oidc.client_id else None,
    )
    feed = live.LiveFeed(operations.samplers, chosen.sample_every_s)
    api = transport.ConsoleApi(operations, gate, core.readiness, feed)
    routes = pages.ConsolePages(api, operations).make_routes()
    log.info("console_listens", address=chosen.address, port=chosen.port)
    works = [
        *more,
        feed.run,
        operations.watch_now,
        operations.watch_demand,
        operations.watch_signals,
    ]
    app = transport.SecureAnswers(api.make_app((), routes))
    await core.serve(app, listener, works, feed.close)
