"""`data inspect` says before anything is learned what a log holds and what looks wrong in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from headwater_client.errors import DataError
from typer.testing import CliRunner

from deploy.commands.data_options import app
from features.settings import EventSettings
from trainer.datasets import DataSource, LogSummary, examine_log, mapping_from_options
from trainer.datasets import summarise_log as summarise

HEADING = "user_id,item_id,timestamp,title"
START_S = 1_714_564_800


def inspect(
    folder: Path, rows: Sequence[str], maps: Sequence[str] = (), heading: str = HEADING
) -> LogSummary:
    path = folder / "log.csv"
    path.write_text("\n".join([heading, *rows, ""]))
    mapping = mapping_from_options(maps, ["purchase"])
    return summarise(examine_log(DataSource(folder, path, mapping)), EventSettings())


def warnings(found: LogSummary) -> dict[str, int]:
    return {warning.name: warning.count for warning in found.warnings}


def clean_rows(count: int = 200) -> list[str]:
    return [f"u{n % 40},i{n % 30},{START_S + 61 * n},Lamp" for n in range(count)]


def test_a_sound_log_has_no_warning(tmp_path: Path) -> None:
    found = inspect(tmp_path, clean_rows())
    assert (found.events, found.people, found.items) == (200, 40, 30)
    assert (found.first_ms, found.last_ms) == (START_S * 1000, (START_S + 61 * 199) * 1000)
    assert found.types == {"purchase": 200}
    assert (found.refused, found.warnings) == ({}, [])


def test_one_id_that_has_a_large_share_is_named(tmp_path: Path) -> None:
    bot = [f"bot,page,{START_S + n},Home" for n in range(500)]
    found = inspect(tmp_path, [*clean_rows(), *bot])
    assert warnings(found) == {"person_with_a_large_share": 500, "item_with_a_large_share": 500}
    assert "'bot'" in found.warnings[0].text


def test_people_who_are_nobody_are_counted(tmp_path: Path) -> None:
    nobody = ["unknown,i1,1714564801,x", ",i1,1714564802,x", "0,i1,1714564803,x"]
    found = inspect(tmp_path, [*clean_rows(), *nobody, "u1,null,1714564804,x"])
    assert warnings(found) == {"nobody": 3, "no_item": 1}
    assert sum(found.refused.values()) == found.counts.refused == 2


def test_repeats_and_orders_are_told_apart(tmp_path: Path) -> None:
    heading = f"{HEADING},event_id"
    rows = [f"{row},e{n}" for n, row in enumerate(clean_rows())]
    order = [f"u1,i{n},{START_S + 7},x,O-1" for n in range(3)]
    found = inspect(tmp_path, [*rows, *order, rows[5], rows[6]], heading=heading)
    assert warnings(found) == {"order_numbers": 3, "repeats": 2}
    same = inspect(tmp_path, [*clean_rows(), *clean_rows(10)])
    assert warnings(same) == {"same_instant": 10}


def test_times_that_look_wrong_are_counted(tmp_path: Path) -> None:
    days = [f"u{n % 9},i{n},2024-05-{1 + n % 28:02},x" for n in range(50)]
    assert warnings(inspect(tmp_path, days)) == {"days_only": 50}
    odd = ["u1,i1,4102444800,x", "u1,i1,300000000,x", "u1,i1,5,x"]
    assert warnings(inspect(tmp_path, [*clean_rows(), *odd])) == {"ancient": 2, "future": 1}


def test_times_that_are_not_understood_are_told_with_one(tmp_path: Path) -> None:
    # Whether the day or the month comes first, nothing says.
    found = inspect(tmp_path, ["u1,i1,05/01/2024 10:00 PM,x", "u1,i2,06/01/2024 10:00 PM,x"])
    assert warnings(found) == {"times_not_read": 2}
    assert "such as '05/01/2024 10:00 PM': say how it is written" in found.warnings[0].text


def test_returns_open_quotes_and_missing_text_are_counted(tmp_path: Path) -> None:
    heading = "user_id,item_id,timestamp,quantity"
    rows = [f"u{n % 40},i{n % 30},{START_S + 61 * n},{-1 if n < 4 else 1}" for n in range(200)]
    found = inspect(tmp_path, [*rows, 'u1,"i1,1714564800,1'], heading=heading)
    assert warnings(found) == {"returns": 4, "open_quotes": 1, "no_text": 30}
    assert sum(found.refused.values()) == 5


def test_a_log_of_which_nothing_can_be_used_is_described_too(tmp_path: Path) -> None:
    found = inspect(tmp_path, ["u1,i1,then,x"] * 3)
    assert (found.events, found.first_ms, sum(found.refused.values())) == (0, None, 3)


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_prints_it(tmp_path: Path, as_json: bool) -> None:
    path = tmp_path / "log.csv"
    rows = ["ann,i1,1714564800,x", "bob,i[2],1714651200,x", "null,i1,1714564800,x", "cy,i1"]
    path.write_text("\n".join([HEADING, *rows]))
    options = ["inspect", str(path), "--type", "click", *(["--json"] if as_json else [])]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    if not as_json:
        assert done.output.startswith("4 rows: 2 of events, 2 refused, 0 skipped")
        assert "2024-05-01T12:00:00Z" in done.output
        return
    found = json.loads(done.output)
    expected = {"rows": 4, "events": 2, "people": 2, "items": 2, "skipped": {}}
    assert found | expected == found
    assert (found["from"], found["to"]) == ("2024-05-01T12:00:00Z", "2024-05-02T12:00:00Z")
    assert sorted(found["refused"].values()) == [1, 1]
    assert found["warnings"]["nobody"] == 1
    assert found["warnings"].keys() == found["explanations"].keys()


def test_a_catalogue_is_examined_before_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    rows = ["i1,Lamp,light", f"i2,{'x' * 1025},light", ",Chair,", "i1,Lamp 2,light", "i4,,"]
    path.write_text("\n".join(["item_id,title,category", *rows]))
    done = CliRunner().invoke(app, ["inspect", str(path), "--items", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["rows"], found["rows_of_items"], found["events"]) == (5, 2, 0)
    assert sorted(found["refused"].values()) == [1, 1]
    assert any(reason.startswith("title") for reason in found["refused"])
    assert sum(found["skipped"].values()) == 1
    path.write_text("user_id,item_id\nann,i1\n")
    with pytest.raises(DataError, match="no row describes an item"):
        CliRunner().invoke(app, ["inspect", str(path), "--items"], catch_exceptions=False)
