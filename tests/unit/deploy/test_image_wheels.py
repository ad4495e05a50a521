"""For which machines the images can be built: what of the lock has a wheel for them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging import tags
from packaging.markers import Marker
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "how-to" / "containers.md"
PACKAGES: list[dict[str, Any]] = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
# That of the Dockerfile's base.
PYTHON = (3, 12)
GLIBC = 36
IMAGES: dict[str, list[str]] = {"serving": [], "trainer": ["trainer"]}


def environment(machine: str) -> dict[str, str]:
    """What markers are asked on Debian 12 on such a machine."""
    version = ".".join(map(str, PYTHON))
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }


def list_supported_tags(machine: str) -> frozenset[tags.Tag]:
    """The kinds of wheels that can be installed there."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 4, -1)]
    platforms += [f"manylinux{age}_{machine}" for age in ("2014", "2010", "1")]
    platforms += [f"linux_{machine}"]
    return frozenset(
        [
            *tags.cpython_tags(PYTHON, platforms=platforms),
            *tags.compatible_tags(PYTHON, f"cp{PYTHON[0]}{PYTHON[1]}", platforms),
        ]
    )


def find_package(need: dict[str, Any]) -> dict[str, Any]:
    """The package that a line of the lock means: of some there are several versions."""
    [found] = [
        each
        for each in PACKAGES
        if each["name"] == need["name"] and need.get("version") in (None, each["version"])
    ]
    return found


def list_needed(extras: list[str], machine: str) -> Iterator[dict[str, Any]]:
    """All that is installed of the lock, beside what is ours."""
    on = environment(machine)
    waiting: list[dict[str, Any]] = [{"name": "headwater", "extra": extras}]
    seen: set[tuple[str, str]] = set()
    while waiting:
        need = waiting.pop()
        package = find_package(need)
        lists = [("", package.get("dependencies", []))]
        optional = package.get("optional-dependencies", {})
        lists += [(extra, optional.get(extra, [])) for extra in need.get("extra", [])]
        for extra, needs in lists:
            if (package["name"], extra) in seen:
                continue
            seen.add((package["name"], extra))
            if not extra and "registry" in package["source"]:
                yield package
            waiting += [
                other
                for other in needs
                if "marker" not in other or Marker(other["marker"]).evaluate(on)
            ]


def without_wheel(image: str, machine: str) -> list[str]:
    """What would have to be built from source there."""
    fit = list_supported_tags(machine)
    return sorted(
        package["name"]
        for package in list_needed(IMAGES[image], machine)
        if not any(
            parse_wheel_filename(wheel["url"].rsplit("/", 1)[1])[3] & fit
            for wheel in package.get("wheels", [])
        )
    )


def test_the_lock_names_what_the_images_hold() -> None:
    serving = {package["name"] for package in list_needed([], "x86_64")}
    trainer = {package["name"] for package in list_needed(["trainer"], "x86_64")}
    assert {"faust-streaming", "feast", "tritonclient"} <= serving
    assert {"torch", "transformers", "onnxruntime"} <= trainer - serving


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("image", IMAGES)
def test_the_page_names_what_has_no_wheel(image: str, machine: str) -> None:
    line = re.search(rf"^\| {image} \| {machine} \| (.*?) \|$", PAGE.read_text(), re.MULTILINE)
    assert line, f"{PAGE} has no line for {image} on {machine}"
    assert re.findall(r"`([\w-]+)`", line[1]) == without_wheel(image, machine)
