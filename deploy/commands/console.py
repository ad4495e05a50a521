"""`headwater console`, and `headwater audit`: what was changed there."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from headwater_client.admin.audit import AuditEntry
from headwater_client.errors import DataError
from rich.console import Console

from deploy import local
from deploy.console.audit import AuditLog
from deploy.console.serve import run_console
from deploy.services.supervisor import configure_logs
from deploy.settings import load_settings


def console() -> None:
    """Run the console, pages about the system, until it is stopped."""
    configure_logs()
    settings = load_settings()
    is_local = not any(local.addresses(settings).values())
    run_console(local.connect(settings), is_local=is_local)


def audit(
    as_json: Annotated[bool, typer.Option("--json", help="an entry a line, for programs")] = False,
) -> None:
    """Print who has changed what at the console, and check it: exit code 4 if some is missing."""
    chain = AuditLog(local.connect(load_settings()).kafka).read()
    show = Console(highlight=False, soft_wrap=True)
    for entry in chain.entries:
        line = msgspec.json.encode(entry).decode() if as_json else _line(entry)
        show.print(line, markup=False)
    if chain.breaks:
        raise DataError("\n".join(f"topic audit: {each}" for each in chain.breaks))
    if not as_json:
        show.print(
            f"{len(chain.entries)} entries fit together; the digest of the last: {chain.digest}"
        )


def _line(entry: AuditEntry) -> str:
    at = datetime.fromtimestamp(entry.time / 1000, UTC)
    return (
        f"{entry.number} {at:%Y-%m-%d %H:%M:%S}Z {entry.who} ({entry.role or 'no role'}) "
        f"{entry.operation} {entry.target}: {entry.outcome}: {entry.reason!r}"
    )
