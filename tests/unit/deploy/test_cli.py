"""The command line answers quickly, and a mistake ends in one line and its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from deploy import cli
from deploy.cli import COMMANDS, load_command


def headwater(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
    root = str(Path(__file__).parents[3])
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        cwd=folder,
        env=clean | {"PYTHONPATH": root} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that runs in this process leaves its environment as it was."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def test_config_prints_toml(tmp_path: Path) -> None:
    done = headwater(tmp_path, "config", HEADWATER_KAFKA__PARTITIONS="6")
    assert done.returncode == 0
    assert tomllib.loads(done.stdout)["kafka"]["partitions"] == 6


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "words"),
    [
        (["config"], {"HEADWATER_KAFKA__PARTITIONS": "x"}, 2, "kafka.partitions"),
        (["up", "nothing"], {}, 2, "no server is named nothing"),
        (["logs", "kafka"], {}, 3, "kafka was never started here"),
        (["windows", "show", "7"], {}, 4, "00000007.json: no such window: see `headwater windows"),
        (
            ["windows", "ls"],
            {"HEADWATER_WINDOWS__ADDRESS": "nowhere://y"},
            2,
            "windows.address: nowhere://y",
        ),
        (["windows", "write"], {}, 3, "kafka is not running: run `headwater up`"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], code: int, words: str
) -> None:
    done = headwater(tmp_path, *arguments, **variables)
    assert done.returncode == code
    assert done.stderr.startswith("headwater: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_status_says_what_does_not_run(tmp_path: Path) -> None:
    done = headwater(tmp_path, "status", "--json")
    assert done.returncode == 3
    assert [one["name"] for one in json.loads(done.stdout)] == ["kafka", "store", "triton"]


def test_help_imports_nothing_heavy() -> None:
    heavy = {"pydantic", "confluent_kafka", "redis", "tritonclient", "feast", "torch", "numpy"}
    probe = f"import sys, deploy.cli; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_help_lists_every_command_as_it_says_itself() -> None:
    for name, (_, line) in COMMANDS.items():
        own = load_command(name).help or ""
        assert own.startswith(line.rstrip(".")), f"{name}: {own.splitlines()[0]!r} beside {line!r}"


def test_the_name_that_a_command_had_in_the_release_before_is_understood() -> None:
    windows = load_command("windows").commands
    assert windows["ls"].callback.__name__ == windows["list"].callback.__name__
    assert windows["ls"].hidden


def test_an_unknown_command_is_answered_with_the_nearest(tmp_path: Path) -> None:
    done = headwater(tmp_path, "trian")
    assert done.returncode == 2
    assert "'train'" in done.stderr


def test_an_error_of_a_library_is_one_line_that_says_where_its_trace_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise KeyError("x" * 1000 + "\ud83d\n")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.chdir(tmp_path)
    structlog.reset_defaults()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("headwater: KeyError: 'xxx")
    assert len(line) < 500
    reference = re.search(r"its trace is ([0-9a-f]{8}) in ", line)
    assert reference
    log = tmp_path / ".headwater" / "logs" / "faults.log"
    assert log.read_text().startswith(reference[1])
    assert "in fail\n" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def fail_without_a_trace() -> None:
    raise IndexError("nothing")


def test_a_trace_that_cannot_be_kept_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", fail_without_a_trace)
    monkeypatch.chdir(tmp_path)
    structlog.reset_defaults()
    (tmp_path / ".headwater").write_text("a file where a folder should be")
    with pytest.raises(SystemExit):
        cli.main()
    printed = capsys.readouterr().err
    assert "IndexError" in printed.splitlines()[-1]
    assert "Traceback" in printed


WHERE = {
    "anywhere": "cli.app = lambda: os.kill(os.getpid(), number) or time.sleep(9)",
    # What librdkafka calls: there the signal is handled.
    "in a callback": """
def app():
    nowhere = {"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 1}
    producer = Producer(nowhere | {"log_level": 0})
    producer.produce("t", b"", on_delivery=lambda *_: signal.raise_signal(number))
    producer.flush(30)
cli.app = app
""",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", WHERE)
def test_a_signal_ends_a_command_without_a_word(
    number: signal.Signals, where: str, tmp_path: Path
) -> None:
    # What a shell starts in the background ignores SIGINT, and so does all that it starts.
    code = f"""
import os, signal, time
from confluent_kafka import Producer
from deploy import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
number = {int(number)}
{WHERE[where]}
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (128 + number, "")


def test_servers_of_this_machine_are_reached_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "corp.example")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    cli.bypass_proxies_on_loopback()
    assert os.environ["no_proxy"] == "corp.example,localhost,127.0.0.1,::1"
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"]
    cli.bypass_proxies_on_loopback()
    assert os.environ["no_proxy"].count("localhost") == 1


def test_the_trace_of_a_service_is_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", fail_without_a_trace)
    monkeypatch.chdir(tmp_path)
    structlog.configure()
    try:
        with capture_logs() as logged, pytest.raises(SystemExit):
            cli.main()
    finally:
        structlog.reset_defaults()
    (event,) = logged
    assert event["event"] == "unexpected_error"
    assert f"its trace is {event['reference']} in the log" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
