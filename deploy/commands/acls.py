"""`headwater acls`: who may do what in Kafka."""

from typing import Annotated

import typer
from headwater_client.errors import SettingsError

from deploy.settings import load_settings
from features.kafka.access import Role, grant_rights, list_rights, write_commands

Who = Annotated[Role, typer.Argument(help="which of Headwater's processes, or who")]
Principal = Annotated[
    str | None, typer.Option(help="the login that it has; by default User:headwater-ROLE")
]
Apply = Annotated[bool, typer.Option("--apply", help="give them, by the login of the settings")]


def acls(role: Who, principal: Principal = None, apply: Apply = False) -> None:
    """The rights that a role needs in Kafka, as commands, or given."""
    settings = load_settings()
    brokers = settings.kafka.bootstrap_servers
    if not brokers:
        raise SettingsError("kafka.bootstrap_servers: is not set: the local Kafka asks nobody")
    named = principal or f"User:headwater-{role}"
    rights = list(list_rights(role, settings.worker.group, settings.triton.model))
    if apply:
        grant_rights(settings.kafka, rights, named)
        print(f"{named}: {len(rights)} rights")
        return
    print("\n".join(write_commands(rights, named, brokers)))
