"""The command line, thin: a command's logic lives in a module of its own under `commands`."""

from __future__ import annotations

import sys

import typer
from headwater_client.errors import HeadwaterError

from deploy.commands import (
    backfill,
    config,
    controller,
    demo,
    evaluate,
    optimize,
    replay,
    rollout,
    schema,
    servers,
    train,
    trainer,
    tune,
    windows,
    worker,
)

app = typer.Typer(
    name="headwater",
    help="A streaming, time-aware recommender: events in, recommendations out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# One line a command. A command imports what is heavy when it runs: `--help` must be quick.
app.command("up")(servers.up)
app.command("down")(servers.down)
app.command("status")(servers.status)
app.command("logs")(servers.logs)
app.command("config")(config.config)
app.command("demo")(demo.demo)
app.command("worker")(worker.worker)
app.command("trainer")(trainer.trainer)
app.command("controller")(controller.controller)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("optimize")(optimize.optimize)
app.command("tune")(tune.tune)
app.command("schema")(schema.schema)
app.command("replay")(replay.replay)
app.command("backfill")(backfill.backfill)
app.add_typer(rollout.app, name="rollout")
app.add_typer(windows.app, name="windows")


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
