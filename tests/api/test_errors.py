"""docs/errors.md has a section for every error code that swarmd can give, and for no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.api.test_bad_input import ROWS

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "errors.md"
# Which argument of a call is the code.
PLACES = {
    "Refused": 0, "Unknown": 0, "Conflict": 0, "NotYours": 0, "Busy": 0, "StoreError": 0, "Denied": 1, "Problem": 1,
    "ConfigError": 2,
}  # fmt: skip
ID_CALLS = {"id_of": 1, "ids_of": 1, "id_param": 1}  # the kind of an id: the code is unknown_<kind>
DEFAULTS = {"bad_config", "store_broken"}  # of ConfigError and StoreBroken, given in their classes


def _texts(node: ast.expr | None) -> list[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    return []


def raised_codes() -> set[str]:
    """Every code that is written in swarmd's source where an error is made."""
    found = set(DEFAULTS)
    for path in sorted((ROOT / "swarmd").rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
            place = PLACES.get(name)
            if place is not None and len(node.args) > place:
                found.update(_texts(node.args[place]))
            if name in ID_CALLS and len(node.args) > ID_CALLS[name]:
                found.update(f"unknown_{kind}" for kind in _texts(node.args[ID_CALLS[name]]))
        # Codes that stand in a table, such as `("not_readable", …)` in a loop, are named in the docstring.
        if path.name == "errors.py" and path.parent.name == "store":
            text = ast.get_docstring(next(n for n in tree.body if isinstance(n, ast.ClassDef))) or ""
            found.update(re.findall(r"`([a-z]+_[a-z_]+)`", text))
    return found


def sections() -> dict[str, str]:
    parts = re.split(r"^### `([a-z_]+)`\n", DOCUMENT.read_text(), flags=re.MULTILINE)
    names = parts[1::2]
    assert len(names) == len(set(names)), "a code has two sections"
    return dict(zip(names, parts[2::2], strict=True))


def test_every_code_has_a_section_and_every_section_a_code():
    assert set(sections()) == raised_codes()


def test_the_sections_are_in_order_of_the_alphabet():
    assert list(sections()) == sorted(sections())


@pytest.mark.parametrize("code", sorted(raised_codes()))
def test_a_section_says_what_was_sent_what_comes_and_what_to_do(code):
    text = sections()[code]
    for part in ("You send", "You get", "Do"):
        assert re.search(rf"^{part}: \S", text, re.MULTILINE), f"{code} lacks '{part}:'"


def test_the_status_in_a_section_is_the_one_that_is_sent():
    text = sections()
    for name, row in ROWS.items():
        assert f"{row.status}" in re.findall(r"\b\d{3}\b", text[row.code].split("Do:")[0]), (name, row.code)


def test_each_code_that_a_request_alone_can_cause_has_a_row():
    """The others need a state of the world, a file or a setting, and have tests of their own."""
    elsewhere = {
        # tests/api/test_edge.py
        "wrong_host", "bad_host", "token_needed", "stopping", "internal",
        # tests/api/test_bad_input.py, below the table
        "body_too_slow", "request_id_reused",
        # tests/api/test_budget.py
        "too_many_large_requests",
        # tests/api/test_output_commit.py
        "no_space", "store_broken",
        # tests/api/test_rare.py
        "busy", "cut_off", "bot_dead", "too_many_bots", "blob_missing", "bad_slices", "size_mismatch",
        # tests/api/swarming/test_bootstrap.py
        "bad_bootstrap_token",
        # tests/api/swarming/test_accounts.py, test_token_command.py
        "bad_account", "wrong_task", "token_denied", "token_unavailable",
        # files and settings: tests/daemon/test_main.py, tests/store
        "bad_config", "unknown_key", "unprotected", "token_exposed", "not_a_file", "folder_missing", "not_readable",
        "not_writable", "not_swarmd", "damaged_file", "newer_file", "older_file", "file_in_use", "lock_failed",
        "no_wal",
        "no_space_for_copy", "copy_failed", "migration_failed", "target_exists", "target_unusable",
    }  # fmt: skip
    assert raised_codes() - {row.code for row in ROWS.values()} <= elsewhere
