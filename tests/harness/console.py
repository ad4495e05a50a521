"""The console as a process on real servers, a worker beside it, and browsers that look at it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from headwater_client import EventProducer
from headwater_client.contract import Scope
from playwright.sync_api import Browser, Page, sync_playwright

from bench.harness.processes import folder_variables, variables_of
from deploy import local
from deploy.jobs.train import model_registry
from deploy.local.process import free_port
from deploy.settings import Settings
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from stream.api.keys import make_key, write_keys
from tests.harness.http_process import call_json, running_service
from tests.harness.models import ITEMS, SETTINGS, untrained
from tests.harness.servers import state_in
from tests.harness.workers import WorkerProcess, WorkerProgress, environment, running

KEYS = {
    "viewer": [Scope.VIEW],
    "reader": [Scope.VIEW, Scope.READ_PEOPLE],
    "steers": [Scope.OPERATE],
    "operator": [Scope.OPERATE, Scope.READ_PEOPLE],
    "admin": list(Scope),
    "asks": [Scope.ASK],
}
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# The same browser without a desktop, for a third less CPU, comes first.
BROWSERS = ("chromium-headless-shell", "chromium")
NEEDS = "needs a browser: apt-get install chromium-headless-shell"


@dataclass
class Console:
    """The console as a process, and what it looks at.

    Attributes:
        local: settings with which the local servers can be found.
        secrets: of a key for each of `KEYS`.
        title: of the item i1, which tries to be markup.
    """

    local: Settings
    settings: Settings
    process: subprocess.Popen[bytes]
    log: Path
    url: str
    secrets: Mapping[str, str]
    title: str = "<b onmouseover=alert(1)>Item</b> & \"one\" '1'"

    def call(self, method: str, path: str, body: Any = None, key: str = "admin") -> Any:
        """Status and document of an answer; without a key where its name is ""."""
        secret = self.secrets[key] if key else ""
        return call_json(self.url + path, method, body, secret)

    def take(self, method: str, path: str, body: Any = None, key: str = "admin") -> Any:
        """The document of an answer that has to be one."""
        status, document = self.call(method, path, body, key)
        assert status == 200, document
        return document

    @contextmanager
    def replaying(self, every_s: float = 0.02) -> Iterator[None]:
        """In the block people click on items, one after the other."""
        stop = threading.Event()

        def send() -> None:
            number = 0
            with EventProducer(self.settings.kafka.client_settings, {"log_level": 0}) as producer:
                while not stop.wait(every_s):
                    producer.click(user_id=f"p{number % 20}", item_id=f"i{number * 7 % ITEMS}")
                    number += 1

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def serving_console(folder: Path, **chosen: object) -> Iterator[Console]:
    """The console, with an untrained version, all items in the catalogue, and a key a role.

    Args:
        chosen: settings of the console, such as `mask_people=True`.
    """
    with state_in(folder / "state") as own:
        settings = local.up(own)
        ensure_topics(settings.kafka)
        with closing(model_registry(settings, SETTINGS)) as registry:
            registry.publish(untrained(FeatureSchema(settings.features), 1))
        told = {"catalogue_refresh_s": 0.5, "metrics_port": free_port([])}
        settings = settings.model_copy(update={"worker": settings.worker.model_copy(update=told)})
        worker = WorkerProcess(settings, "console", folder / "worker.log", **told)
        with running(worker):
            with EventProducer(settings.kafka.client_settings, {"log_level": 0}) as producer:
                producer.item("i1", title=Console.title, category=["c1"])
                for number in (0, *range(2, ITEMS)):
                    producer.item(
                        f"i{number}", title=f"Item i{number}", category=[f"c{number % 5}"]
                    )
            WorkerProgress(settings).wait_for_all(60, [worker])
            with running_console(own, settings, folder, chosen) as console:
                yield console


@contextmanager
def running_console(
    own: Settings,
    settings: Settings,
    folder: Path,
    chosen: Mapping[str, object],
    more: Mapping[str, object] | None = None,
) -> Iterator[Console]:
    """The console's process, and a key a role.

    Args:
        own: settings with which the local servers can be found.
        settings: with their addresses.
        chosen: settings of the console.
        more: settings of other sections, by their dotted names.
    """
    made = {name: make_key(name, scopes, None) for name, scopes in KEYS.items()}
    write_keys(folder / "keys.toml", [key for _, key in made.values()])
    port = int(str(chosen.get("port", free_port([]))))
    named = {
        "console.port": port,
        "console.sample_every_s": 1.0,
        # Browsers of the tests log in again and again.
        "console.logins_per_minute": 1000,
        "api.keys_file": folder / "keys.toml",
        "worker.catalogue_refresh_s": 0.5,
        "worker.metrics_port": settings.worker.metrics_port,
        **{f"console.{name}": value for name, value in chosen.items()},
        **(more or {}),
    }
    variables = environment(settings, "console") | folder_variables(settings) | variables_of(named)
    secrets = {name: secret for name, (secret, _) in made.items()}
    with running_service("console", port, variables, folder, "/startupz") as shown:
        yield Console(own, settings, shown.process, shown.log, shown.url, secrets)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Debian's Chromium. Without it the tests that need it are skipped, but for CI's.

    As long as it is open, an event loop runs in this thread: `asyncio.run` cannot be called.
    """
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None and "CI" not in os.environ:
        pytest.skip(NEEDS)
    assert path, NEEDS
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A browser's window on a console.

    Attributes:
        page: Playwright's.
        faults: what went wrong in the browser: scripts, refused by its rules, not found.
        foreign: what was asked of others than the console.
    """

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        """Show a page."""
        self.page.goto(self.url + path)

    def value(self, selector: str) -> float:
        """The exact value of a number on the page."""
        return float(self.page.locator(f"{selector} data").first.get_attribute("value") or "nan")

    def find_faults(self, *rules: str) -> list[str]:
        """What axe finds serious on the page, a line each; with these rules alone, if any."""
        options = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
        found = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{each['id']}: {node['target']}: {node['failureSummary']}"
            for each in found
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]


@contextmanager
def visiting(
    browser: Browser, console: Console, key: str = "admin", allowed: str = "", **options: Any
) -> Iterator[Visit]:
    """A window that has logged in; whatever was shown, nothing was asked of any other host.

    Args:
        allowed: another host that may be asked, by its address.
        options: of Playwright's `new_context`, such as `color_scheme="dark"`.
    """
    with closing(browser.new_context(**options)) as context:
        visit = Visit(context.new_page(), console.url)
        context.on("request", lambda request: _note_request(visit, request.url, allowed))
        visit.page.on("pageerror", lambda error: visit.faults.append(str(error)))
        visit.page.on("console", lambda said: _note_said(visit, said.type, said.text))
        if key:
            visit.go("/login")
            visit.page.fill("#key", console.secrets[key])
            visit.page.click("main button")
            visit.page.wait_for_selector("nav")
        yield visit
    assert visit.foreign == []


def _note_request(visit: Visit, url: str, allowed: str) -> None:
    known = [f"{visit.url}/", "data:", "blob:", *([f"{allowed}/"] if allowed else [])]
    if not url.startswith(tuple(known)):
        visit.foreign.append(url)


def _note_said(visit: Visit, kind: str, text: str) -> None:
    # That a test reads a picture back, which nobody else does, is no fault of the page.
    if kind in ("error", "warning") and "willReadFrequently" not in text:
        visit.faults.append(text)
