"""What the tests of the console share: each module has servers and a browser of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.harness.console import Console, open_browser, serving_console


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """The console beside a worker, on servers of the module's own."""
    with serving_console(tmp_path_factory.mktemp("console")) as console:
        yield console


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser that is open for all of the module."""
    with open_browser() as browser:
        yield browser
