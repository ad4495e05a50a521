"""The command line: names of commands, and where each is.

A command's module is imported when the command runs, so that `headwater --help` is quick and each
command needs only what it uses.
"""

import sys
from importlib import import_module
from typing import Any

import typer
from headwater_client.errors import HeadwaterError
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

COMMANDS = {
    "up": ("servers:up", "Start Kafka, the feature store and Triton on this machine."),
    "down": ("servers:down", "Stop the servers that `up` started here."),
    "status": ("servers:status", "Show where each server is and whether it answers."),
    "logs": ("servers:logs", "Print the end of a server's log."),
    "config": ("config:config", "Print the effective settings as TOML, secrets masked."),
    "demo": ("demo:demo", "Play the whole loop: servers, a first model, live recommendations."),
    "worker": ("worker:worker", "Run one worker of the fast loop until it is stopped."),
    "trainer": ("train:trainer", "Run the slow loop: windows of events become versions."),
    "controller": ("controller:controller", "Run the rollout controller until it is stopped."),
    "train": ("train:train", "Train a model on a log of events, and give it all traffic."),
    "evaluate": ("models:evaluate", "Judge a version on the newest part of a log."),
    "optimize": ("models:optimize", "Build faster variants of a version."),
    "tune": ("models:tune", "Search for better settings of training."),
    "schema": ("config:schema", "Print the AsyncAPI document of the topics."),
    "data": ("data_options:app", "Logs of events in files: what they hold."),
    "replay": ("windows:replay", "Stream a log of events into Kafka, in event-time order."),
    "backfill": ("windows:backfill", "Rebuild the online store and the windows."),
    "rollout": ("rollout:app", "A canary's rollout: start one, look at it, steer it."),
    "windows": ("windows:app", "Windows of events, which training reads."),
}
"""By name: the module in `deploy.commands` and its function or group; its line in the help."""


class LazyGroup(TyperGroup):
    """Commands that are imported when they run. The help lists them without an import."""

    def __init__(self, **attributes: Any) -> None:
        listed = {name: TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()}
        super().__init__(**attributes | {"commands": listed})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The command that is asked for, whole."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if listed and name else listed, rest


def load_command(name: str) -> Any:
    """Import a command."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(f"deploy.commands.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return get_command(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return get_command(alone)


app = typer.Typer(
    name="headwater",
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def headwater() -> None:
    """A streaming, time-aware recommender: events in, recommendations out."""


def main() -> None:
    """Run a command; a mistake ends in a line a problem and the exit code of its kind."""
    try:
        app()
    except HeadwaterError as error:
        for line in str(error).splitlines():
            print(f"headwater: {line}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
