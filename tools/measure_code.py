"""Measures names, imports and parameters of the product's code, and holds them to the house style.

uv run python tools/measure_code.py [FOLDER ...] [--list]

Without folders: the whole product, and exit status 1 where a limit is passed. With folders: the
same table for these alone. `--list` names each function and class that counts against a limit.
"""

import argparse
import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRODUCT = ("clients", "features", "stream", "trainer", "deploy", "bench", "tools")

MAX_PARTICIPLE_SHARE = 0.01
MAX_IMPORT_SHARE = 0.07
MAX_PARAMETERS = 5
MAX_LONG_SIGNATURES = 10

# Words that end in -ed and are nouns or verbs in their base form.
NOT_PARTICIPLES = frozenset({"embed", "feed", "need", "seed", "shed", "speed"})
IRREGULAR = frozenset(
    """begun broken brought built chosen done drawn felt found given gone grown held hidden kept
    known left lost made met paid said seen sent shown sold spent taken taught thought told
    understood won worn written""".split()
)
# A name that begins with one of these says neither what is done nor what is returned. Established
# prefixes (is_, has_, as_, to_, from_, with_, on_ of a handler) are no fault.
NEITHER = frozenset(
    """about after again alike among around aside at away before behind below beside between beyond
    by due early else enough here how in instead just late lately like likely near nearby of off
    once out over right so soon still such then there through thus together too under until what
    when where whether which while who whole why within without""".split()
)


@dataclass
class Measures:
    """What was counted.

    Attributes:
        functions: (name, place) of each function and method.
        classes: the places of each class name.
        long_signatures: (parameters, name, place) of functions with too many.
    """

    lines: int = 0
    import_lines: int = 0
    functions: list[tuple[str, str]] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    long_signatures: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def participles(self) -> list[tuple[str, str]]:
        """Functions whose name is one bare participle."""
        return [(name, place) for name, place in self.functions if is_participle(name)]

    @property
    def neither(self) -> list[tuple[str, str]]:
        """Functions whose name begins with neither a verb nor a noun."""
        first = ((name.strip("_").split("_")[0], name, place) for name, place in self.functions)
        return [(name, place) for word, name, place in first if word in NEITHER]

    @property
    def ambiguous_classes(self) -> dict[str, list[str]]:
        """Class names with more than one home."""
        return {name: places for name, places in self.classes.items() if len(places) > 1}


def is_participle(name: str) -> bool:
    """Whether a name is one past participle: `told`, `_shuffled`.

    >>> [is_participle(name) for name in ("told", "_shuffled", "seed", "trained_model")]
    [True, True, False, False]
    """
    word = name.strip("_")
    regular = re.fullmatch(r"[a-z]+ed", word) is not None and word not in NOT_PARTICIPLES
    return regular or word in IRREGULAR


def source_files(folders: tuple[str, ...]) -> list[Path]:
    """The Python files that git knows or would take, in these folders."""
    command = ["git", "ls-files", "-co", "--exclude-standard", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = sorted(set(listed.stdout.splitlines()))
    return [ROOT / name for name in names if name.endswith(".py") and _is_code(ROOT / name)]


def _is_code(path: Path) -> bool:
    return path.exists() and "tests" not in path.relative_to(ROOT).parts


def measure(files: list[Path]) -> Measures:
    """Count lines, names and parameters of files."""
    measures = Measures()
    for path in files:
        source = path.read_text()
        measures.lines += source.count("\n")
        place = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(source)):
            _count(measures, node, place)
    return measures


def _count(measures: Measures, node: ast.AST, place: str) -> None:
    if isinstance(node, ast.Import | ast.ImportFrom):
        measures.import_lines += (node.end_lineno or node.lineno) - node.lineno + 1
    elif isinstance(node, ast.ClassDef):
        measures.classes[node.name].append(f"{place}:{node.lineno}")
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        at = f"{place}:{node.lineno}"
        measures.functions.append((node.name, at))
        if (number := sum(1 for _ in _parameters(node))) > MAX_PARAMETERS:
            measures.long_signatures.append((number, node.name, at))


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    given = node.args
    for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs):
        if argument.arg not in {"self", "cls"}:
            yield argument.arg


def limits(measures: Measures) -> list[tuple[str, str, str, bool]]:
    """(what, figure, limit, whether it holds) for each rule."""
    participles = len(measures.participles) / max(1, len(measures.functions))
    imports = measures.import_lines / max(1, measures.lines)
    ambiguous, long = len(measures.ambiguous_classes), len(measures.long_signatures)
    neither = len(measures.neither)
    return [
        (
            "functions named by one participle",
            f"{participles:.1%}",
            f"below {MAX_PARTICIPLE_SHARE:.0%}",
            participles < MAX_PARTICIPLE_SHARE,
        ),
        ("functions named by neither verb nor noun", f"{neither}", "0", neither == 0),
        ("class names with two meanings", f"{ambiguous}", "0", ambiguous == 0),
        (
            "lines that import",
            f"{imports:.1%}",
            f"below {MAX_IMPORT_SHARE:.0%}",
            imports < MAX_IMPORT_SHARE,
        ),
        (
            f"functions with more than {MAX_PARAMETERS} parameters",
            f"{long}",
            f"at most {MAX_LONG_SIGNATURES}",
            long <= MAX_LONG_SIGNATURES,
        ),
    ]


def print_offenders(measures: Measures) -> None:
    """Name each function and class that counts against a limit."""
    for name, place in measures.participles:
        print(f"participle  {place} {name}")
    for name, place in measures.neither:
        print(f"neither     {place} {name}")
    for name, places in sorted(measures.ambiguous_classes.items()):
        print(f"two homes   {name}: {', '.join(places)}")
    for number, name, place in sorted(measures.long_signatures, reverse=True):
        print(f"parameters  {place} {name}: {number}")


def main() -> int:
    """Print the table; 1 where the whole product passes a limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="*", help="default: the whole product")
    parser.add_argument("--list", action="store_true", help="name what counts against a limit")
    options = parser.parse_args()
    files = source_files(tuple(options.folders) or PRODUCT)
    measures = measure(files)
    print(f"{len(files)} files, {measures.lines} lines, {len(measures.functions)} functions")
    rows = limits(measures)
    for what, figure, limit, holds in rows:
        print(f"{what:44} {figure:>7}  {limit:12} {'' if holds else '<- passed'}")
    if options.list:
        print_offenders(measures)
    return int(not options.folders and not all(holds for *_, holds in rows))


if __name__ == "__main__":
    sys.exit(main())
