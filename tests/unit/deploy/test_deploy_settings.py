"""A wrong setting ends in one line that names it; a secret never shows."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
import structlog
from headwater_client.errors import SettingsError

from deploy import settings_text
from deploy.rollout.evidence import radius
from deploy.services.supervisor import environment
from deploy.settings import Settings, load_settings
from deploy.settings_reference import render_reference


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("HEADWATER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def nothing_warned() -> None:
    settings_text._warn.cache_clear()
    # A test before may have configured it, and then a warning is a log line.
    structlog.reset_defaults()


def problem() -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_defaults_need_nothing(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.kafka.bootstrap_servers is None
    assert settings.local.state_dir == tmp_path / ".headwater"
    assert settings.model_repository == tmp_path / ".headwater" / "model_repo"
    assert settings.windows_address == str(tmp_path / ".headwater" / "windows")


def test_windows_can_be_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_WINDOWS__ADDRESS", "s3://bucket/windows")
    assert load_settings().windows_address == "s3://bucket/windows"


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("headwater.toml").write_text("[kafka]\npartitions = 7\nreplication_factor = 2\n")
    monkeypatch.setenv("HEADWATER_KAFKA__PARTITIONS", "9")
    settings = load_settings()
    assert (settings.kafka.partitions, settings.kafka.replication_factor) == (9, 2)


def test_a_named_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[worker]\ntop_k = 3\n")
    monkeypatch.setenv("HEADWATER_CONFIG", str(tmp_path / "other.toml"))
    assert load_settings().worker.top_k == 3


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CONFIG", "nowhere.toml")
    assert problem() == "HEADWATER_CONFIG=nowhere.toml: no such file: correct or unset it"


def test_a_broken_file_is_named_with_its_line() -> None:
    Path("headwater.toml").write_text("[kafka]\npartitions = = 7\n")
    assert "headwater.toml: not TOML: " in problem()
    assert "line 2" in problem()


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_STORE__ADDRESS", "")
    assert load_settings().store.address is None


def test_a_wrong_value_is_named_as_key_and_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA__PARTITIONS", "many")
    assert problem().startswith(
        "kafka.partitions (HEADWATER_KAFKA__PARTITIONS) = 'many': Input should be a valid integer"
    )


@pytest.mark.parametrize("name", ["FALSE_PROMOTION", "FALSE_ROLLBACK"])
def test_an_error_rate_beyond_a_half_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No confidence sequence has it: a controller would end at its first look."""
    monkeypatch.setenv(f"HEADWATER_ROLLOUT__{name}", "0.65")
    with pytest.raises(
        SettingsError, match=rf"rollout\.{name.lower()} .* less than or equal to 0\.5"
    ):
        load_settings()
    monkeypatch.setenv(f"HEADWATER_ROLLOUT__{name}", "0.5")
    assert radius(0.01, getattr(load_settings().rollout, name.lower())) > 0


def test_every_problem_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA__PARTITIONS", "0")
    monkeypatch.setenv("HEADWATER_TRITON__TIMEOUT_MS", "soon")
    monkeypatch.setenv("HEADWATER_LOCAL__STORE_PORT", "70000")
    assert len(problem().splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("HEADWATER_KAFAK__PARTITIONS", "did you mean kafka?"),
        ("HEADWATER_STORE__ADRESS", "did you mean address?"),
        ("HEADWATER_QUX", "known are kafka, store,"),
    ],
)
def test_a_misspelt_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, suggestion: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert name in problem()
    assert f"unknown setting; {suggestion}" in problem()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADWATER_SERVICE_HOST", "10.0.0.1"),
        ("HEADWATER_KAFKA_SERVICE_HOST", "10.0.0.1"),
        ("HEADWATER_WORKER_SERVICE_PORT", "80"),
        ("HEADWATER_WORKER_SERVICE_PORT_METRICS", "80"),
        ("HEADWATER_PORT", "tcp://10.0.0.1:80"),
        ("HEADWATER_TRITON_PORT", "tcp://10.0.0.9:8001"),
        ("HEADWATER_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("HEADWATER_DNS_PORT_53_UDP_PROTO", "udp"),
        ("HEADWATER_PORT_80_TCP_PORT", "80"),
        ("HEADWATER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("HEADWATER_STORE_NAME", "/web/headwater-store"),
        ("HEADWATER_STORE_ENV_VALKEY_VERSION", "8.1"),
    ],
)
def test_a_variable_of_a_service_of_kubernetes_or_docker_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADWATER_WORKER_METRICS_PORT", "9100"),
        ("HEADWATER_WORKER_NAME", "worker-1"),
        ("HEADWATER_STORE__PORT", "6379"),
        ("HEADWATER_PORT__80_TCP_PROTO", "tcp"),
        ("HEADWATER_VERSION", "1.2"),
    ],
)
def test_a_setting_that_looks_like_one_of_a_service_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert name in problem()
    assert "unknown setting" in problem()


def test_a_file_may_begin_with_a_byte_order_mark() -> None:
    Path("headwater.toml").write_text("[kafka]\r\npartitions = 7\r\n", encoding="utf-8-sig")
    assert load_settings().kafka.partitions == 7


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-16", "is UTF-16, or no text: save it as UTF-8"),
        ("utf-16-be", "is UTF-16, or no text: save it as UTF-8"),
        ("latin-1", "is no UTF-8 in line 2: save it as UTF-8"),
    ],
)
def test_a_file_in_another_encoding_is_named(encoding: str, words: str) -> None:
    Path("headwater.toml").write_text('[worker]\nname = "Zürich"\n', encoding)
    assert problem() == f"headwater.toml: {words}"


def test_a_file_that_may_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    Path("headwater.toml").write_text("")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert problem() == "headwater.toml: cannot be read: Permission denied"


def test_without_a_home_the_cache_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert load_settings().local.cache_dir == tmp_path / ".cache" / "headwater"
    monkeypatch.setenv("HEADWATER_LOCAL__STATE_DIR", "~/state")
    assert "local.state_dir (HEADWATER_LOCAL__STATE_DIR) = '~/state'" in problem()
    assert "set HOME" in problem()


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("LOCAL__STATE_DIR", " ", "is blank: give it a value"),
        ("MODEL_REPOSITORY", "\t", "is blank: give it a value"),
        ("KAFKA__BOOTSTRAP_SERVERS", " \n", "is blank: give it a value"),
        ("WINDOWS__ADDRESS", " ", "is blank: give it a value"),
        ("KAFKA__BOOTSTRAP_SERVERS", "b\udcff:9092", "is no text in UTF-8"),
        ("LOCAL__STATE_DIR", "/tmp/\udcff", "is no text in UTF-8"),
        ("ROLLOUT__ADMIN_TOKEN", "secret\n", "ends in a line break, as `echo` writes one"),
        ("STORE__PASSWORD", "\r\nsecret", "ends in a line break"),
        ("STORE__PASSWORD", "s\udcff", "is no text in UTF-8"),
    ],
)
def test_what_nobody_sees_in_a_value_is_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, given: str, words: str
) -> None:
    monkeypatch.setenv(f"HEADWATER_{name}", given)
    assert f"HEADWATER_{name}" in problem()
    assert words in problem()
    assert "secret" not in problem()
    assert len(problem().splitlines()) == 1


def test_a_line_break_behind_a_value_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA__BOOTSTRAP_SERVERS", "b:9092\r\n")
    monkeypatch.setenv("HEADWATER_STORE__ADDRESS", "s:6379\n")
    monkeypatch.setenv("HEADWATER_STORE__PASSWORD", 'a%b$c"d,e=f\\ g')
    settings = load_settings()
    assert settings.kafka.bootstrap_servers == "b:9092"
    assert settings.store.address == "s:6379"
    assert settings.store.password is not None
    assert settings.store.password.get_secret_value() == 'a%b$c"d,e=f\\ g'


@pytest.mark.parametrize("written", ["[a]\nb = " + "9" * 5000, "a = " + "[" * 5000])
def test_a_file_that_no_parser_reads_is_one_line(written: str) -> None:
    Path("headwater.toml").write_text(written)
    assert problem().startswith("headwater.toml: not TOML: ")
    assert len(problem().splitlines()) == 1


def test_a_name_of_a_file_that_no_system_takes_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_CONFIG", "a" * 5000)
    assert problem().endswith(": cannot be read: File name too long")


def test_an_empty_folder_in_the_file_is_one_line() -> None:
    Path("headwater.toml").write_text('[local]\nstate_dir = ""\n')
    assert "local.state_dir (HEADWATER_LOCAL__STATE_DIR) = '': is blank" in problem()


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        assert "the folder that this runs in is gone: change to another" in problem()
    finally:
        os.chdir(tmp_path)


def test_a_setting_at_the_wrong_place_is_told_where_it_belongs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("headwater.toml").write_text("partitions = 4\n")
    assert "unknown setting; it is one of the section [kafka]" in problem()
    Path("headwater.toml").unlink()
    monkeypatch.setenv("HEADWATER_KAFKA_PARTITIONS", "4")
    assert problem() == (
        "HEADWATER_KAFKA_PARTITIONS: unknown setting; did you mean HEADWATER_KAFKA__PARTITIONS?"
    )


@pytest.mark.parametrize("home", ["", "/"])
def test_a_home_that_is_none_is_no_place_for_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str
) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert load_settings().local.cache_dir == tmp_path / ".cache" / "headwater"


@pytest.mark.parametrize(
    ("given", "brokers"),
    [
        ("b1:9092, b2:9093", ["b1:9092", "b2:9093"]),
        ("b1:9092,", ["b1:9092"]),
        ("b1", ["b1:9092"]),
        (" PLAINTEXT://b1:9094 ", ["b1:9094"]),
        ("[::1]:9092,[fe80::1]", ["[::1]:9092", "[fe80::1]:9092"]),
    ],
)
def test_brokers_are_read_as_librdkafka_reads_them(
    monkeypatch: pytest.MonkeyPatch, given: str, brokers: list[str]
) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA__BOOTSTRAP_SERVERS", given)
    client = load_settings().kafka.client_settings
    assert client.brokers == brokers
    assert client.client_config()["bootstrap.servers"] == ",".join(brokers)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("b1:9092;b2:9092", "write host:port, or host:port,host:port"),
        ("b1:port", "write host:port"),
        ("b1:99999", "write host:port"),
        ("::1:9092", "an IPv6 address stands in brackets"),
        ("SSL://b1:9092", "security_protocol is PLAINTEXT: name the protocol there"),
        (" , ", "names no broker"),
    ],
)
def test_brokers_that_cannot_be_read_are_named(
    monkeypatch: pytest.MonkeyPatch, given: str, words: str
) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA__BOOTSTRAP_SERVERS", given)
    assert words in problem()
    assert len(problem().splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "nodes"),
    [
        (" h:6379 ", [("h", 6379)]),
        ("h:6379,", [("h", 6379)]),
        ("[::1]:6379", [("::1", 6379)]),
    ],
)
def test_the_address_of_the_store_is_read(
    monkeypatch: pytest.MonkeyPatch, given: str, nodes: list[tuple[str, int]]
) -> None:
    monkeypatch.setenv("HEADWATER_STORE__ADDRESS", given)
    assert load_settings().store.nodes == nodes


@pytest.mark.parametrize(
    "given", ["h", "h:", "h:abc", "::1:6379", "redis://h:6379", "h:6379/1", ",", "h:1,g:2", "h:0"]
)
def test_an_address_of_the_store_that_cannot_be_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("HEADWATER_STORE__ADDRESS", given)
    assert "store" in problem()
    assert len(problem().splitlines()) == 1


def test_an_old_name_in_the_file_is_accepted_with_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("headwater.toml").write_text("[trainer]\nwindow = 32\n")
    assert load_settings().trainer.max_targets_per_sequence == 32
    load_settings()
    assert capsys.readouterr().err == (
        "headwater: headwater.toml: trainer.window: is now trainer.max_targets_per_sequence: "
        "rename it; accepted until release 0.3.0\n"
    )


def test_an_old_name_in_the_environment_is_accepted_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADWATER_FEATURES__TAKEN_BY", '["purchase"]')
    assert load_settings().features.seen_by == {"purchase"}
    warned = capsys.readouterr().err
    assert "HEADWATER_FEATURES__TAKEN_BY: is now HEADWATER_FEATURES__SEEN_BY" in warned
    assert len(warned.splitlines()) == 1


def test_the_environment_wins_over_the_file_by_either_name(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("headwater.toml").write_text("[trainer]\nwindow = 32\nwarmup_ratio = 0.5\n")
    monkeypatch.setenv("HEADWATER_TRAINER__MAX_TARGETS_PER_SEQUENCE", "8")
    monkeypatch.setenv("HEADWATER_TRAINER__WARM_UP", "0.25")
    trainer = load_settings().trainer
    assert (trainer.max_targets_per_sequence, trainer.warmup_ratio) == (8, 0.25)


def test_a_setting_by_both_of_its_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("headwater.toml").write_text("[trainer]\nwindow = 32\nmax_targets_per_sequence = 32\n")
    assert problem() == (
        "headwater.toml: trainer.window: is the old name of trainer.max_targets_per_sequence, "
        "which is given too: remove the old one"
    )
    Path("headwater.toml").unlink()
    monkeypatch.setenv("HEADWATER_ROLLOUT__PURCHASE_WEIGHT", "2")
    monkeypatch.setenv("HEADWATER_ROLLOUT__PURCHASE_REWARD", "3")
    assert problem().startswith("HEADWATER_ROLLOUT__PURCHASE_WEIGHT: is the old name of HEADWATER_")
    assert len(problem().splitlines()) == 1


def test_a_setting_that_is_gone_says_where_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_TRAINER__GENERATIONS", "3")
    assert "this setting is gone: train a version, name its folder in trainer.teacher" in problem()
    assert len(problem().splitlines()) == 1


def test_every_old_name_leads_to_a_setting() -> None:
    for name, section in settings_text.sections(Settings):
        fields = set(section.model_fields)
        assert set(section.RENAMED.values()) <= fields, name
        assert not fields & (section.RENAMED.keys() | section.REMOVED.keys()), name


def test_a_supervised_command_inherits_a_setting_by_one_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADWATER_WINDOWS__REMEMBERED_EVENTS", "7")
    inherited = environment(load_settings())
    assert inherited["HEADWATER_WINDOWS__DEDUP_WINDOW"] == "7"
    assert "HEADWATER_WINDOWS__REMEMBERED_EVENTS" not in inherited


def test_a_supervised_command_inherits_a_secret_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secret").write_text("hunter2")
    monkeypatch.setenv("HEADWATER_ROLLOUT__ADMIN_TOKEN_FILE", "secret")
    inherited = environment(load_settings())
    assert inherited["HEADWATER_ROLLOUT__ADMIN_TOKEN"] == "hunter2"
    assert "HEADWATER_ROLLOUT__ADMIN_TOKEN_FILE" not in inherited


def test_a_list_that_is_not_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_FEATURES__USER_HALF_LIVES_MS", "[1,")
    assert problem() == (
        "HEADWATER_FEATURES__USER_HALF_LIVES_MS: lists and tables in a variable are written as "
        'JSON: ["a", "b"]'
    )


@pytest.mark.parametrize(
    ("written", "urls"),
    [
        ('"one:8001"', ["one:8001"]),
        ('"one:8001, two:8001"', ["one:8001", "two:8001"]),
        ('["one:8001", "[::1]:8001"]', ["one:8001", "[::1]:8001"]),
        ('"dns:///one:8001"', ["dns:///one:8001"]),
        ('" one:8001 ,, two:8001,"', ["one:8001", "two:8001"]),
        ('""', []),
    ],
)
def test_several_tritons_can_be_named(tmp_path: Path, written: str, urls: list[str]) -> None:
    (tmp_path / "headwater.toml").write_text(f"[triton]\nurl = {written}\n")
    assert load_settings().triton.urls == urls


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("one", "'one': write host:port"),
        ("http://one:8000", "'http://one:8000': write host:port"),
        # What Kubernetes says of a service called triton.
        ("tcp://10.0.0.1:8001", "'tcp://10.0.0.1:8001': write host:port"),
        ("grpc://one:8001", "'grpc://one:8001': write host:port"),
        ("one:99999", "'one:99999': write host:port"),
        ("one:8001,one:8001", "an address stands twice"),
    ],
)
def test_an_address_of_triton_that_is_none_is_one_line(
    monkeypatch: pytest.MonkeyPatch, written: str, why: str
) -> None:
    monkeypatch.setenv("HEADWATER_TRITON__URL", written)
    assert why in problem()
    assert len(problem().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value", "missing"),
    [
        ("HEADWATER_KAFKA__SECURITY_PROTOCOL", "SSL", "kafka.bootstrap_servers"),
        ("HEADWATER_STORE__PASSWORD", "hunter2", "store.address"),
        ("HEADWATER_TRITON__TLS", "true", "triton.url"),
        ("HEADWATER_TRITON__CONTROL_KEY", "hunter2", "triton.url"),
    ],
)
def test_security_without_an_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, missing: str
) -> None:
    monkeypatch.setenv(name, value)
    assert f"set {missing}, or unset" in problem()
    assert "hunter2" not in problem()


def test_heads_that_do_not_share_the_width_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_TRAINER__HEADS", "3")
    assert "heads 3 do not share width 64: choose a width that is a multiple" in problem()


def test_no_problem_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_STORE__PASSWORT", "hunter2")
    monkeypatch.setenv("HEADWATER_KAFKA__SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("HEADWATER_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("HEADWATER_KAFKA__PARTITIONS", "x")
    assert len(problem().splitlines()) == 2
    assert "hunter2" not in problem()


def test_the_printed_settings_mask_secrets_and_read_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADWATER_STORE__ADDRESS", 'host"\\:6379')
    monkeypatch.setenv("HEADWATER_STORE__PASSWORD", "hunter2")
    settings = load_settings()
    text = settings_text.toml(settings)
    assert "hunter2" not in text
    assert tomllib.loads(text)["store"]["password"] == settings_text.MASK
    monkeypatch.delenv("HEADWATER_STORE__ADDRESS")
    (tmp_path / "headwater.toml").write_text(text)
    assert load_settings() == settings


@pytest.mark.parametrize("written", ["hunter2", "hunter2\n", "hunter2\r\n"])
def test_a_secret_may_stand_in_a_file_of_its_own(
    monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    Path("secret").write_bytes(written.encode())
    Path("headwater.toml").write_text('[rollout]\nadmin_token_file = "secret"\n')
    monkeypatch.setenv("HEADWATER_STORE__ADDRESS", "host:6379")
    monkeypatch.setenv("HEADWATER_STORE__PASSWORD_FILE", "secret")
    settings = load_settings()
    for secret in (settings.store.password, settings.rollout.admin_token):
        assert secret
        assert secret.get_secret_value() == "hunter2"


def test_a_file_that_the_environment_names_wins_over_the_settings_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("headwater.toml").write_text('[rollout]\nadmin_token = "before"\n')
    Path("secret").write_text("after")
    monkeypatch.setenv("HEADWATER_ROLLOUT__ADMIN_TOKEN_FILE", "secret")
    token = load_settings().rollout.admin_token
    assert token
    assert token.get_secret_value() == "after"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "cannot be read: is no text in UTF-8"),
        (b"x" * 70_000, "is too large for a secret"),
    ],
)
def test_a_file_that_holds_no_secret_is_one_line(
    monkeypatch: pytest.MonkeyPatch, written: bytes | None, said: str
) -> None:
    if written is not None:
        Path("secret").write_bytes(written)
    monkeypatch.setenv("HEADWATER_KAFKA__SIGNING_KEY_FILE", "secret")
    assert problem() == f"HEADWATER_KAFKA__SIGNING_KEY_FILE = 'secret': {said}"


def test_a_secret_that_is_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secret").write_text("hunter2")
    monkeypatch.setenv("HEADWATER_ROLLOUT__ADMIN_TOKEN", "hunter3")
    monkeypatch.setenv("HEADWATER_ROLLOUT__ADMIN_TOKEN_FILE", "secret")
    said = "is given, and a file that it is in, too: remove one of them"
    assert problem() == f"HEADWATER_ROLLOUT__ADMIN_TOKEN: {said}"
    monkeypatch.delenv("HEADWATER_ROLLOUT__ADMIN_TOKEN")
    monkeypatch.delenv("HEADWATER_ROLLOUT__ADMIN_TOKEN_FILE")
    Path("headwater.toml").write_text(
        '[rollout]\nadmin_token = "hunter3"\nadmin_token_file = "secret"\n'
    )
    assert problem() == f"headwater.toml: rollout.admin_token: {said}"


def test_what_is_no_secret_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA__PARTITIONS_FILE", "secret")
    assert "unknown setting; did you mean partitions?" in problem()


def test_a_login_in_an_address_shows_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_WINDOWS__ADDRESS", "s3://KEY:hunter2@bucket/w")
    monkeypatch.setenv("HEADWATER_LOCAL__MAVEN_URL", "https://user:hunter2@maven/x")
    text = settings_text.toml(load_settings())
    assert "hunter2" not in text
    assert "s3://**********@bucket/w" in text
    monkeypatch.setenv("HEADWATER_STORE__ADDRESS", "rediss://user:hunter2@host:6379/0")
    assert "hunter2" not in problem()
    assert "hunter2" not in str(SettingsError("s3://KEY:hunter2@bucket: no such bucket"))


def test_every_section_is_frozen_and_closed() -> None:
    for name, field in Settings.model_fields.items():
        config = getattr(field.annotation, "model_config", None)
        assert config is None or (config["extra"], config["frozen"]) == ("forbid", True), name


def test_the_reference_is_that_of_the_code() -> None:
    committed = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"
    assert committed.read_text() == render_reference(Settings), (
        "run: uv run headwater config --reference > docs/reference/settings.md"
    )


def test_every_setting_says_what_it_is() -> None:
    for name, section in settings_text.sections(Settings):
        for setting, field in section.model_fields.items():
            assert field.description, f"{name}.{setting}"
            assert not field.description.endswith("."), f"{name}.{setting}"
