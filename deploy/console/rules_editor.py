"""Rules as they stand in an editor: two texts, what is wrong with them and where, and its words."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from headwater_client import EventError, decode
from headwater_client.admin.placements import EditorWord, RuleFault, RulesDraft, WordKind
from headwater_client.contract import PlacementRules
from headwater_client.rules import ListRules
from msgspec import structs, to_builtins

from features.placements import PlacementTable, check_placement
from features.rules.errors import RuleError
from features.rules.filters import compile_filter
from features.rules.memberships import TEXT_TESTS
from features.rules.table import ATTRIBUTE, FIELDS, CatalogueTable, ItemColumn

_VALUES, _VALUE_CHARS = 30, 60
_FILTER, _MORE = "filter", "more"
_OWN = ("filter", "limit", "fallback")
_ABOUT = {
    "id": "the item's id",
    "title": "a text",
    "brand": "a text",
    "price": "a number",
    "available": "true or false",
    "category": "a list of texts",
}
_FUNCTIONS = {
    "has(": "has(item.price): whether it was given",
    **{f"{name}(": f"item.title.{name}('lamp')" for name in TEXT_TESTS},
    "exists(": "item.category.exists(c, c.startsWith('sport'))",
    "all(": "item.category.all(c, c != 'gifts')",
}
_OPERATORS = {
    "in": "'shoes' in item.category",
    "&&": "both hold",
    "||": "one holds, or both",
    "!": "does not hold",
    "==": "is",
    "!=": "is not",
    "true": "always",
    "false": "never",
}


def draft_of(rules: PlacementRules) -> RulesDraft:
    """Rules as an editor shows them."""
    plain = structs.replace(rules, filter=None, limit=None, fallback=PlacementRules().fallback)
    more = to_builtins(plain)
    return RulesDraft(
        filter=rules.filter or "",
        limit=rules.limit,
        fallback=rules.fallback,
        more=json.dumps(more, indent=2, ensure_ascii=False) if more else "",
    )


class DraftReader:
    """Reads drafts.

    Args:
        table: the catalogue; its attributes are those that there are.
        placements: for their segments.
    """

    def __init__(self, table: CatalogueTable, placements: PlacementTable) -> None:
        self._table = table
        self._placements = placements

    def read(self, name: str, draft: RulesDraft) -> tuple[PlacementRules | None, list[RuleFault]]:
        """The rules of a draft, or what is wrong with it.

        Raises:
            EventError: no placement can be called so.
        """
        check_placement(name, PlacementRules())
        more = ListRules()
        if draft.more.strip():
            try:
                more = decode(ListRules, draft.more.encode())
            except EventError as error:
                return None, [_find_json_fault(draft.more, error)]
        given = {field.name: getattr(more, field.name) for field in structs.fields(more)}
        rules = PlacementRules(
            **given,
            filter=draft.filter if draft.filter.strip() else None,
            limit=draft.limit,
            fallback=draft.fallback,
        )
        try:
            check_placement(name, rules, self._table.attributes, self._placements.segments)
        except RuleError as error:
            return None, [_find_rule_fault(draft, rules, error)]
        except EventError as error:
            # As an error shows it: a text in quotes.
            value = error.value.strip("'\"")
            begin = draft.more.find(json.dumps(value, ensure_ascii=False))
            told = RuleFault(
                part=_MORE,
                field=error.field,
                problem=error.expected,
                near=value[:_VALUE_CHARS],
                begin=begin if begin >= 0 else None,
            )
            return None, [told]
        return rules, []


def _find_json_fault(text: str, error: EventError) -> RuleFault:
    """Where a text is no JSON, or which field of it cannot be."""
    try:
        json.JSONDecoder().decode(text)
    except json.JSONDecodeError as found:
        near = text[found.pos :].partition("\n")[0][:_VALUE_CHARS]
        return RuleFault(
            part=_MORE,
            field="",
            problem=f"is no JSON: {found.msg}",
            near=near,
            line=found.lineno,
            column=found.colno,
            begin=found.pos,
        )
    except RecursionError:
        return RuleFault(part=_MORE, field="", problem="is nested too deep")
    named = error.field.rpartition(".")[2].partition("[")[0]
    begin = text.find(json.dumps(named)) if named and not named.startswith("<") else -1
    return RuleFault(
        part=_MORE,
        field="" if error.field.startswith("<") else error.field,
        problem=error.expected,
        near=str(error.value)[:_VALUE_CHARS],
        begin=begin if begin >= 0 else None,
    )


def _find_rule_fault(draft: RulesDraft, rules: PlacementRules, error: RuleError) -> RuleFault:
    """Where in its text an expression has its fault."""
    is_filter = error.field == _FILTER
    text = draft.filter if is_filter else _find_expression(rules, error.field)
    lines = text.split("\n")[: error.line - 1]
    within = sum(len(line) + 1 for line in lines) + error.column - 1
    begin: int | None = within
    if not is_filter:
        # In JSON it stands between quotes, and what is quoted before the fault is longer there.
        before = json.dumps(text[:within], ensure_ascii=False)[1:-1]
        place = draft.more.find(json.dumps(text, ensure_ascii=False))
        begin = place + 1 + len(before) if place >= 0 else None
    return RuleFault(
        part=_FILTER if is_filter else _MORE,
        field=error.field,
        problem=error.problem,
        near=error.near,
        line=error.line,
        column=error.column,
        begin=begin,
    )


def _find_expression(rules: PlacementRules, field: str) -> str:
    """The expression that a field such as boosts[0].filter holds."""
    found: Any = rules
    for part in field.replace("]", "").replace("[", ".").split("."):
        found = found[int(part)] if part.isdecimal() else getattr(found, part)
    return str(found)


def list_words(
    table: CatalogueTable, placements: PlacementTable, heard: Mapping[WordKind, Iterable[str]]
) -> Iterator[EditorWord]:
    """The words that an editor can complete.

    Args:
        heard: names of people's attributes and of the context, as the log has them.
    """
    for name in FIELDS:
        values = _list_values(table.find_column(name)) if name not in ("id", "title") else []
        yield EditorWord(
            text=f"item.{name}", kind=WordKind.ATTRIBUTE, about=_ABOUT.get(name, ""), values=values
        )
    for name in sorted(table.attributes):
        column = table.find_column(f"{ATTRIBUTE}{name}")
        text = _select("item.attributes", name)
        yield EditorWord(text=text, kind=WordKind.ATTRIBUTE, values=_list_values(column))
    for kind, names in heard.items():
        for name in sorted(set(names)):
            yield EditorWord(text=_select(kind.value, name), kind=kind)
    for name, each in sorted(placements.segments.items()):
        about = each.segment.filter
        yield EditorWord(text=_select("segment", name), kind=WordKind.SEGMENT, about=about)
    for text, about in _FUNCTIONS.items():
        yield EditorWord(text=text, kind=WordKind.FUNCTION, about=about)
    for text, about in _OPERATORS.items():
        yield EditorWord(text=text, kind=WordKind.OPERATOR, about=about)
    for field in structs.fields(ListRules):
        yield EditorWord(text=f'"{field.name}"', kind=WordKind.RULE)


def _select(root: str, name: str) -> str:
    """A name as an expression asks for it: `item.attributes["year-made"]` where it is no word."""
    text = f"{root}.{name}"
    with suppress(RuleError):
        compile_filter(f"has({text})")
        return text
    return f"{root}[{json.dumps(name, ensure_ascii=False)}]"


def _list_values(column: ItemColumn | None) -> list[str]:
    """Some values of an attribute, as a filter writes them."""
    found: dict[str, None] = {}
    for value in column.values if column else ():
        for each in value if isinstance(value, tuple) else (value,):
            is_shown = isinstance(each, bool) or (
                isinstance(each, str) and 0 < len(each) <= _VALUE_CHARS
            )
            if is_shown:
                found[json.dumps(each, ensure_ascii=False)] = None
        if len(found) >= _VALUES:
            break
    return list(found)[:_VALUES]
