"""Measures how the code is laid out: rooms, arrows, floors, and arrows that run back up.

uv run python tools/measure_tree.py [FOLDER ...] [--root CHECKOUT]

A room is a file or a folder directly below the folder that is measured; an arrow from A to B says
that a file of A imports one of B. A room stands one floor above the highest that it imports, the
lowest on floor 1. Of a circle of rooms, those arrows run back up that would have to go.
"""

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("features", "stream", "trainer", "deploy", "bench")

Arrows = dict[str, set[str]]


@dataclass(frozen=True)
class Layout:
    """What was counted of one folder."""

    rooms: int
    floors: int
    arrows: int
    back_up: int


def measure(root: Path, folder: str) -> Layout:
    """Count the rooms of a folder and the arrows between them."""
    files = {_module(root, path): path for path in (root / folder).rglob("*.py")}
    rooms = {module: room for module in files if (room := _room(module, folder))}
    arrows: Arrows = {room: set() for room in rooms.values()}
    for module, room in rooms.items():
        for imported in _imports(files[module]):
            target = _room(imported, folder)
            if target in arrows and target != room:
                arrows[room].add(target)
    back_up = list(_back_up(arrows))
    for source, target in back_up:
        arrows[source].remove(target)
    floors = _floors(arrows)
    count = sum(map(len, arrows.values())) + len(back_up)
    return Layout(len(arrows), max(floors.values(), default=0), count, len(back_up))


def _module(root: Path, path: Path) -> str:
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    return name.removesuffix(".__init__")


def _room(module: str, folder: str) -> str | None:
    """The room of a module; None for what lies elsewhere, and for the folder itself."""
    inside = module.startswith(folder.replace("/", ".") + ".")
    return module.removeprefix(folder.replace("/", ".") + ".").split(".")[0] if inside else None


def _imports(path: Path) -> Iterator[str]:
    """The modules and names that a file imports, dotted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _back_up(arrows: Arrows) -> Iterator[tuple[str, str]]:
    """The arrows that close a circle, as a walk in depth meets them."""
    walked: set[str] = set()
    path: list[str] = []

    def walk(room: str) -> Iterator[tuple[str, str]]:
        path.append(room)
        for target in sorted(arrows[room]):
            if target in path:
                yield room, target
            elif target not in walked:
                yield from walk(target)
        walked.add(path.pop())

    for room in sorted(arrows):
        if room not in walked:
            yield from walk(room)


def _floors(arrows: Mapping[str, set[str]]) -> dict[str, int]:
    floors: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in floors:
            floors[room] = 1 + max(map(floor, arrows[room]), default=0)
        return floors[room]

    for room in arrows:
        floor(room)
    return floors


def main() -> int:
    """Print a line for each folder; 1 where an arrow runs back up."""
    parser = argparse.ArgumentParser(description="Measure the layout of the code.")
    parser.add_argument("folders", nargs="*", default=FOLDERS)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout; default: this one")
    options = parser.parse_args()
    print(f"{'folder':24} rooms floors arrows back up")
    layouts = {folder: measure(options.root, folder) for folder in options.folders}
    for folder, layout in layouts.items():
        print(
            f"{folder:24} {layout.rooms:5} {layout.floors:6} {layout.arrows:6} {layout.back_up:7}"
        )
    return int(any(layout.back_up for layout in layouts.values()))


if __name__ == "__main__":
    sys.exit(main())
