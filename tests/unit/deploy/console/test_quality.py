"""What the pages of quality and fairness tell where there is nothing, or more than may be told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from headwater_client import DeadLetter, EventError, Item
from headwater_client.admin import fairness, quality
from headwater_client.admin.audit import AuditEntry

from deploy.console import audit, letter_log, rendering
from deploy.console.exposure import ShownList
from deploy.console.fairness import _measure, _Measured, copy_catalogue, list_alerts
from deploy.console.letter_log import PlacedLetter, collect_sent
from deploy.console.pages import PAGES
from deploy.settings import ConsoleSettings
from features.rules.table import CatalogueTable
from stream.api.problems import describe_field
from tests.harness.offline_console import OfflineConsole

HOSTILE = "<script>alert('x')</script>\x1b[2J"
MAY = dict.fromkeys(("view", "operate", "administer", "read-people", "send", "ask"), True)


def letter_of(reason: str, raw: bytes = b"{}") -> PlacedLetter:
    letter = DeadLetter(
        raw=raw, topic="clicks", partition=0, offset=1, reason=reason, refused_time=5
    )
    return PlacedLetter("0-7", letter, b"ann")


def render(template: str, **said: Any) -> str:
    page = next(page for page in PAGES if page.area == template)
    known = {
        "area": template,
        "page": page,
        "key": None,
        "role": "",
        "csrf": "",
        "is_open": True,
        "done": "",
        "may": MAY,
        "here": "/",
        "path": {},
        "query": {},
        "problems": {},
    }
    return rendering.make_templates(PAGES).get_template(f"{template}.html").render(known | said)


def test_where_people_are_masked_no_value_of_a_message_is_told() -> None:
    placed = letter_of(
        "user_id: 'ann@shop.example': stands for nobody, by events.nobody", b'{"user_id": "ann"}'
    )
    line = quality.LetterLine(**letter_log.describe_line(placed, {}, sees=False))
    assert b"ann" not in msgspec.json.encode(line)
    assert line.withheld
    assert line.reason == "user_id: stands for nobody, by events.nobody"
    problem = describe_field(EventError("<key>", "ann", "expected the user_id, 'ann'"))
    assert b"ann" not in msgspec.json.encode(letter_log.withhold(problem, sees=False))
    assert letter_log.withhold(problem, sees=True) is problem
    corrected = quality.CorrectedLetter(
        letter="0-7", text='{"user_id": "ann"}', problem=problem, event_id="ann-1"
    )
    assert b"ann" not in msgspec.json.encode(letter_log.hide(corrected, sees=False))
    # The fields of what is no number are called as the app likes.
    odd = letter_of("context.ann: nan: expected a finite number")
    for sees, field in ((True, "context.ann"), (False, "context")):
        (fault,) = letter_log.describe_faults([odd], {}, sees)
        assert (fault.field, fault.expected) == (field, "expected a finite number")
        assert fault.fault == letter_log.describe_line(odd, {}, sees)["fault"]


def test_what_was_done_is_told_without_what_may_name_a_person() -> None:
    said = {"action_id": "a", "who": "sam", "role": "operator", "reason": "why", "before": ""}
    known = AuditEntry(
        number=1, time=9, operation="x", target="person='ann'", outcome="failed: ann", **said
    )
    hidden = audit.hide(known)
    assert b"ann" not in msgspec.json.encode(hidden)
    assert (hidden.who, hidden.reason, hidden.outcome.split(":")[0]) == ("sam", "why", "failed")
    assert audit.hide(msgspec.structs.replace(known, outcome="done")).outcome == "done"


def test_the_audit_says_which_letters_were_sent_again() -> None:
    def entry(outcome: str, target: str, operation: str = "send_dead_letter") -> AuditEntry:
        said = {"action_id": "a", "who": "sam", "role": "operator", "reason": "r", "before": ""}
        return AuditEntry(
            number=1, time=9, operation=operation, target=target, outcome=outcome, **said
        )

    place = '{"0-7":{"place":"clicks/2@5","event_id":"e1"}}'
    found = collect_sent(
        [
            entry("asked", "letter='0-7'"),
            entry("sent", place),
            entry("done", "letter='0-7'"),
            entry("sent", place.replace("0-7", "0-8"), "correct_dead_letters"),
            entry("sent", place.replace("0-7", "0-9"), "promote_version"),
            entry("sent", "no JSON"),
        ]
    )
    assert list(found) == ["0-7", "0-8"]
    (again,) = found["0-7"]
    assert (again.who, again.time, again.place, again.event_id) == ("sam", 9, "clicks/2@5", "e1")


def answer_of_letters(*lines: quality.LetterLine) -> quality.DeadLettersAnswer:
    fault = quality.LetterFault(
        fault="0" * 16,
        topic=HOSTILE,
        field=HOSTILE,
        expected=HOSTILE,
        letters=1,
        sent_again=0,
        oldest_time=1,
        newest_time=10**18,
        example="0-7",
        remedy="r",
    )
    return quality.DeadLettersAnswer(
        looked_at=1,
        in_topic=1,
        unreadable=1,
        oldest_time=-(10**18),
        faults=[fault],
        letters=list(lines),
        alerts=[letter_log.make_alert(fault)],
    )


def test_hostile_text_is_shown_as_text() -> None:
    placed = letter_of(f"{HOSTILE}: 1: {HOSTILE}", HOSTILE.encode())
    line = letter_log.describe_line(placed, {}, sees=True)
    letters = answer_of_letters(quality.LetterLine(**line))
    checked = quality.QualityAnswer(
        sample=quality.EventSample(
            events=1, in_log=1, undecodable=0, partitions=1, oldest_time=1, newest_time=1
        ),
        alerts=[],
        ids=[
            quality.IdFinding(
                fault="email",
                field="user_id",
                ids=1,
                events=1,
                examples=[quality.IdExample(value=HOSTILE, shape=HOSTILE, events=1)],
                title="t",
                remedy="r",
            )
        ],
        spellings=[],
        clocks=[],
        duplicates=[
            quality.DuplicateFinding(
                kind="at_once",
                events=1,
                examples=[
                    quality.DuplicateExample(
                        event_ids=[HOSTILE, "b"],
                        person=HOSTILE,
                        item_id=HOSTILE,
                        type="click",
                        apart_ms=1,
                        places=[HOSTILE, "b"],
                    )
                ],
                title="t",
                remedy="r",
            )
        ],
        computed_time=1,
    )
    letter = quality.LetterAnswer(
        **line, held_bytes=1, hex="00", editable=f"</textarea>{HOSTILE}", remedy=HOSTILE
    )
    corrected = quality.CorrectLettersAnswer(
        rules=[quality.RenameField(HOSTILE, "b")],
        taken=1,
        refused=0,
        passed_over=0,
        left=2,
        letters=[quality.CorrectedLetter(letter="0-7", text=HOSTILE)],
    )
    answers = {
        "list_dead_letters": letters,
        "check_events": checked,
        "show_dead_letter": letter,
        "preview_corrections": corrected,
    }
    for template in ("quality", "letter", "faults"):
        page = render(template, answers=answers, path={"letter": "0-7"}, query={"fault": "0" * 16})
        assert "<script>alert" not in page, template
        assert "&lt;script&gt;" in page, template
        assert page.count("</textarea>") == page.count("<textarea"), template


def measure(*lists: ShownList, **settings: Any) -> fairness.FairnessAnswer:
    table = CatalogueTable()
    table.put(Item(item_id="a", title=HOSTILE, category=["toys"], brand="own"))
    table.put(Item(item_id="b", title="Gun", category=["toys", "x"], attributes={"seller": 7}))
    table.put(Item(item_id="c", available=False))
    own = ConsoleSettings(**settings)
    window = fairness.ExposureWindow(
        source=fairness.ListSource.SERVED,
        placement="",
        lists=len(lists),
        shown=sum(len(each.items) for each in lists),
        people=len({each.person for each in lists}),
        clicks=0,
        in_log=len(lists),
        skipped=0,
        hours=1,
        oldest_time=None,
        newest_time=None,
    )
    copy = copy_catalogue(table, [own.supplier])
    return _measure(_Measured(window, list(lists), [], copy, {}, []), own)


def test_an_empty_system_has_pages_that_say_what_to_do() -> None:
    empty = measure()
    assert (empty.concentration, empty.groups, empty.alerts) == (None, None, [])
    page = render("fairness", answers={"measure_fairness": empty})
    assert "POST /v1/recommendations" in page
    assert list(list_alerts(empty, 0.0)) == []
    nothing = CatalogueTable()
    assert copy_catalogue(nothing, ["brand"]).available == []
    assert copy_catalogue(nothing, ["attributes.no"]).values_of("attributes.no") == {}


def test_what_is_blocked_or_stuck_is_an_alert() -> None:
    lists = [ShownList(f"p{n % 20}", ("a", "b"), ("popular",) * 2, n, "", True) for n in range(60)]
    told = measure(*lists, blocked_words=["gun"], blocked_categories=["x"])
    checks = {alert.check for alert in told.alerts}
    assert checks == {
        *("blocked.word", "blocked.category", "repetition.stuck", "repetition.common", "fallbacks")
    }
    assert told.concentration is not None
    assert (told.concentration.catalogue, told.concentration.coverage) == (2, 1)
    assert [each.by for each in told.shares] == ["category", "brand"]
    sellers = measure(*lists, supplier="attributes.seller").shares[1]
    assert {line.name for line in sellers.lines} == {"7", "(not said)"}
    assert "no item has attributes.none" in measure(*lists, supplier="attributes.none").notes[0]
    page = render("fairness", answers={"measure_fairness": told})
    assert "<script>" not in page.replace('<script type="module"', "")
    # Of few lists nothing is said, but for what must not be there.
    few = measure(lists[0], blocked_words=["gun"])
    assert [alert.check for alert in few.alerts] == ["blocked.word"]


def test_where_kafka_is_away_the_page_says_so_and_stays() -> None:
    answer = OfflineConsole().get("/quality")
    assert answer.status == 200
    page = answer.body.decode()
    # By Kafka's own word, or by the page's patience: whichever ends first.
    assert page.count("A server is away") == 2
    assert "What to do" in page


@pytest.mark.parametrize(
    "target",
    [
        "/v1/admin/dead-letters?limit=0",
        "/v1/admin/dead-letters?fault=x",
        "/v1/admin/dead-letters?what=1",
        "/v1/admin/dead-letter-corrections",
        "/v1/admin/dead-letter-corrections?letter=../x",
        "/v1/admin/quality?sample=many",
        "/v1/admin/fairness?source=all",
    ],
)
def test_a_wrong_query_is_refused_by_its_field(target: str) -> None:
    answer = OfflineConsole().get(target)
    assert answer.status == 400
    assert answer.document["field"]
