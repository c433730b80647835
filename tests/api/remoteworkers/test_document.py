"""docs/remoteworkers.md says what the package does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarmd.api.remoteworkers import insight, payloads
from swarmd.api.remoteworkers.context import features as features_of
from swarmd.api.rpc import Code
from swarmd.config import Config
from swarmd.config_remoteworkers import InstanceRules, RemoteWorkersConfig
from swarmd.core import features

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/remoteworkers.md").read_text(encoding="utf-8")


def rows_of(heading: str) -> dict[str, list[str]]:
    """The rows of the tables under a heading, by what is in their first cell."""
    [section] = re.findall(rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)", TEXT, re.M | re.S)
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    rows = [[cell.strip() for cell in line.strip("| ").split(" |")] for line in lines]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.parametrize(
    ("table", "heading"), [(RemoteWorkersConfig, "Settings"), (InstanceRules, "Rules of an instance")]
)
def test_every_setting_is_there_with_its_default(table: Any, heading: str):
    rows = {name.strip("`"): row for name, row in rows_of(heading).items() if name.startswith("`")}
    assert list(rows) == list(table.__struct_fields__)
    for name, (default, about) in rows.items():
        value = getattr(table(), name)
        if name == "instances":
            value = {key: {} for key, rules in value.items() if rules == InstanceRules()}
        written = f"{value:g}" if isinstance(value, float) else msgspec.json.encode(value).decode()
        assert default == f"`{written}`", name
        assert about


def test_every_feature_is_there():
    known = {value for name, value in vars(features).items() if name.isupper() and isinstance(value, str)}
    can = set(features_of(InstanceRules()))
    rows: dict[str, str] = {}
    for names, (_, what) in rows_of("What these bots can do").items():
        rows |= {name: what.partition(":")[0] for name in re.findall(r"`([^`]+)`", names)}
    assert rows.pop("payload.TYPE_URL") == "with the type URL in `payloads`"
    known.remove(features.PAYLOAD)
    assert {name for name, what in rows.items() if what.startswith("with")} == can
    assert {name for name, what in rows.items() if what == "no"} == known - can


def test_every_module_is_there():
    modules = {path.name for path in (ROOT / "swarmd/api/remoteworkers").glob("*.py")} - {"__init__.py"}
    named = {name for row in rows_of("For the maintainer") for name in re.findall(r"`([^`]+)`", row)}
    assert modules == named


def test_every_status_of_a_lease_is_there():
    ends = " ".join(rows_of("What each end becomes"))
    for code in (*payloads.RETRIED, *payloads.NOT_RUNNABLE, Code.DEADLINE_EXCEEDED):
        assert code.name in ends


def test_every_metric_is_there_and_in_the_operating_document():
    source = Path(insight.__file__).read_text(encoding="utf-8")
    operating = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    metrics = set(re.findall(r'"(swarmd_[a-z_]+)"', source))
    assert len(metrics) == 3
    for name in metrics:
        assert f"`{name}{{" in TEXT and f"`{name}{{" in operating


def test_the_configurations_in_it_can_be_used():
    import tomllib

    for text in re.findall(r"```toml\n(.+?)```", TEXT, re.S):
        msgspec.convert(tomllib.loads(text), Config, strict=True)
