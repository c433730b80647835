"""What starting costs and shows: imports, help, version, options of `serve` and `bot`."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import swarmd
from swarmd.cli import main
from swarmd.cli.group import COMMANDS
from swarmd.cli.options import BotOptions, ServeOptions


def imported_by(code):
    script = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("code", "not_imported"),
    [
        ("from swarmd.cli import main; main(['--help'])", {"trio", "quart", "rich", "msgspec", "h11"}),
        ("from swarmd.cli import main; main(['submit', '--help'])", {"trio", "quart", "rich", "h11"}),
        (
            "from swarmd.cli import main; main(['tasks', '--server', 'http://127.0.0.1:1'])",
            {"quart", "hypercorn", "rich"},
        ),
        ("import swarmd.client", {"quart", "hypercorn", "rich", "click"}),
        ("import swarmd.daemon.main, swarmd.api.app, swarmd.api.swarming.accounts", {"jwt", "cryptography"}),
        ("import swarmd.cli.options", {"trio", "click", "msgspec"}),
    ],
)
def test_imports(code, not_imported):
    assert imported_by(code) & not_imported == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_starts_as_its_line_does(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"swarmd {name}" in out and "--help" in out


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"swarmd {swarmd.__version__}\n"
    assert main([]) == 2


def pretend(monkeypatch, module, name, value):
    """Puts a function into a module that another part of the program brings."""
    fake = types.ModuleType(module)
    setattr(fake, name, value)
    monkeypatch.setitem(sys.modules, module, fake)


def test_serve_options(monkeypatch):
    got = []
    pretend(monkeypatch, "swarmd.daemon.main", "serve_from_options", lambda options: got.append(options) or 7)
    for name in ("SWARMD_DB", "SWARMD_LISTEN", "SWARMD_UNIX", "SWARMD_CONFIG", "SWARMD_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["serve"]) == 7
    assert got.pop() == ServeOptions()
    monkeypatch.setenv("SWARMD_DB", "/env.db")
    monkeypatch.setenv("SWARMD_LISTEN", "a:1 b:2")
    monkeypatch.setenv("SWARMD_RETENTION_DAYS", "3")
    assert (
        main(
            [
                "serve",
                "--db",
                "/flag.db",
                "--allow-network",
                "10.0.0.0/8",
                "--durability=process",
                "--log-format=json",
            ]
        )
        == 7
    )
    assert got.pop() == ServeOptions(
        db="/flag.db", listen=["a:1", "b:2"], allow_network=["10.0.0.0/8"], durability="process", log_format="json",
        retention_days=3.0,
    )  # fmt: skip


def test_bot_options(monkeypatch):
    got = []
    pretend(monkeypatch, "swarmd.bot.main", "run_bot_from_options", lambda options: got.append(options) or 0)
    monkeypatch.setenv("SWARMD_URL", "unix:/s")
    monkeypatch.setenv("SWARMD_BOT_ID", "the bot that runs this task")
    monkeypatch.setenv("SWARMD_BOT_SLOTS", "4")
    assert (
        main(["bot", "-d", "a=b", "-d", "c=d|e", "--pass-env=HOME", "--cache-mib=0", "--log-level=debug"])
        == 0
    )
    assert got.pop() == BotOptions(
        server="unix:/s",
        slots=4,
        dimensions=["a=b", "c=d|e"],
        pass_env=["HOME"],
        cache_mib=0,
        log_level="debug",
    )


def test_check_names_faults(monkeypatch, tmp_path, capsys):
    fault = types.SimpleNamespace(name="orphan", sentence="a chunk\nwithout an attempt")
    answers = [[], [fault], [fault]]
    pretend(monkeypatch, "swarmd.store.check", "check_file", lambda path: answers.pop(0))
    (tmp_path / "db").write_bytes(b"")
    for flags, code, out in (
        ([], 0, f"{tmp_path}/db: no faults\n"),
        ([], 1, "orphan: a chunk without an attempt\n"),
        (["--json"], 1, '{"name":"orphan","sentence":"a chunk\\nwithout an attempt"}\n'),
    ):
        assert main(["check", "--db", f"{tmp_path}/db", *flags]) == code
        assert capsys.readouterr().out == out
    assert main(["check", "--db", f"{tmp_path}/none"]) == 1


def test_openapi_needs_no_daemon(monkeypatch, capsys):
    pretend(monkeypatch, "swarmd.api.openapi", "document", lambda: {"openapi": "3.1.0"})
    assert main(["openapi"]) == 0
    assert capsys.readouterr().out == '{\n  "openapi": "3.1.0"\n}\n'
