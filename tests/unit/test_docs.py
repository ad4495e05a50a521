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


# Those of the review, and of the cases from public reports: docs/research/faults.md.
FINDINGS = set(range(1, 51))
CASES = {*range(1, 7), *range(8, 13), 15, 17, 19, 20, 22, 24, *range(26, 31), 34, 37}
CASES |= {39, 40, 42, 43, 46, 47, 48, 51, 55, 56}
OF_A_CASE = re.compile(r"(?:cases?|live) (\d+\w*(?:(?:, | and )\d+)*)")
NAMED_TEST = re.compile(r"(test_\w+\.py)?(?:::(\w+))?")


def _fault_lines() -> list[str]:
    page = (ROOT / "docs/research/faults.md").read_text()
    return [line for line in page.splitlines() if line.startswith("| ")]


def test_every_finding_and_every_case_has_a_line() -> None:
    findings, cases = set(), set()
    for line in _fault_lines():
        subject = line.split("|")[1]
        cases |= {int(each) for each in re.findall(r"\d+", " ".join(OF_A_CASE.findall(subject)))}
        findings |= {int(each) for each in re.findall(r"\d+", OF_A_CASE.sub("", subject))}
    assert findings >= FINDINGS
    assert cases >= CASES


def test_every_test_that_the_table_of_faults_names_exists() -> None:
    # Several of one name are taken for one.
    files: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        files[path.name] = files.get(path.name, "") + path.read_text()
    missing = []
    for line in _fault_lines():
        file = ""
        for name, test in NAMED_TEST.findall(line):
            file = name or file
            if file not in files or (test and f"def {test}(" not in files[file]):
                missing += [f"{name}::{test}"] * bool(name or test)
    assert missing == []


def test_each_decision_has_a_number_of_its_own() -> None:
    found = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(path.name.partition("-")[0]) for path in found]
    assert numbers == list(range(1, len(found) + 1))
    for number, path in zip(numbers, found, strict=True):
        assert path.read_text().startswith(f"# {number}. "), path.name


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
