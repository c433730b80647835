"""The documents say what the program does: every name of the program is in them, every reference in them resolves."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import textwrap
import time
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from swarmd.api.native.messages import BootstrapAnswer
from swarmd.api.native.routes import ROUTES
from swarmd.api.reference import replaced
from swarmd.api.swarming.bots import EVENTS
from swarmd.api.swarming.context import FEATURES
from swarmd.api.swarming.manifest import Properties
from swarmd.api.swarming.routes import ROUTES as SWARMING_ROUTES
from swarmd.cli.group import COMMANDS
from swarmd.cli.swarming_bot import lines
from swarmd.config import Config
from swarmd.config_swarming import BotGroup, PoolRules, SwarmingConfig
from swarmd.core import features
from swarmd.core.model import AttemptState, TaskState

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
DOCUMENTS = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md")))
SOURCES = sorted((ROOT / "swarmd").rglob("*.py"))
# Documents that are written beside this one.
ELSEWHERE: set[str] = set()
FIRST = "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/swarmd demo"
SECOND = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest"


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def headings(path: Path) -> list[str]:
    """The headings of a document; those inside code are none."""
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [h.strip() for h in re.findall(r"^#+ (.+)$", prose, re.M)]


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def constants(path: Path, pattern: str) -> set[str]:
    """The string literals of a source file that match all of `pattern`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return {text for text in texts if re.fullmatch(pattern, text)}


# ------------------------------------------------------------------ the README's commands


def test_readme_has_the_two_commands_as_lines_of_their_own():
    lines = text_of("README.md").splitlines()
    assert lines.count(FIRST) == 1 and lines.count(SECOND) == 1


def test_ci_runs_the_second_command_as_it_stands_in_the_readme():
    script = ROOT / ".ci" / "run"
    pattern = re.search(r'grep -m 1 -E "(.+?)" README\.md', script.read_text(encoding="utf-8"))
    assert pattern is not None
    found = re.findall(pattern[1], text_of("README.md"), re.M)
    assert found == [SECOND]
    assert script.stat().st_mode & 0o111, ".ci/run cannot be executed"
    subprocess.run(["bash", "-n", str(script)], check=True)


# ------------------------------------------------------------------ links and references


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, fragment = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if str(file.relative_to(ROOT)) in ELSEWHERE and not file.exists():
            continue
        assert file.exists(), f"{path.name} links to {target}"
        if fragment:
            assert fragment in map(anchor, headings(file)), f"{path.name} links to {target}"


def test_references_in_the_source_resolve_to_headings():
    seen = 0
    for source in (*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "examples").glob("*"))):
        if source == Path(__file__) or not source.is_file():
            continue
        text = re.sub(r"\s*\n\s*(?:# )?", " ", source.read_text(encoding="utf-8"))
        for name, quoted in re.findall(r"(docs/[\w-]+\.md)((?:,? (?:and )?\"[^\"]{1,60}\")*)", text):
            assert (ROOT / name).exists() or name in ELSEWHERE, f"{source.name} names {name}"
            for heading in re.findall(r"\"([^\"]+)\"", quoted):
                seen += 1
                found = headings(ROOT / name)
                assert heading in found, f'{source.name} names {name}, "{heading}"; it has {found}'
    assert seen >= 10, "the pattern finds no references any more"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_quoted_sections_of_other_documents_resolve(path):
    for name, heading in re.findall(r"\[([\w-]+\.md), \"([^\"]+)\"\]", path.read_text(encoding="utf-8")):
        assert heading in headings(DOCS / name), f'{path.name} names {name}, "{heading}"'


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, *SOURCES, *sorted((ROOT / "examples").glob("*.*"))], ids=lambda path: path.name
)
def test_the_project_speaks_of_itself_alone(path):
    text = path.read_text(encoding="utf-8")
    for word in ("/" + "work/", "native" + ".md", "design" + ".md", "style" + ".md", "/tmp/" + "brief"):
        assert word not in text, f"{path} mentions {word}"


# ------------------------------------------------------------------ completeness


def test_the_reference_of_the_api_is_up_to_date():
    text = text_of("docs/http-api.md")
    assert text == replaced(text), "run: python -m swarmd.api.reference docs/http-api.md"


def test_every_route_is_in_the_reference():
    text = text_of("docs/http-api.md")
    for route in ROUTES:
        assert f"**`{route.method} {route.path}`**" in text


def test_every_state_is_in_the_glossary():
    text = text_of("docs/glossary.md")
    for state in (*TaskState, *AttemptState):
        assert f"| `{state.name}` |" in text


def test_every_reason_of_explain_is_in_the_api_document():
    reasons = set()
    for node in ast.walk(ast.parse(text_of("swarmd/core/explain.py"))):
        values = []
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "reason":
            values = [node.value]
        elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
            values = [node.elts[0]]
        reasons |= {v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)}
    codes = {reason for reason in reasons if re.fullmatch(r"[a-z]+(_[a-z]+)*", reason)}
    assert {"blocked", "no_bot_matches", "running"} <= codes
    text = text_of("docs/http-api.md")
    assert [code for code in sorted(codes) if f"| `{code}` |" not in text] == []


def test_every_kind_of_event_is_in_the_api_document():
    kinds = set(EVENTS.values())
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("emit", "bot_tells"):
                kinds |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    assert {"graph.done", "bot.task_error", "bot.log"} <= kinds
    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in text_of("docs/http-api.md")] == []


def test_every_setting_is_in_the_operating_document():
    text = text_of("docs/operating.md")
    assert [key for key in Config.__struct_fields__ if f"| `{key}` |" not in text] == []


def test_defaults_of_settings_are_as_documented():
    text = text_of("docs/operating.md")
    config = Config()
    for key in (
        "retention_days",
        "retention_gib",
        "session_deadline_s",
        "accept_s",
        "bot_back_s",
        "output_limit_mib",
    ):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{key}` |"))
        assert f"| `{getattr(config, key):g}` |" in row


SWARMING_TABLES = {
    SwarmingConfig: "Settings",
    BotGroup: "Bot groups",
    PoolRules: "Pools and modes",
    Properties: "Everything a manifest can say",
}


def rows_of(heading: str) -> dict[str, list[str]]:
    """The rows of the tables under a heading of docs/swarming.md, by the name in their first cell."""
    [section] = re.findall(rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)", text_of("docs/swarming.md"), re.M | re.S)
    rows = [
        re.split(r" *(?<!\\)\| *", line.strip("| "))
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return {row[0].strip("`"): row[1:] for row in rows}


@pytest.mark.parametrize("table", SWARMING_TABLES, ids=lambda table: table.__name__)
def test_every_setting_of_swarming_is_in_its_document_with_its_default(table):
    rows = rows_of(SWARMING_TABLES[table])
    assert list(rows) == list(table.__struct_fields__)
    for name, (default, about) in rows.items():
        value = getattr(table(), name)
        written = f"{value:g}" if isinstance(value, float) else msgspec.json.encode(value).decode()
        assert default == f"`{written}`", name
        assert about, name


def test_the_hook_that_shows_a_token_is_one_that_a_bot_takes(tmp_path):
    texts = re.findall(r"```python\n(.+?)```", text_of("docs/swarming.md"), re.S)
    [text] = [text for text in texts if "get_authentication_headers" in text]
    (tmp_path / "token").write_text("abc\n")
    code = textwrap.dedent(text).replace("/etc/swarming_token", str(tmp_path / "token"))
    space: dict[str, Any] = {}
    exec(compile(code, "docs/swarming.md", "exec"), space)
    headers, good_until = space["get_authentication_headers"](None)
    assert headers == {"Authorization": "Bearer abc"}
    assert good_until > time.time() + 570  # the bot asks anew for what is good for less than 9.5 minutes


def test_the_lines_that_start_a_swarming_bot_are_those_that_the_command_prints():
    told = BootstrapAnswer(
        url="http://lab.example:8710", token="t", expires_at="", digest="0" * 64, token_needed=False
    )
    [shown] = re.findall(r"```sh\n(.+?)```", text_of("docs/swarming.md"), re.S)
    assert shown.splitlines() == [line for line in lines(told, "lab-7") if not line.startswith("#")]


def test_every_route_of_swarming_is_in_its_document():
    assert SWARMING_ROUTES
    text = text_of("docs/swarming.md")
    missing = [
        f"{route.method} {route.path}"
        for route in SWARMING_ROUTES
        if f"`{route.method} {route.path}`" not in text
        and f"`…/{'/'.join(route.path.split('/')[-2:])}`" not in text
    ]
    assert missing == []


def test_every_module_of_swarming_is_in_its_document():
    modules = {path.name for path in (ROOT / "swarmd/api/swarming").glob("*.py")} - {"__init__.py"}
    assert len(modules) > 15
    names = {name for row in rows_of("For the maintainer") for name in row.split("`, `")}
    assert modules - names == set() and names - modules == set()


def test_what_swarming_bots_can_express_is_in_their_document():
    names = {value for name, value in vars(features).items() if name.isupper() and isinstance(value, str)}
    names = (names - {features.PAYLOAD}) | set(FEATURES)
    rows = {}
    for names_of_row, (_, can) in rows_of("What these bots can do").items():
        for name in re.split("`, `", names_of_row):
            rows[name] = can.partition(":")[0]
    assert {name: rows.get(name) for name in names} == {
        name: "yes" if name in FEATURES else "no" for name in names
    }


@pytest.mark.parametrize("name", ["serve", "bot"])
def test_every_option_and_variable_of_the_long_running_commands_is_in_the_operating_document(name):
    command = importlib.import_module(f"swarmd.cli.{name}").command
    context = command.make_context(name, [], resilient_parsing=True)
    rows = [line for line in text_of("docs/operating.md").splitlines() if line.startswith("|")]
    for parameter in command.params:
        assert isinstance(parameter, click.Option)
        option = f"`{parameter.opts[-1]}`"
        mine = [row for row in rows if option in row]
        assert mine, f"{name} {option} is not in docs/operating.md"
        if parameter.envvar:
            variable = parameter.envvar
        elif parameter.allow_from_autoenv:
            variable = f"{context.auto_envvar_prefix}_{parameter.name}".upper()
        else:
            continue
        assert any(f"`{variable}`" in row for row in mine), f"{variable} is not in the row of {option}"


def test_every_command_is_in_the_api_document():
    text = text_of("docs/http-api.md")
    assert [
        name for name, (_, about) in COMMANDS.items() if f"| `swarmd {name}` | {about} |" not in text
    ] == []


def test_every_metric_is_in_the_operating_document():
    metrics = constants(ROOT / "swarmd/api/native/metrics.py", r"swarmd_[a-z_]+")
    assert len(metrics) > 10
    text = text_of("docs/operating.md")
    assert [name for name in sorted(metrics) if f"`{name}" not in text] == []


def test_every_event_of_the_logs_is_in_the_operating_document():
    text, missing, seen = text_of("docs/operating.md"), [], 0
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = getattr(node.func.value, "id", "")
            if owner not in ("log", "events") or node.func.attr not in ("info", "warning", "error"):
                continue
            event = node.args[0]
            if isinstance(event, ast.Constant):
                seen += 1
                if f"`{event.value}`" not in text:
                    missing.append(event.value)
    assert seen > 20
    assert missing == []


def test_every_variable_of_a_task_is_in_the_api_document():
    variables = constants(ROOT / "swarmd/bot/environment.py", r"SWARMD_[A-Z_]+")
    text = text_of("docs/http-api.md")
    secrets = {"SWARMD_TOKEN", "SWARMD_TOKEN_FILE"}
    assert [name for name in sorted(variables - secrets) if f"`{name}`" not in text] == []


async def test_the_examples_of_the_test_harness_work(autojump_clock, tmp_path):
    from swarmd.testing import open_lab

    [code] = re.findall(r"```python\n(.+?)```", text_of("docs/testing.md"), re.S)
    space: dict[str, Any] = {}
    exec(compile(code, "docs/testing.md", "exec"), space)
    examples = [name for name in space if name.startswith("test_")]
    assert len(examples) == 2
    for name in examples:
        async with open_lab(tmp_path / f"{name}.db") as lab:
            await space[name](lab)


def test_every_folder_of_tests_is_in_the_document_about_them():
    text = text_of("docs/how-we-test.md")
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")} - {ROOT / "tests"}
    assert [f.name for f in sorted(folders) if f"`tests/{f.relative_to(ROOT / 'tests')}`" not in text] == []


def test_every_code_of_an_error_is_in_the_document_about_them():
    """Codes are the first argument of the core's and the store's errors, the second of the edge's."""
    place = {
        "Refused": 0,
        "Unknown": 0,
        "Conflict": 0,
        "NotYours": 0,
        "Busy": 0,
        "StoreError": 0,
        "Denied": 1,
        "Problem": 1,
    }
    codes = set()
    for source in SOURCES:
        if source.parent.name == "bot":
            continue  # its `Denied` is another one
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            number = place.get(getattr(getattr(node, "func", None), "id", ""))
            if isinstance(node, ast.Call) and number is not None and len(node.args) > number:
                code = node.args[number]
                if isinstance(code, ast.Constant) and isinstance(code.value, str):
                    codes.add(code.value)
    assert {"unknown_task", "stale_seq", "wrong_host", "no_space", "file_in_use"} <= codes
    if (DOCS / "errors.md").exists():
        text = text_of("docs/errors.md")
        assert [code for code in sorted(codes) if f"`{code}`" not in text] == []
