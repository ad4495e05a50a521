"""Links of the documents lead somewhere, and what they show is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from deploy.cli import COMMANDS
from deploy.settings import Settings
from tools.measure_code import ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)")
MAX_README_LINES = 150
PATH = re.compile(r"`((?:bench|clients|deploy|features|stream|tests|tools|trainer)/[\w/.]+\.\w+)`")
# The log of experiments and the changelog speak of what was; the reference lists old names.
OF_THE_PAST = ("docs/research/", "CHANGELOG.md", "docs/reference/settings.md")


def _documents() -> list[str]:
    command = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(name for name in set(listed.stdout.splitlines()) if (ROOT / name).exists())


def _headings(path: Path) -> set[str]:
    """The anchors that GitHub and the site give the headings of a page."""
    found = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", _documents())
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    dead = []
    for link in LINK.findall(page.read_text()):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in _headings(file)):
            dead.append(link)
    assert not dead


def test_every_command_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/commands.md").read_text()
    assert [name for name in COMMANDS if f"`{name}" not in text] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


def _of_today() -> list[str]:
    return [name for name in _documents() if not name.startswith(OF_THE_PAST)]


@pytest.mark.parametrize("name", _of_today())
def test_files_that_are_named_exist(name: str) -> None:
    named = PATH.findall((ROOT / name).read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", _of_today())
def test_settings_that_are_named_exist(name: str) -> None:
    sections = {
        section: set(field.annotation.model_fields)
        for section, field in Settings.model_fields.items()
        if hasattr(field.annotation, "model_fields")
    }
    setting = re.compile(rf"`({'|'.join(sections)})\.(\w+)`")
    modules = {path.stem for path in ROOT.glob("*/*") if path.suffix in {"", ".py"}}
    named = setting.findall((ROOT / name).read_text())
    wrong = [
        f"{section}.{field}"
        for section, field in named
        if field not in sections[section] and field not in modules
    ]
    assert wrong == []
