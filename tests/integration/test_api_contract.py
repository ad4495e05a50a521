"""The running service keeps its contract, whatever is sent; all servers are real.

A longer run: `SCHEMATHESIS_EXAMPLES=1000 uv run pytest -s tests/integration/test_api_contract.py`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from headwater_client import ApiClient, AsyncApiClient, Click, Item, ProblemError
from headwater_client.contract import PopularQuery, RankQuery, RecommendationQuery, SimilarQuery
from headwater_client.http import raw_event

from tests.harness.api_service import Service, pid_of, serving_api
from tests.harness.servers import pause
from tests.harness.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
TYPESCRIPT = ROOT / "clients" / "typescript"
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "10")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving_api(tmp_path_factory.mktemp("contract")) as service:
        yield service


def test_schemathesis_finds_nothing(service: Service) -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(ROOT / "tests" / "schemathesis.toml")),
            *("run", f"{service.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {service.secret}"),
            *("--max-examples", EXAMPLES, "--seed", "1", "--no-color", "--continue-on-failure"),
        ],
        cwd=ROOT,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.harness.schemathesis_checks"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(run.stdout)
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2000:]


def click(person: str, item_id: str = "i1") -> Click:
    now_ms = int(time.time() * 1000)
    return Click(event_id=uuid4().hex, user_id=person, item_id=item_id, timestamp=now_ms)


def _clicks(api: ApiClient, person: str) -> float:
    try:
        return api.describe_person(person).counters["click"]["all"]
    except ProblemError:
        return 0.0


def test_the_python_client_does_all_that_the_api_does(service: Service) -> None:
    person = f"a/b é {uuid4().hex}"
    with ApiClient(service.url, service.secret) as api:
        first = api.recommend(RecommendationQuery(person=person, limit=5))
        best = first.items[0].item_id
        events = [raw_event(click(person, best))]
        then = api.recommend(RecommendationQuery(person=person, events=events, record=True))
        assert then.recorded
        assert best not in [item.item_id for item in then.items]
        (sent,) = api.send_events([click(person)]).events
        wait_until(lambda: _clicks(api, person) == 2, 30)
        known = api.recommend(RecommendationQuery(person=person, min_offset=sent.place))
        assert known.offsets.items() >= sent.place.items()
        assert [each.item_id for each in api.describe_person(person).events] == [best, "i1"]
        ranked = api.rank_items(RankQuery(person=person, items=["i3", "i4", "nowhere"]))
        assert {item.item_id for item in ranked.items} == {"i3", "i4", "nowhere"}
        assert len(api.find_similar(SimilarQuery(items=["i8"], limit=3)).items) == 3
        assert len(api.list_popular(PopularQuery(limit=1)).items) <= 1
        assert api.put_items([Item(item_id="of-the-client")]).accepted == 1
        assert api.tell_version().versions == {"stable": 1}
        with pytest.raises(ProblemError, match="limit: 0") as refusal:
            api.recommend(RecommendationQuery(limit=0))
        assert (refusal.value.problem.status, refusal.value.problem.field) == (400, "limit")
    with ApiClient(service.url) as nobody, pytest.raises(ProblemError, match="401"):
        nobody.tell_version()


def test_the_client_for_asyncio_asks_at_once(service: Service) -> None:
    async def ask() -> list[str | None]:
        async with AsyncApiClient(service.url, service.secret) as api:
            queries = [RecommendationQuery(person=f"p{number}", limit=1) for number in range(20)]
            return [each.person for each in await asyncio.gather(*map(api.recommend, queries))]

    assert asyncio.run(ask()) == [f"p{number}" for number in range(20)]


def test_the_client_waits_as_the_service_says(service: Service) -> None:
    with ApiClient(service.url, service.slow_secret) as patient:
        for _ in range(3):
            assert patient.tell_version().release
    with ApiClient(service.url, service.slow_secret, tries=1) as hasty:
        hasty_calls = (hasty.tell_version() for _ in range(3))
        with pytest.raises(ProblemError, match="429"):
            list(hasty_calls)


def test_an_event_that_is_sent_again_while_kafka_is_away_counts_once(service: Service) -> None:
    person = uuid4().hex
    event = click(person)
    with ApiClient(service.url, service.secret, timeout_s=30, tries=1) as hasty:
        with (
            pause(pid_of(service, "kafka")),
            pytest.raises(ProblemError, match="503") as refusal,
        ):
            hasty.send_events([event])
        assert refusal.value.problem.remedy == "send it again, with its event_id"
    with ApiClient(service.url, service.secret, timeout_s=30, tries=10) as patient:
        assert patient.send_events([event]).accepted == 1
        patient.send_events([event, click(person)])
        wait_until(lambda: service.clicks(person) >= 2, 60)
        assert service.clicks(person) == 2


def run_npm(*words: str, **variables: str) -> None:
    command = [str(shutil.which("npm")), *words]
    run = subprocess.run(
        command,
        cwd=TYPESCRIPT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js")
def test_the_typescript_client_is_generated_typed_and_understood(service: Service) -> None:
    lock = TYPESCRIPT / "package-lock.json"
    installed = TYPESCRIPT / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        run_npm("ci", "--no-audit", "--no-fund", "--ignore-scripts")
    # What fails here is made anew by `npm run generate` in clients/typescript.
    run_npm("run", "generate", "--", "--check")
    run_npm(
        "test",
        HEADWATER_URL=service.url,
        HEADWATER_KEY=service.secret,
        HEADWATER_SLOW_KEY=service.slow_secret,
    )
