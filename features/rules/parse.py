"""An expression as a tree: read by a grammar (`cel.lark`) and the parser of the library `lark`.

No text, however odd, costs more than its length: it is short, nesting and the number of parts are
limited, and nothing is read by recursion.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from lark import Lark, Token, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken, VisitError
from lark.tree import Meta
from lark.visitors import Transformer_NonRecursive

from features.rules.errors import RuleError

MAX_CHARS = 4000
MAX_PARTS = 1000
MAX_DEPTH = 24
LiteralValue = str | float | bool | None


@dataclass(frozen=True, slots=True)
class ExpressionPart:
    """A part of an expression.

    Attributes:
        position: where its text begins, in characters from 0.
        depth: levels of parts that are in it.
    """

    position: int
    depth: int


@dataclass(frozen=True, slots=True)
class Literal(ExpressionPart):
    """A text, a number, `true`, `false` or `null`."""

    value: LiteralValue


@dataclass(frozen=True, slots=True)
class ListOf(ExpressionPart):
    """`[a, b]`."""

    parts: tuple[ExpressionPart, ...]


@dataclass(frozen=True, slots=True)
class Name(ExpressionPart):
    """A name that stands alone."""

    name: str


@dataclass(frozen=True, slots=True)
class Select(ExpressionPart):
    """`operand.name`, or `operand["name"]`."""

    operand: ExpressionPart
    name: str


@dataclass(frozen=True, slots=True)
class Call(ExpressionPart):
    """`name(a, b)`; or `operand.name(a, b)`."""

    operand: ExpressionPart | None
    name: str
    arguments: tuple[ExpressionPart, ...]


@dataclass(frozen=True, slots=True)
class OperatorCall(ExpressionPart):
    """Operands joined by `&&`, `||`, `!`, `?:`, `in` or a comparison."""

    operator: str
    operands: tuple[ExpressionPart, ...]


def parse_expression(text: str) -> ExpressionPart:
    """The tree of an expression.

    Raises:
        RuleError: it is too long, too deep, or does not follow the grammar.
    """
    if len(text) > MAX_CHARS:
        raise RuleError(text, MAX_CHARS, f"has {len(text)} characters: expected {MAX_CHARS}")
    try:
        return _TreeReader(text).transform(_parser().parse(text))
    except UnexpectedInput as error:
        raise _explain(text, error) from error
    except VisitError as error:
        # Lark wraps whatever a reader of its tree raises.
        raise error.orig_exc from error


@lru_cache(maxsize=1)
def _parser() -> Lark:
    grammar = files("features.rules").joinpath("cel.lark").read_text()
    return Lark(
        grammar, start="expr", parser="lalr", propagate_positions=True, maybe_placeholders=False
    )


_NAMED = {
    "NAME": "a name",
    "TEXT": "a text",
    "RAW": "a text",
    "REAL": "a number",
    "WHOLE": "a number",
    "TRUE": "true",
    "FALSE": "false",
    "NULL": "null",
    "RELATION": "a comparison (== != < <= > >=)",
    "IN": "in",
    "NOT": "!",
    "MINUS": "-",
    "LPAR": "(",
    "RPAR": ")",
    "LSQB": "[",
    "RSQB": "]",
    "COMMA": ",",
    "DOT": ".",
    "QMARK": "?",
    "COLON": ":",
    "__ANON_0": "||",
    "__ANON_1": "&&",
    "$END": "the end",
}
_NOT_HERE = {
    "+": "there is no arithmetic here: + is not known",
    "*": "there is no arithmetic here: * is not known",
    "/": "there is no arithmetic here: / is not known",
    "%": "there is no arithmetic here: % is not known",
    "=": "compare with ==",
    "&": "join conditions with &&",
    "|": "join conditions with ||",
    '"': "this text does not end: close it with the same quote",
    "'": "this text does not end: close it with the same quote",
}


def _explain(text: str, error: UnexpectedInput) -> RuleError:
    if isinstance(error, UnexpectedCharacters):
        position, expected = error.pos_in_stream or 0, set(error.allowed or ())
        found = text[position]
        if found in _NOT_HERE:
            return RuleError(text, position, _NOT_HERE[found])
        what = f"unexpected {found!r}"
    elif isinstance(error, UnexpectedToken) and error.token.type != "$END":
        token = error.token
        position, expected = token.start_pos or 0, set(error.accepts or ())
        what = f"unexpected {str(token)[:40]!r}"
    else:
        position = len(text)
        expected = set(getattr(error, "accepts", None) or ())
        what = "it ends too early" if text.strip() else "it is empty"
    wanted = dict.fromkeys(said for name, said in _NAMED.items() if name in expected)
    return RuleError(text, position, f"{what}: expected {', '.join(wanted)}")


@v_args(meta=True)
class _TreeReader(Transformer_NonRecursive[Token, ExpressionPart]):
    """Makes the parser's tree one of parts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self._parts = 0

    def _make(
        self,
        kind: Callable[..., ExpressionPart],
        meta: Meta,
        inner: Sequence[ExpressionPart],
        *rest: object,
    ) -> ExpressionPart:
        position = meta.start_pos
        depth = 1 + max((part.depth for part in inner), default=0)
        self._parts += 1
        if depth > MAX_DEPTH:
            raise RuleError(self._text, position, f"is nested deeper than {MAX_DEPTH} levels")
        if self._parts > MAX_PARTS:
            raise RuleError(self._text, position, f"has more than {MAX_PARTS} parts")
        return kind(position, depth, *rest)

    def _operation(
        self, operator: str, meta: Meta, operands: Sequence[ExpressionPart]
    ) -> ExpressionPart:
        return self._make(OperatorCall, meta, operands, operator, tuple(operands))

    def or_expr(self, meta: Meta, operands: list[ExpressionPart]) -> ExpressionPart:
        return self._operation("||", meta, operands)

    def and_expr(self, meta: Meta, operands: list[ExpressionPart]) -> ExpressionPart:
        return self._operation("&&", meta, operands)

    def choose(self, meta: Meta, operands: list[ExpressionPart]) -> ExpressionPart:
        return self._operation("?:", meta, operands)

    def compare(
        self, meta: Meta, children: tuple[ExpressionPart, Token, ExpressionPart]
    ) -> ExpressionPart:
        left, operator, right = children
        return self._operation(str(operator), meta, (left, right))

    def contain(
        self, meta: Meta, children: tuple[ExpressionPart, Token, ExpressionPart]
    ) -> ExpressionPart:
        left, _, right = children
        return self._operation("in", meta, (left, right))

    def negate(self, meta: Meta, children: tuple[Token, ExpressionPart]) -> ExpressionPart:
        return self._operation("!", meta, children[1:])

    def subtract(self, meta: Meta, children: tuple[Token, ExpressionPart]) -> ExpressionPart:
        _, number = children
        value = number.value if isinstance(number, Literal) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            problem = "there is no arithmetic here: - stands before a number only"
            raise RuleError(self._text, meta.start_pos, problem)
        return self._make(Literal, meta, (), -value)

    def group(self, _: Meta, children: tuple[ExpressionPart]) -> ExpressionPart:
        (inner,) = children
        return inner

    def name(self, meta: Meta, children: tuple[Token]) -> ExpressionPart:
        return self._make(Name, meta, (), str(children[0]))

    def select(self, meta: Meta, children: tuple[ExpressionPart, Token]) -> ExpressionPart:
        operand, name = children
        return self._make(Select, meta, (operand,), operand, str(name))

    def index(self, meta: Meta, children: tuple[ExpressionPart, ExpressionPart]) -> ExpressionPart:
        operand, key = children
        if not isinstance(key, Literal) or not isinstance(key.value, str):
            raise RuleError(self._text, key.position, 'expected a text: attributes["its name"]')
        return self._make(Select, meta, (operand,), operand, key.value)

    def call_method(self, meta: Meta, children: list[ExpressionPart]) -> ExpressionPart:
        operand, name, *arguments = children
        inner = (operand, *arguments)
        return self._make(Call, meta, inner, operand, str(name), tuple(arguments))

    def call_function(self, meta: Meta, children: list[ExpressionPart]) -> ExpressionPart:
        name, *arguments = children
        return self._make(Call, meta, arguments, None, str(name), tuple(arguments))

    def list(self, meta: Meta, parts: Sequence[ExpressionPart]) -> ExpressionPart:
        return self._make(ListOf, meta, parts, tuple(parts))

    def text(self, meta: Meta, children: tuple[Token]) -> ExpressionPart:
        return self._make(Literal, meta, (), _unescape(self._text, children[0]))

    def raw_text(self, meta: Meta, children: tuple[Token]) -> ExpressionPart:
        return self._make(Literal, meta, (), str(children[0])[2:-1])

    def integer(self, meta: Meta, children: tuple[Token]) -> ExpressionPart:
        digits = str(children[0])
        if len(digits) > _MOST_DIGITS:
            raise RuleError(self._text, meta.start_pos, "is too large a number")
        is_hexadecimal = digits[:2].lower() == "0x"
        return self._make(Literal, meta, (), int(digits, 16 if is_hexadecimal else 10))

    def real(self, meta: Meta, children: tuple[Token]) -> ExpressionPart:
        value = float(children[0])
        if not math.isfinite(value):
            raise RuleError(self._text, meta.start_pos, "is too large a number")
        return self._make(Literal, meta, (), value)

    def truth(self, meta: Meta, children: tuple[Token]) -> ExpressionPart:
        return self._make(Literal, meta, (), children[0] == "true")

    def null(self, meta: Meta, _: tuple[Token]) -> ExpressionPart:
        return self._make(Literal, meta, (), None)


_MOST_DIGITS = 18
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.))", re.DOTALL
)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPED |= {each: each for each in "\\?\"'`"}


def _unescape(text: str, token: Token) -> str:
    """What a quoted text says.

    Raises:
        RuleError: an escape is none of CEL's.
    """
    first = (token.start_pos or 0) + 1

    def read(found: re.Match[str]) -> str:
        *hexadecimal, octal, plain = found.groups()
        if plain is not None and plain not in _ESCAPED:
            raise RuleError(text, first + found.start(), f"{found[0]} is no escape: write \\\\")
        if plain is not None:
            return _ESCAPED[plain]
        code = int(octal, 8) if octal else int(next(filter(None, hexadecimal)), 16)
        if code > _LAST_CODE or code in _SURROGATES:
            raise RuleError(text, first + found.start(), f"{found[0]} is no character")
        return chr(code)

    return _ESCAPE.sub(read, str(token)[1:-1])


_LAST_CODE = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)
