"""Any table is read through a column mapping; a wrong value is named, and no row is lost."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from headwater_client.errors import DataError, EventError, SettingsError
from headwater_client.events import Click, Item, Purchase, decode

from trainer.datasets import ColumnMapping, DataSource, Log, load_log, mapping_from_options

NOON_MS = 1_714_564_800_000  # 2024-05-01 12:00 UTC
PURCHASES = ColumnMapping(constant_type="purchase")


def read(path: Path, mapping: ColumnMapping | None = None) -> Log:
    return load_log(DataSource(path.parent / "cache", path, mapping))


def csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([*lines, ""]))
    return path


def one_time(folder: Path, value: Any, **mapping: Any) -> Any:
    table = pa.table({"user_id": ["ann"], "item_id": ["7"], "timestamp": [value]})
    pq.write_table(table, folder / "log.parquet")
    given = ColumnMapping(constant_type="click", **mapping)
    return read(folder / "log.parquet", given).events[0].timestamp


def test_a_shops_export_needs_no_code(tmp_path: Path) -> None:
    csv(
        tmp_path / "orders.csv",
        "order,customer,sku,created,qty,amount,name,groups",
        '17,007,A,2024-05-01 12:00,2,9.50,"Lamp, small",light>desk',
        "16,008,B,2024-05-01 11:00,,,Chair,",
    )
    mapping = mapping_from_options(
        [
            *("user=customer", "item=sku", "time=created", "event=order", "quantity=qty"),
            *("price=amount", "title=name", "category=groups", "category_separator=>"),
        ],
        ["purchase"],
    )
    log = read(tmp_path, mapping)
    assert log.events == [
        Purchase(event_id="16", user_id="008", item_id="B", timestamp=NOON_MS - 3_600_000),
        Purchase(
            event_id="17", user_id="007", item_id="A", timestamp=NOON_MS, quantity=2, price=9.5
        ),
    ]
    assert log.items == [
        Item(item_id="A", title="Lamp, small", category=["light", "desk"]),
        Item(item_id="B", title="Chair"),
    ]


def test_types_of_a_column_are_named_by_options(tmp_path: Path) -> None:
    path = csv(
        tmp_path / "log.csv",
        "user_id,item_id,timestamp,event",
        "ann,1,1714564800,view",
        "ann,1,1714564801,transaction",
        "ann,1,1714564802,login",
    )
    named = ["view=click", "transaction=purchase", "login=skip"]
    log = read(path, mapping_from_options(["type=event"], named))
    assert [type(event) for event in log.events] == [Click, Purchase]
    with pytest.raises(DataError, match=r"'login' is no known type: say --type login=click"):
        read(path, mapping_from_options(["type=event"], named[:2]))


def test_a_mapping_file_lies_beside_the_tables_and_options_override_it(tmp_path: Path) -> None:
    (tmp_path / "mapping.toml").write_text(
        'user = "who"\nitem = "what"\ntime = "when"\nconstant_type = "click"\n'
        'items_file = "goods.csv"\nattributes = ["year"]\nitem_price = "cost"\n'
    )
    csv(tmp_path / "a.csv", "who,what,when", "ann,1,1714564801")
    csv(tmp_path / "b.csv", "who,what,when", "bob,2,1714564800")
    csv(tmp_path / "goods.csv", "what,title,cost,year", "1,Lamp,3,1999", "2,Desk,,")
    log = read(tmp_path)
    assert [(type(e), e.user_id) for e in log.events] == [(Click, "bob"), (Click, "ann")]
    assert log.items == [
        Item(item_id="1", title="Lamp", price=3.0, attributes={"year": 1999}),
        Item(item_id="2", title="Desk"),
    ]
    assert [type(e) for e in read(tmp_path, PURCHASES).events] == [Purchase, Purchase]


@pytest.mark.parametrize(
    "value",
    [
        NOON_MS // 1000,
        NOON_MS,
        NOON_MS * 1000,
        NOON_MS * 1_000_000,
        NOON_MS / 1000,
        str(NOON_MS // 1000),
        "2024-05-01 12:00:00",
        "2024-05-01T12:00:00.000",
        "2024-05-01T12:00:00Z",
        "2024-05-01T14:00:00+02:00",
        dt.datetime(2024, 5, 1, 12),  # noqa: DTZ001  (a shop's file has such times)
        dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC),
    ],
)
def test_times_are_recognised(tmp_path: Path, value: Any) -> None:
    assert one_time(tmp_path, value) == NOON_MS


def test_times_can_be_stated(tmp_path: Path) -> None:
    assert one_time(tmp_path, dt.date(2024, 5, 1)) == NOON_MS - 43_200_000
    assert one_time(tmp_path, "2024-05-01 14:00", time_zone="Europe/Paris") == NOON_MS
    assert one_time(tmp_path, "01/05/2024 12h", time_format="%d/%m/%Y %Hh") == NOON_MS
    assert one_time(tmp_path, 200_000_000, time_unit="s") == 200_000_000_000


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    columns = {
        "user_id": pa.array([1.0, None], pa.float64()),
        "item_id": pa.array(["x", "y"]).dictionary_encode(),
        "timestamp": pa.array([NOON_MS * 1_000_000 + 1] * 2, pa.timestamp("ns", "UTC")),
        "price": pa.array([Decimal("1.50"), None]),
        "quantity": pa.array([2.0, float("nan")]),
        "category": pa.array([["a", "b"], None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    log = read(tmp_path, PURCHASES)
    assert log.events == [
        Purchase(
            event_id=log.events[0].event_id,
            user_id="1",
            item_id="x",
            timestamp=NOON_MS,
            price=1.5,
            quantity=2,
        )
    ]
    assert [row.reason for row in log.refused] == ["user_id: <missing>: is required"]
    assert log.items[0].category == ["a", "b"]


def test_bad_rows_are_refused_by_name_and_kept(tmp_path: Path) -> None:
    path = csv(
        tmp_path / "log.csv",
        "user_id,item_id,timestamp,price,quantity,title",
        "ann,1,1714564800,1,1,Lamp",
        ",1,1714564800,1,1,Lamp",
        "ann,1,then,1,1,Lamp",
        'ann,1,1714564800,"1,500",1,Lamp',
        "ann,1",
        "ann,1,1714564800,inf,1,Lamp",
        "ann,1,1714564800,1,-1,Lamp",
        "ann,1,99999999999,1,1,Lamp",
        "ann,2,1714564801,1,1,Desk",
    )
    log = read(path, PURCHASES)
    assert [event.timestamp for event in log.events] == [NOON_MS, NOON_MS + 1000]
    assert [event.item_id for event in log.events] == ["1", "2"]
    assert [item.item_id for item in log.items] == ["1", "2"]
    refused = {row.row: row for row in log.refused}
    assert sorted(refused) == [2, 3, 4, 5, 6, 7, 8]
    assert len(log.refused) == 7
    assert str(refused[2]) == "log.csv: row 2: user_id: <missing>: is required"
    assert refused[3].reason.startswith("timestamp: 'then': Expected `int`")
    assert refused[4].reason.startswith("price: '1,500': Expected `float")
    assert refused[5].reason == "2 fields in 6 columns"
    assert refused[6].reason.startswith("price: 'inf'")
    assert refused[7].reason.startswith("quantity: -1")
    assert "is in the future" in refused[8].reason


def test_what_is_refused_here_is_refused_by_the_contract_too(tmp_path: Path) -> None:
    path = csv(
        tmp_path / "log.csv",
        "user_id,item_id,timestamp,price",
        "ann,1,1714564800,1",
        "ann,1,then,1",
        "ann",
        "ann,1,99999999999,1",
        "ann,1,1714564800,Infinity",
    )
    refused = read(path, PURCHASES).refused
    assert [row.topic for row in refused] == ["purchases"] * 4
    for row in refused:
        with pytest.raises(EventError):
            decode(Purchase, row.raw)


def test_ids_and_order_are_the_same_each_time(tmp_path: Path) -> None:
    rows = [f"u{n % 7},{n},{1_714_564_800 + n % 3}" for n in range(100)]
    path = csv(tmp_path / "log.csv", "user_id,item_id,timestamp", *rows)
    log = read(path, PURCHASES)
    assert read(path, PURCHASES) == log
    assert len({event.event_id for event in log.events}) == 100
    order = [(event.timestamp, int(event.item_id)) for event in log.events]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("header", "mapping", "message"),
    [
        ("who,item_id,timestamp", PURCHASES, r"no column 'user_id': it has who, .*--map user=NAME"),
        ("user_id,item_id,timestamp", ColumnMapping(), r"no column 'type'.*--type purchase"),
        (
            "user_id,item_id,timestamp",
            ColumnMapping(constant_type="click", price="cost"),
            r"no column 'cost'.*--map price=NAME",
        ),
        (
            "user_id,item_id,timestamp",
            ColumnMapping(constant_type="click", items_file="goods.csv"),
            r"goods\.csv: no such file",
        ),
        ("user_id,timestamp,item_id", PURCHASES, r"row 1: timestamp: .*and so are all of its 1"),
    ],
)
def test_an_unusable_table_is_one_line(
    tmp_path: Path, header: str, mapping: ColumnMapping, message: str
) -> None:
    path = csv(tmp_path / "log.csv", header, "ann,x1,1714564800")
    with pytest.raises(DataError, match=message) as error:
        read(path, mapping)
    assert "\n" not in str(error.value)


def test_an_empty_table_and_a_binary_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no events"):
        read(csv(tmp_path / "log.csv", "user_id,item_id,timestamp"), PURCHASES)
    (tmp_path / "log.csv").write_bytes(b"\x89PNG\xff\xfe\n\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "log.csv", PURCHASES)
    (tmp_path / "log.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "log.parquet", PURCHASES)


@pytest.mark.parametrize(
    ("maps", "types", "message"),
    [
        (["usr=x"], [], "usr: not known: one of user, item"),
        (["user"], [], "expected NAME=VALUE"),
        ([], ["buy"], "constant_type: 'buy'"),
        ([], ["buy=bought"], "types.buy: 'bought'"),
        (["time_zone=Mars"], [], "time_zone: 'Mars'.*no such time zone"),
        (["delimiter=--"], [], "delimiter"),
    ],
)
def test_a_wrong_option_is_one_line(maps: list[str], types: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        mapping_from_options(maps, types)


def test_a_mapping_file_that_is_not_toml_is_one_line(tmp_path: Path) -> None:
    csv(tmp_path / "log.csv", "user_id,item_id,timestamp")
    (tmp_path / "mapping.toml").write_text("user: who")
    with pytest.raises(SettingsError, match=r"mapping\.toml: not TOML"):
        read(tmp_path)


def test_other_delimiters_and_encodings(tmp_path: Path) -> None:
    text = "user_id;item_id;timestamp;title\nann;1;1714564800;Café\n"
    (tmp_path / "log.csv").write_bytes(text.encode("latin-1"))
    mapping = mapping_from_options(["delimiter=;", "encoding=latin-1"], ["click"])
    assert read(tmp_path / "log.csv", mapping).items == [Item(item_id="1", title="Café")]
