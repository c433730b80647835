"""The examples work, with a real daemon and real bots, and are as small as they say."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RUN_S = 120.0
MAX_TINY_LINES = 60


def test_every_example_does_what_it_should():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SWARMD_")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "run_all.py")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_S, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for example in EXAMPLES.iterdir():
        if example.is_file() and example.name != "run_all.py":
            assert f"{example.name}: as expected" in done.stdout


def test_the_tiny_bot_is_tiny_and_needs_nothing():
    source = (EXAMPLES / "tiny_bot.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    texts = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    lines = [
        line
        for number, line in enumerate(source.splitlines(), 1)
        if number not in texts and line.strip() and not line.strip().startswith("#")
    ]
    assert len(lines) <= MAX_TINY_LINES
    imported = {
        alias.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
    }
    assert imported <= sys.stdlib_module_names


def test_every_example_says_what_it_is():
    for example in EXAMPLES.iterdir():
        if example.is_file():
            lines = example.read_text(encoding="utf-8").splitlines()
            first = lines[1] if lines[0].startswith("#!") else lines[0]
            assert first.startswith(("# ", '"""')), f"{example.name} has no header"
