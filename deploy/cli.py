"""The command line: names of commands, and where each is.

A command's module is imported when the command runs, so that `headwater --help` is quick and each
command needs only what it uses.
"""

import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from headwater_client.errors import HeadwaterError, mask_logins
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from deploy.signals import raising_signals

COMMANDS = {
    "up": ("servers:up", "Start Kafka, the feature store and Triton on this machine."),
    "down": ("servers:down", "Stop the servers that `up` started here."),
    "status": ("servers:status", "Show where each server is and whether it answers."),
    "logs": ("servers:logs", "Print the end of a server's log."),
    "config": ("config:config", "Print the effective settings as TOML, secrets masked."),
    "demo": ("demo:demo", "Play the whole loop: servers, a first model, live recommendations."),
    "worker": ("worker:worker", "Run one worker of the fast loop until it is stopped."),
    "api": ("api:api", "Run the HTTP API until it is stopped."),
    "console": ("console:console", "Run the console, pages about the system, until it is stopped."),
    "audit": ("console:audit", "Print who has changed what at the console, and check it."),
    "keys": ("api:keys", "Keys of the HTTP API and the console: who may do what."),
    "acls": ("acls:acls", "The rights that a role needs in Kafka, as commands, or given."),
    "placements": (
        "placements:app",
        "Placements: named rules that the lists of a page are made by.",
    ),
    "segments": ("segments:app", "People by a named condition."),
    "rules": ("rules:app", "What changed rules of a placement would do."),
    "trainer": ("train:trainer", "Run the slow loop: windows of events become versions."),
    "controller": ("controller:controller", "Run the rollout controller until it is stopped."),
    "train": ("train:train", "Train a model on a log of events, and give it all traffic."),
    "publish": (
        "train:publish",
        "Publish a version that was kept aside, once the cause is mended.",
    ),
    "evaluate": ("models:evaluate", "Judge a version on the newest part of a log."),
    "optimize": ("models:optimize", "Build faster variants of a version."),
    "tune": ("models:tune", "Search for better settings of training."),
    "schema": (
        "config:schema",
        "Print the AsyncAPI document of the topics, or the document of the HTTP or the gRPC API.",
    ),
    "data": ("data_options:app", "Logs of events in files: what they hold."),
    "replay": ("windows:replay", "Stream a log of events into Kafka, in event-time order."),
    "import": ("move_in:app", "Bring in a log of Gorse or Metarank."),
    "backfill": ("windows:backfill", "Rebuild the online store and the windows."),
    "export": ("people:export", "Print all that is known of a person, as JSON."),
    "forget": ("people:forget", "Forget a person, and print what became of each place."),
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


EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_FAULT = 70
MAX_ERROR_CHARS = 300
FAULTS_LOG = "logs/faults.log"


def main() -> None:
    """Run a command; whatever goes wrong ends in a line a problem and the exit code of its kind."""
    bypass_proxies_on_loopback()
    try:
        with raising_signals(EXIT_TERMINATED):
            app()
    except HeadwaterError as error:
        for line in str(error).splitlines():
            print(f"headwater: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:  # noqa: BLE001  (the one door: nobody meets a stack trace)
        print(f"headwater: {describe_fault(error)}", file=sys.stderr)
        sys.exit(EXIT_FAULT)


def bypass_proxies_on_loopback() -> None:
    """Let clients reach servers of this machine directly where a proxy is set: gRPC obeys it."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return
    names = ("no_proxy", "NO_PROXY")
    known = next((os.environ[name] for name in names if os.environ.get(name)), "")
    if known != "*":
        direct = [*filter(None, known.split(",")), "localhost", "127.0.0.1", "::1"]
        os.environ.update(dict.fromkeys(names, ",".join(dict.fromkeys(direct))))


def describe_fault(error: Exception) -> str:
    """An error that is none of Headwater's in one line, which says where its trace is."""
    reference = os.urandom(4).hex()
    where = _keep_trace(error, reference)
    what = " ".join(mask_logins(f"{type(error).__name__}: {error}").split())
    shown = what if len(what) <= MAX_ERROR_CHARS else f"{what[:MAX_ERROR_CHARS]}..."
    return f"{shown.rstrip(': ')} (an unexpected error: its trace is {reference} in {where})"


def _keep_trace(error: Exception, reference: str) -> str:
    """Write an error's trace into a service's log, or into the file of a command; where it is."""
    logging = sys.modules.get("structlog")
    if logging is not None and logging.is_configured():
        logging.get_logger().error("unexpected_error", reference=reference, exc_info=error)
        return "the log"
    path = _state_folder() / FAULTS_LOG
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(number, "a", encoding="utf-8", errors="backslashreplace") as file:
            trace = mask_logins("".join(traceback.format_exception(error)))
            file.write(f"{reference}\n{trace}\n")
    except OSError:
        traceback.print_exception(error)
        return "the lines above"
    return str(path)


def _state_folder() -> Path:
    try:
        folder: Path = import_module("deploy.settings").load_settings().local.state_dir
    except Exception:  # noqa: BLE001  (the settings may be what is wrong)
        return Path(".headwater")
    return folder


if __name__ == "__main__":
    main()
