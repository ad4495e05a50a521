"""The console: how soon its pages paint in Debian's Chromium, with nothing in the browser's cache.

    uv run python -m bench.api.paint

Kafka, the store, Triton, worker and console share one core; the browser has another.
"""

import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from headwater_client.contract import Scope
from headwater_client.errors import SettingsError
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console, RenderableType

from bench.api.requests import Target, wait_until_answered
from bench.harness import processes
from bench.harness.load import Workload
from bench.harness.measure import Measurement
from bench.harness.runner import Benchmark, DataOptions, Quick, Results, make_table
from bench.harness.servers import LoadedServers, LoadPlan, run_loaded_servers
from deploy.console.pages import PAGES
from deploy.local.process import free_port
from stream.api.keys import make_key, write_keys

CONSOLE = ("-m", "deploy.cli", "console")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
_START_S, _TIMEOUT_S = 60.0, 600.0
_EVENTS = 5_000
# Milliseconds since the browser began to ask: until the first byte, until something is seen.
_TIMES = """() => {
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  const [load] = performance.getEntriesByType("navigation");
  return paint ? [load.responseStart, paint.startTime] : null;
}"""
_LOOK_MS = 20.0


@dataclass(frozen=True, kw_only=True)
class PaintOptions(DataOptions):
    """Options of `bench.api.paint`."""

    quick: Quick = False
    visits: Annotated[int, typer.Option(help="of each page, by a browser that is new", min=1)] = 20


def measure_pages(
    loaded: LoadedServers, browser: Browser, target: Target, visits: int
) -> dict[str, Any]:
    """Each page, so many times: milliseconds to the first byte and to the first paint."""
    person, item = loaded.log.events[0].user_id, loaded.log.events[0].item_id
    found: dict[str, Any] = {}
    for page in PAGES:
        path = page.path.replace("{person}", person).replace("{item}", item)
        loaded.say(f"{path} ...")
        times = [_visit(browser, target, path) for _ in range(visits)]
        first, paint = ([each[at] for each in times] for at in (0, 1))
        found[page.path] = {
            "first_byte_ms": statistics.median(first),
            "first_paint_ms": statistics.median(paint),
            "worst_paint_ms": max(paint),
        }
    return found


def _visit(browser: Browser, target: Target, path: str) -> list[float]:
    url = f"http://127.0.0.1:{target.port}"
    context = browser.new_context(base_url=url)
    try:
        context.request.post("/login", form={"key": target.secret})
        page = context.new_page()
        page.goto(path)
        times: list[float] | None = None
        # Not `wait_for_function`: the pages let nobody evaluate a text.
        while times is None:
            page.wait_for_timeout(_LOOK_MS)
            times = page.evaluate(_TIMES)
        return times
    finally:
        context.close()


def show(found: Mapping[str, Any]) -> Sequence[RenderableType]:
    """The figures for people."""
    table = make_table(
        "Pages of the console, median of the visits",
        "page",
        ("first byte, ms", "first paint, ms", "worst, ms"),
    )
    for path, times in found.items():
        table.add_row(path, *(f"{value:,.0f}" for value in times.values()))
    return [table]


def measure(options: PaintOptions, console: Console) -> Results:
    """Measure how soon pages paint."""
    path = shutil.which("chromium")
    if path is None:
        raise SettingsError("there is no chromium: apt-get install chromium")
    plan = LoadPlan(train_s=3.0, log_events=20_000)
    workload = Workload(options.source, limit=plan.log_events)
    with run_loaded_servers(plan, workload, 1, console) as loaded:
        secret, key = make_key("bench", list(Scope), None)
        keys_file = Path(loaded.settings.local.state_dir) / "keys.toml"
        write_keys(keys_file, [key])
        target = Target(free_port([]), secret)
        variables = processes.variables_of(
            {
                "console.port": target.port,
                "console.logins_per_minute": 1000,
                "api.keys_file": keys_file,
            }
        )
        with (
            loaded.run(processes.WORKER, "headwater") as worker,
            loaded.run(CONSOLE, "console", variables),
            sync_playwright() as driver,
        ):
            Measurement(worker, loaded.load, _TIMEOUT_S).prepare(_EVENTS)
            wait_until_answered(
                lambda: httpx.get(
                    f"http://127.0.0.1:{target.port}/startupz", timeout=5
                ).raise_for_status(),
                _START_S,
                "the console does not answer",
            )
            browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
            found = measure_pages(loaded, browser, target, 2 if options.quick else options.visits)
            browser.close()
    return Results({"pages": found}, show(found))


BENCHMARK = Benchmark("api.paint", PaintOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
