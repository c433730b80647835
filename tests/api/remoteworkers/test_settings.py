"""The table `[remoteworkers]`: what cannot be is refused in words that help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarmd.cli.options import ServeOptions
from swarmd.config import Config, ConfigError, config_of
from swarmd.config_remoteworkers import InstanceRules, RemoteWorkersConfig


def read(tmp_path: Path, text: str) -> RemoteWorkersConfig:
    path = tmp_path / "swarmd.toml"
    path.write_text(text)
    return config_of(ServeOptions(config=str(path))).remoteworkers


def test_by_default_there_is_one_instance_without_a_name():
    assert Config().remoteworkers.instances == {"": InstanceRules()}


def test_instances_are_read(tmp_path):
    found = read(
        tmp_path,
        """
        [remoteworkers]
        keep_alive_s = 60
        [remoteworkers.instances."lab/east"]
        pools = ["a", "b"]
        leases = "pending"
        payloads = ["command", "type.googleapis.com/x.Y"]
        property_sets = [{ OSFamily = ["linux"] }]
        [remoteworkers.instances."*"]
        """,
    )
    assert found.keep_alive_s == 60
    east = found.rules("lab/east")
    assert east is not None and (east.pools, east.leases) == (("a", "b"), "pending")
    assert found.rules("") is None
    every = found.rules("*")
    assert every is not None and every.pools == ("a", "b") and every.leases == "active"


def test_an_instance_for_all_that_is_alone_has_its_own_pools():
    config = RemoteWorkersConfig(instances={"*": InstanceRules(pools=("p",))})
    assert config.rules("*") == InstanceRules(pools=("p",))


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("keep_alive_s = 0", "remoteworkers.keep_alive_s is 0.0", "give 1 to 86400"),
        ("hold_s = -1", "remoteworkers.hold_s is -1.0", "give 0 to 86400"),
        ("assumed_deadline_s = nan", "remoteworkers.assumed_deadline_s is nan", "give 1 to 86400"),
        ("instances = {}", "remoteworkers.instances is empty", 'name one; "" is the one without a name'),
        ("instances = { x = { pools = [] } }", "remoteworkers.instances.x.pools is []", "name pools"),
        ('instances = { "" = { pools = ["a", "a"] } }', 'remoteworkers.instances."".pools is', "name pools"),
        ('instances = { x = { pools = ["a|b"] } }', "remoteworkers.instances.x.pools is ['a|b']", "name pools"),
        ("instances = { x = { payloads = [] } }", "remoteworkers.instances.x.payloads is []", 'give "command"'),
        ('instances = { x = { payloads = [""] } }', "remoteworkers.instances.x.payloads is ['']", 'give "command"'),
        ('instances = { "a/" = {} }', "remoteworkers.instances.a/ begins or ends with '/'", "leave it out"),
        ('instances = { "/a" = {} }', "remoteworkers.instances./a begins or ends with '/'", "leave it out"),
        ('instances = { " a" = {} }', "'remoteworkers.instances. a' is no name of an instance", "give at most 200"),
        ('instances = { x = { payloads = ["Action"] } }', "remoteworkers.instances.x.payloads is ['Action']", "give"),
        ('instances = { x = { leases = "PENDING" } }', "remoteworkers.instances.x.leases is 'PENDING'", "give"),
        ("instances = { x = { leases = 1 } }", "remoteworkers.instances[...].leases: Expected", "docs/remote"),
        ("instances = { x = { pool = [] } }", "remoteworkers.instances[...] has an unknown key 'pool'", "docs/"),
        ("no_such = 1", "remoteworkers has an unknown key 'no_such'", "docs/remoteworkers.md"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path, text: str, message: str, remedy: str):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"[remoteworkers]\n{text}\n")
    assert message in caught.value.message and caught.value.remedy.startswith(remedy), caught.value


@pytest.mark.parametrize("value", ["1", '"x"', "[]"])
def test_it_is_a_table(tmp_path, value: Any):
    with pytest.raises(ConfigError, match="remoteworkers must be a table"):
        read(tmp_path, f"remoteworkers = {value}\n")
