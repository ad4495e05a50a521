"""What is wrong with an expression, and where."""

from headwater_client import HeadwaterError

_SHOWN_CHARS = 40


class RuleError(HeadwaterError):
    """An expression cannot be used.

    Attributes:
        field: where the expression stands, where there are several.
        problem: what is wrong, and what to write instead.
        line, column: where, counted from 1 in characters.
        near: the text from there on, cut.
    """

    def __init__(self, text: str, position: int, problem: str) -> None:
        before = text[:position]
        self.field = ""
        self.problem = problem
        self.line = before.count("\n") + 1
        self.column = position - (before.rfind("\n") + 1) + 1
        self.near = text[position:].partition("\n")[0][:_SHOWN_CHARS]
        super().__init__(f"{self.place}: {problem}")

    @property
    def place(self) -> str:
        """Where the fault is.

        >>> RuleError("item.id ==", 10, "it ends too early").place
        'column 11'
        """
        line = f"line {self.line}, " if self.line > 1 else ""
        return f"{line}column {self.column}"
