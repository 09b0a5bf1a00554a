"""The command: help that helps, faults that name their place, and exit codes that scripts can use."""

import json
from pathlib import Path
from time import time

import pytest
from click.testing import CliRunner, Result

from hubgate.cli import main
from hubgate.proxy.audit.writer import AuditWriter
from hubgate.proxy.auth.identity import fingerprint
from hubgate.proxy.metrics.registry import Metrics
from hubgate.wire.secret import Secret
from tests.cli.conftest import configured
from tests.fakes.keyring import Keyring

CANARY = "hf_canary_4711"


def run(*arguments: str | Path) -> Result:
    """What a user gets who types this."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def trail(folder: Path, *users: str) -> Path:
    """An audit trail that the configured proxy wrote."""
    configured(folder)
    path = folder / "audit.jsonl"
    key = Keyring.make(folder / "keys").proxy.derive("audit")
    written = AuditWriter(path, key, Metrics(), required=True, now=time)
    written.start()
    for user in users:
        written.record("request.done", {"user": user, "model": "demo/tiny", "reason": "ok"})
    written.close()
    return path


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize(
    "command",
    [
        (),
        ("proxy",),
        ("backend",),
        ("backend", "refresh"),
        ("check-config",),
        ("keygen",),
        ("certs",),
        ("certs", "make"),
        ("init",),
        ("probe",),
        ("fingerprint",),
        ("reload",),
        ("audit",),
        ("audit", "verify"),
    ],
)
def test_help(command: tuple[str, ...], flag: str) -> None:
    """Every command explains itself and exits 0."""
    found = run(*command, flag)
    assert found.exit_code == 0
    assert "Usage:" in found.output


def test_help_names_the_first_steps() -> None:
    """The help of the whole command shows what to type."""
    words = run("--help").output
    for step in ("make run", "hubgate init", "hubgate check-config", "hubgate proxy --config"):
        assert step.split()[0] in words
    for command in ("proxy", "backend", "check-config", "keygen", "audit"):
        assert command in words


def test_help_keeps_its_lines() -> None:
    """The examples stand on lines of their own, as they can be copied."""
    assert "hubgate check-config --config /etc/hubgate/proxy/proxy.yaml\n" in run("--help").output


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("proxy",),
        ("backend",),
        ("backend", "refresh"),
        ("check-config",),
        ("keygen", "sideways", "--out", "x"),
        ("keygen", "proxy"),
        ("keygen", "both", "--add", "--out", "x"),
        ("probe",),
        ("probe", "https://127.0.0.1/livez"),
        ("audit", "verify", "nowhere.jsonl"),
        ("--sideways",),
    ],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    """A mistake in typing exits 2."""
    assert run(*arguments).exit_code == 2


def test_refresh_needs_a_backend_that_runs(tmp_path: Path) -> None:
    """Nobody answers: 1, and where it was tried. No key: 2, as for any faulty configuration."""
    ring = Keyring.make(tmp_path / "keys")
    path = tmp_path / "backend.yaml"
    seal = {"key_file": str(ring.backend_private), "proxies_file": str(ring.proxy_public)}
    listen = {"host": "127.0.0.1", "port": 9}
    config = {"name": "gpu-0", "listen": listen, "seal": seal, "engines": {"on_demand": ["demo/*"]}}
    path.write_text(json.dumps(config))
    asked = run("backend", "refresh", "--config", path, "demo/base")
    assert (asked.exit_code, "http://127.0.0.1:9 cannot be asked" in asked.output) == (1, True)
    ring.backend_private.unlink()
    refused = run("backend", "refresh", "--config", path)
    assert (refused.exit_code, "seal.key_file" in refused.output) == (2, True)


def test_keygen_makes_both_halves(tmp_path: Path) -> None:
    """Private files are for their owner alone; a second time changes nothing."""
    for side in ("proxy", "backend"):
        found = run("keygen", side, "--out", tmp_path / "keys")
        assert found.exit_code == 0
        private, public = tmp_path / "keys" / f"hubgate_{side}.key", tmp_path / "keys" / f"hubgate_{side}.pub"
        assert str(private) in found.output
        assert str(public) in found.output
        assert private.stat().st_mode & 0o777 == 0o600
        secret = json.loads(private.read_text())["keys"][0]["d"]
        assert secret not in found.output
        again = run("keygen", side, "--out", tmp_path / "keys")
        assert (again.exit_code, again.output) == (0, found.output)
        assert json.loads(private.read_text())["keys"][0]["d"] == secret


def test_keygen_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A folder that cannot be made is an error in words."""
    (tmp_path / "file").write_text("")
    found = run("keygen", "proxy", "--out", tmp_path / "file" / "keys")
    assert found.exit_code == 1
    assert "Traceback" not in found.output


def test_check_config_of_a_good_file(tmp_path: Path) -> None:
    """A good configuration is fine, and checking it starts and writes nothing."""
    found = run("check-config", "--config", configured(tmp_path))
    assert (found.exit_code, found.output) == (0, f"{tmp_path / 'proxy.yaml'}: fine\n")
    assert not (tmp_path / "audit.jsonl").exists()


def test_check_config_tells_whose_the_names_are(tmp_path: Path) -> None:
    """Names that are kept for an account come with its id, in the words of the configuration."""
    one, other = "5f0c1d2e3b4a59687786a5b4", "0" * 24
    callers = {"users": ["alice", "bob", f"eve={one}"], "orgs": ["acme"]}
    config = configured(tmp_path, callers=callers)
    lines = [
        f'{{"kind":"user","name":"alice","id":"{one}","kept":true}}',
        f'{{"kind":"user","name":"bob","id":"{other}"}}',
        f'{{"kind":"org","name":"acme","id":"{other}","kept":true}}',
    ]
    (tmp_path / "audit.jsonl.names").write_text("".join(f"{line}\n" for line in lines))
    found = run("check-config", "--config", config)
    assert found.exit_code == 0
    assert f"  callers.users: alice={one}\n  callers.orgs: acme={other}\n" in found.output
    assert "bob" not in found.output


@pytest.mark.parametrize("command", ["check-config", "proxy"])
def test_damaged_names_are_a_fault(tmp_path: Path, command: str) -> None:
    """Whose the names in the configuration are is then not known: nothing starts."""
    (tmp_path / "audit.jsonl.names").write_text("?\n")
    found = run(command, "--config", configured(tmp_path))
    assert found.exit_code == 2
    assert "audit.jsonl.names: line 1 is damaged" in found.output


@pytest.mark.parametrize("command", ["check-config", "proxy"])
def test_every_fault_is_named(tmp_path: Path, command: str) -> None:
    """Several faults are told at once, each by its path and without its value; exit code 2."""
    path = configured(
        tmp_path,
        callers={},
        hub={"timeout": CANARY, "endpoint": f"http://alice:{CANARY}@hub"},
        limits={"storage": f"mysql://{CANARY}"},
        models={"allow": [CANARY]},
        surprise=CANARY,
    )
    found = run(command, "--config", path)
    assert found.exit_code == 2
    for where in ("callers", "hub.timeout", "hub.endpoint", "limits.storage", "models.allow.0", "surprise"):
        assert f"  {where}: " in found.output
    assert CANARY not in found.output


@pytest.mark.parametrize("command", ["check-config", "proxy"])
@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}\n"])
def test_an_empty_file_refuses_to_start(tmp_path: Path, command: str, text: str) -> None:
    """Empty means nothing is allowed, never everything."""
    path = tmp_path / "proxy.yaml"
    path.write_text(text)
    found = run(command, "--config", path)
    assert found.exit_code == 2
    for section in ("callers", "models", "upstreams", "seal"):
        assert f"  {section}: is missing" in found.output


@pytest.mark.parametrize("command", ["check-config", "proxy"])
def test_key_files_are_checked(tmp_path: Path, command: str) -> None:
    """Key files that are missing or swapped are faults of the configuration."""
    path = configured(tmp_path, seal={"key_file": str(tmp_path / "nowhere.key")})
    found = run(command, "--config", path)
    assert found.exit_code == 2
    assert "seal.key_file" in found.output
    assert "hubgate keygen" in found.output


def fingerprinted(folder: Path, text: str) -> Result:
    config = str(configured(folder))
    return CliRunner().invoke(main, ["fingerprint", "--config", config], input=text)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_fingerprint_of_a_leaked_token(tmp_path: Path, ending: str) -> None:
    """It is the one that the audit shows, read from standard input, and the token is not shown."""
    found = fingerprinted(tmp_path, CANARY + ending)
    assert found.exit_code == 0
    assert found.output.strip() == fingerprint(Keyring.make(tmp_path / "keys").proxy, Secret(CANARY))
    assert len(found.output.strip()) == 16
    assert CANARY not in found.output


@pytest.mark.parametrize(
    "text", ["", "\n", f"{CANARY}\n{CANARY}", f"token: {CANARY}", "hf_\x00", "hf_" + "a" * 600]
)
def test_what_is_no_token_has_no_fingerprint(tmp_path: Path, text: str) -> None:
    """A line that could be mistaken for a token ends in words, without showing what was given."""
    found = fingerprinted(tmp_path, text)
    assert found.exit_code == 2
    assert "holds no token" in found.output
    assert "hf_" not in found.output


def test_the_fingerprint_needs_the_key_file(tmp_path: Path) -> None:
    """Without the pepper in the proxy's key file there is none."""
    config = configured(tmp_path, seal={"key_file": str(tmp_path / "nowhere.key")})
    found = CliRunner().invoke(main, ["fingerprint", "--config", str(config)], input=CANARY)
    assert found.exit_code == 1
    assert CANARY not in found.output


def test_an_override_of_the_environment_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error in an override is a fault too."""
    monkeypatch.setenv("HUBGATE_HUBB__TIMEOUT", CANARY)
    found = run("check-config", "--config", configured(tmp_path))
    assert found.exit_code == 2
    assert "HUBGATE_HUBB__TIMEOUT" in found.output
    assert CANARY not in found.output


def test_a_whole_trail(tmp_path: Path) -> None:
    """A trail that nobody touched is whole; the configuration beside it is found."""
    found = run("audit", "verify", trail(tmp_path, "alice", "bob"))
    assert found.exit_code == 0
    assert "2 records, whole" in found.output
    assert (
        run("audit", "verify", tmp_path / "audit.jsonl", "--config", tmp_path / "proxy.yaml").exit_code == 0
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"alice"', b'"mallory"'), (b'"seq":2', b'"seq":3'), (b'"user":"bob"', b'"user":"b\x1bb"')],
)
def test_a_changed_trail(tmp_path: Path, old: bytes, new: bytes) -> None:
    """A trail that was changed is told so, line by line; exit code 1."""
    path = trail(tmp_path, "alice", "bob")
    path.write_bytes(path.read_bytes().replace(old, new))
    found = run("audit", "verify", path)
    assert found.exit_code == 1
    assert f"{path}: line " in found.output
    assert "whole" not in found.output
    assert "\x1b" not in found.output


def test_a_cut_trail(tmp_path: Path) -> None:
    """A trail whose end is gone is told so."""
    path = trail(tmp_path, "alice", "bob")
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    found = run("audit", "verify", path)
    assert found.exit_code == 1
    assert "its tail was cut" in found.output


def test_verify_without_its_configuration(tmp_path: Path) -> None:
    """Without the key nothing can be said, and that is said."""
    path = trail(tmp_path, "alice")
    (tmp_path / "proxy.yaml").unlink()
    assert run("audit", "verify", path).exit_code == 2


def test_report_sums_up(tmp_path: Path) -> None:
    """The report counts per user and per model."""
    found = run("audit", "report", trail(tmp_path, "alice", "alice", "bob"))
    assert found.exit_code == 0
    rows = [line.split() for line in found.output.splitlines()]
    assert any("alice" in row and "2" in row for row in rows)
    assert any("demo/tiny" in row and "3" in row for row in rows)


def test_report_counts_a_request_once(tmp_path: Path) -> None:
    """A long request has two lines and is one; the one that a killed proxy was at is unfinished."""
    path = trail(tmp_path)
    key = Keyring.make(tmp_path / "keys").proxy.derive("audit")
    written = AuditWriter(path, key, Metrics(), required=True, now=time)
    written.start()
    for number, event in (("1", "granted"), ("2", "granted"), ("1", "done")):
        written.record(f"request.{event}", {"request_id": number, "user": "alice", "reason": "ok"})
    written.close()
    rows = [line.split("│")[1:-1] for line in run("audit", "report", path).output.splitlines() if "│" in line]
    counts = {(name.strip(), reason.strip()): count.strip() for name, reason, count in rows}
    assert counts["alice", "ok"] == counts["alice", "unfinished"] == "1"


def test_report_counts_what_has_no_line(tmp_path: Path) -> None:
    """A record of refusals stands for as many as it says."""
    path = trail(tmp_path, "alice")
    key = Keyring.make(tmp_path / "keys").proxy.derive("audit")
    written = AuditWriter(path, key, Metrics(), required=True, now=time)
    written.start()
    for count in (7, 90):
        written.record("auth.refused", {"client": "192.0.2.1", "count": count})
    written.record("limits.refused", {"user": "alice", "sub": "a", "count": 31})
    written.close()
    found = run("audit", "report", path)
    rows = [line.split() for line in found.output.splitlines()]
    assert sum("auth.refused" in row and "97" in row for row in rows) == 2  # of no user, of no model
    assert any("alice" in row and "limits.refused" in row and "31" in row for row in rows)


@pytest.mark.parametrize("user", ["[/red]x", "[bold]x", "\x1b[2Jx"])
def test_report_of_hostile_names(tmp_path: Path, user: str) -> None:
    """A name can neither break the report nor command the terminal."""
    found = run("audit", "report", trail(tmp_path, user))
    assert found.exit_code == 0
    assert "\x1b" not in found.output
    assert user.strip("\x1b") in found.output


def shared(folder: Path) -> Path:
    """A folder in which three proxies with the same keys wrote their trails, beside the configuration."""
    configured(folder)
    for name, users in {
        "one.jsonl": ("alice", "bob"),
        "two.jsonl": ("alice",),
        "three.audit": ("bob",),
    }.items():
        path = folder / name
        key = Keyring.make(folder / "keys").proxy.derive("audit")
        written = AuditWriter(path, key, Metrics(), required=True, now=time)
        written.start()
        for user in users:
            written.record("request.done", {"user": user, "model": "demo/tiny", "reason": "ok"})
        written.close()
    (folder / "one.jsonl.names").write_text("")
    return folder


@pytest.mark.parametrize(
    ("named", "records"),
    [
        ((".",), [2, 1, 1]),
        (("*.jsonl",), [2, 1]),
        (("o*", "two.jsonl", "one.jsonl"), [2, 1]),
        (("t[w]o*",), [1]),
    ],
)
def test_trails_of_several_proxies(tmp_path: Path, named: tuple[str, ...], records: list[int]) -> None:
    """All in a folder, or what a pattern fits, each once; where there is no shell to expand it."""
    folder = shared(tmp_path)
    found = run("audit", "verify", *(folder / name for name in named))
    assert found.exit_code == 0, found.output
    said = sorted(found.output.splitlines())
    assert sorted(int(line.split(": ")[1].split()[0]) for line in said) == sorted(records)
    report = run("audit", "report", *(folder / name for name in named)).output
    assert sum(int(row.split("│")[3]) for row in report.splitlines() if "demo/tiny" in row) == sum(records)


def test_one_of_several_trails_that_was_changed(tmp_path: Path) -> None:
    """It is told by its name, as is one that is gone from beside its head; the others are looked at too."""
    folder = shared(tmp_path)
    (folder / "two.jsonl").write_bytes((folder / "two.jsonl").read_bytes().replace(b"alice", b"mallory"))
    (folder / "three.audit").unlink()
    found = run("audit", "verify", folder)
    assert found.exit_code == 1
    assert f"{folder / 'one.jsonl'}: 2 records, whole" in found.output
    assert f"{folder / 'two.jsonl'}: line 1: record 1 was changed" in found.output
    assert f"{folder / 'three.audit'}: No such file" in found.output


def test_where_there_is_no_trail(tmp_path: Path) -> None:
    """An empty folder and a pattern that fits nothing are wrong usage, not a whole trail."""
    for command in ("verify", "report"):
        for named in (tmp_path, tmp_path / "*.jsonl", tmp_path / "nowhere"):
            found = run("audit", command, named)
            assert (found.exit_code, "there is no audit trail" in found.output) == (2, True)
