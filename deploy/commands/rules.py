"""`headwater rules`: what changed rules of a placement would do."""

import asyncio
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from deploy import local
from deploy.commands import placements
from deploy.jobs.replay_rules import Change, RulesReplay, replay_rules
from deploy.services.supervisor import configure_logs
from deploy.settings import load_settings
from trainer.policies.off_policy import Estimate, PolicyComparison

app = typer.Typer(help="What changed rules of a placement would do.", no_args_is_help=True)
ESTIMATORS = {"ips": "IPS", "snips": "SNIPS", "dr": "doubly robust"}


@app.callback()
def rules() -> None:
    """What changed rules of a placement would do."""


@app.command()
def replay(  # noqa: PLR0913  (the rules of a placement, and what of the log)
    name: placements.Name,
    filter_text: placements.FilterOption = None,
    limit: placements.LimitOption = None,
    fallback: placements.FallbackOption = None,
    objective: placements.ObjectiveOption = None,
    file: placements.RulesOption = None,
    days: Annotated[float, typer.Option(help="of the log, back from now", min=0.001)] = 7.0,
    lists: Annotated[
        int, typer.Option(help="that are compared; of fewer people, where there are more", min=1)
    ] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,
) -> None:
    """Say what other rules would have done with the lists of the last days; nothing changes.

    How many lists would be others, how many items they show, and what they would have earned, as
    far as the log can say.
    """
    # What the serving core tells of itself at its start is no part of the answer.
    configure_logs(only_warnings=True)
    given = {"filter": filter_text, "limit": limit, "fallback": fallback, "objective": objective}
    change = Change(name, placements.read_rules(name, file, given))
    settings = local.connect(load_settings())
    found = asyncio.run(replay_rules(settings, change, days, lists))
    if as_json:
        print(msgspec.json.encode(describe_replay(found)).decode())
        return
    print_replay(found)


def describe_replay(found: RulesReplay) -> dict[str, object]:
    """A replay for programs."""
    compared = found.comparison
    return {
        "placement": found.placement,
        "days": found.days,
        "logged": found.logged,
        "compared": compared.lists,
        "left_out": found.left_out,
        "of_seen": found.of_seen,
        "changed": compared.changed,
        "short": {"before": compared.short_before, "after": compared.short_after},
        "items": {"before": compared.items_before, "after": compared.items_after},
        "reproduced": compared.reproduced,
        "beyond": compared.beyond,
        "cannot_say": compared.silence,
        "reward": compared.policies,
    }


def print_replay(found: RulesReplay) -> None:
    """A replay as people read it."""
    compared = found.comparison
    seen = ", as far as they were seen" if found.of_seen else ""
    table = Table(
        title=f"{found.placement}: {compared.lists:,} of {found.logged:,} lists of the last "
        f"{found.days:g} days{seen}",
        title_justify="left",
        show_header=False,
    )
    share = compared.changed / compared.lists if compared.lists else 0.0
    table.add_row("lists that change", f"{compared.changed:,} ({share:.0%})")
    table.add_row("different items", f"{compared.items_before:,} -> {compared.items_after:,}")
    shorter = f"{compared.short_before:,} -> {compared.short_after:,}"
    table.add_row("lists shorter than asked for", shorter)
    table.add_row("places that the rules of then give again", f"{compared.reproduced:.0%}")
    console = Console(highlight=False)
    console.print(table)
    for reason, number in found.left_out.items():
        print(f"{number:,} lists left out: {reason}")
    if compared.beyond:
        print(f"{compared.beyond:,} places are added, of which the log says nothing")
    if compared.policies is not None:
        console.print(_estimates(compared.policies))
    if compared.silence:
        print(f"the log cannot say what they would earn: {compared.silence}")


def _estimates(policies: PolicyComparison) -> Table:
    table = Table(
        title=f"reward of a place, from {policies.decisions:,} places that count as "
        f"{policies.effective_decisions:,.0f}",
        title_justify="left",
    )
    table.add_column("")
    for column in ("reward", "beside the rules of then"):
        table.add_column(column, justify="right")
    table.add_row("rules of then", _describe(policies.logged), "")
    for name, shown in ESTIMATORS.items():
        table.add_row(shown, _describe(policies.other[name]), _describe(policies.gains[name], "+"))
    return table


def _describe(estimate: Estimate, sign: str = "") -> str:
    low, high = estimate.interval
    return f"{estimate.value:{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"
