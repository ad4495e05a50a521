"""Where nothing was trained and nothing sent, each page says what is missing and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from deploy import local
from deploy.console.pages import PAGES, Page
from features.kafka import ensure_topics
from tests.harness.console import Console, running_console
from tests.harness.servers import state_in

pytestmark = pytest.mark.integration
HOSTILE = "%3Cscript%3Ealert(1)%3C%2Fscript%3E"
HTML = {"accept": "text/html"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """The console on servers that hold nothing."""
    folder = tmp_path_factory.mktemp("bare")
    with state_in(folder / "state") as own:
        settings = local.up(own)
        ensure_topics(settings.kafka)
        with running_console(own, settings, folder, {}) as console:
            yield console


@pytest.fixture(scope="module")
def visitor(bare: Console) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=bare.url, headers=HTML, timeout=30) as client:
        assert client.post("/login", data={"key": bare.secrets["admin"]}).status_code == 303
        yield client


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.area)
def test_each_page_says_what_is_missing(visitor: httpx.Client, page: Page) -> None:
    answer = visitor.get(re.sub(r"{\w+}", HOSTILE, page.path))
    # A page about one thing finds none, or is told no name that there could be.
    is_about_one = "{" in page.path or page.area == "faults"
    assert answer.status_code in ((400, 404) if is_about_one else (200,))
    assert "<h1" in answer.text
    assert "<script>alert" not in answer.text
    assert "An error of the service" not in answer.text
    assert "Internal Server Error" not in answer.text


def test_a_page_that_there_is_not_is_told_as_one(visitor: httpx.Client) -> None:
    answer = visitor.get("/nowhere")
    assert answer.status_code == 404
    assert "the navigation leads to all pages" in answer.text
    told = visitor.get("/nowhere", headers={"accept": "application/json"})
    assert told.headers["content-type"] == "application/problem+json"
