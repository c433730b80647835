"""The requirement language and its limits."""

from __future__ import annotations

import pytest

from swarmd.core.dimensions import (
    MAX_BOT_KEYS,
    MAX_BOT_VALUES,
    MAX_KEY,
    MAX_TASK_KEYS,
    MAX_TASK_VALUES,
    MAX_VALUE,
    as_text,
    canonical,
    check_bot,
    missing,
    values_of,
)
from swarmd.core.errors import Refused


def test_equal_requirements_have_one_form() -> None:
    one = canonical({"os": ["mac|linux"], "gpu": ["h200"]}, "default", ["noop"])
    other = canonical({"gpu": ["h200"], "os": ["linux|mac", "mac|linux|mac"]}, "default", ["noop", "noop"])
    assert one == other == (
        ("feature", ("noop",)), ("gpu", ("h200",)), ("os", ("linux", "mac")), ("pool", ("default",))
    )  # fmt: skip


def test_case_matters_and_there_are_no_wildcards() -> None:
    values = values_of({"os": ("Linux",)}, {})
    assert missing(canonical({"os": ["linux"]}, "", []), values) == [("os", ("linux",))]
    assert missing(canonical({"os": ["*"]}, "", []), values) == [("os", ("*",))]


@pytest.mark.parametrize(
    ("required", "lacks"),
    [
        ({}, []),
        ({"os": ["linux"]}, []),
        ({"os": ["mac|linux"]}, []),
        ({"os": ["mac"]}, ["os=mac"]),
        ({"gpu": ["a10", "h200"]}, []),
        ({"gpu": ["a10", "b300"]}, ["gpu=b300"]),
        ({"gpu": ["b300|c1"], "cpu": ["x"]}, ["cpu=x", "gpu=b300|c1"]),
    ],
)
def test_every_value_of_every_key_must_be_there(required: dict[str, list[str]], lacks: list[str]) -> None:
    values = values_of({"os": ("linux",), "gpu": ("a10", "h200")}, {})
    assert [as_text(r) for r in missing(canonical(required, "", []), values)] == lacks


def test_what_the_server_assigns_replaces_the_bots_own_values() -> None:
    values = values_of({"pool": ("mine",), "os": ("linux",)}, {"pool": ("lab",)})
    assert values == {"pool:lab", "os:linux"}


REFUSED_TASKS = {
    "too many keys": {f"k{n}": ["v"] for n in range(MAX_TASK_KEYS + 1)},
    "too many values": {"k": [f"v{n}" for n in range(MAX_TASK_VALUES + 1)]},
    "no value": {"k": []},
    "empty value": {"k": [""]},
    "empty alternative": {"k": ["a||b"]},
    "blank at the end": {"k": ["v "]},
    "not printable": {"k": ["a\nb"]},
    "long value": {"k": ["v" * (MAX_VALUE + 1)]},
    "long key": {"k" * (MAX_KEY + 1): ["v"]},
    "digit first": {"1k": ["v"]},
    "colon in key": {"a:b": ["v"]},
    "empty key": {"": ["v"]},
    "nine combinations": {"a": ["1|2|3"], "b": ["1|2|3"]},
    "two pools": {"pool": ["a", "b"]},
    "pool alternatives": {"pool": ["a|b"]},
    "id alternatives": {"id": ["a|b"]},
    "another pool": {"pool": ["lab"]},
    "feature": {"feature": ["noop"]},
}


@pytest.mark.parametrize("dimensions", REFUSED_TASKS.values(), ids=REFUSED_TASKS)
def test_what_no_bot_could_have_is_refused(dimensions: dict[str, list[str]]) -> None:
    with pytest.raises(Refused) as refused:
        canonical(dimensions, "default", [])
    assert refused.value.code == "bad_dimension"


class Whole(str):
    """A value that nobody takes apart."""

    def split(self, *_: object) -> list[str]:  # type: ignore[override]
        raise AssertionError("it was taken apart")


def test_millions_of_alternatives_are_refused_unseen() -> None:
    """They would hold up the daemon for seconds, for a request that is wrong at first sight."""
    with pytest.raises(Refused, match="has 9 alternatives"):
        canonical({"k": [Whole("a|b|c|d|e|f|g|h|i")]}, "default", [])
    canonical({"k": ["a|b|c|d|e|f|g|h"]}, "default", [])


@pytest.mark.parametrize("key", ["pool", "id"])
def test_a_refusal_is_short_whatever_was_sent(key: str) -> None:
    for values in (["x" * 100_000, "y"], ["x|" * 100_000], ["x" * 100_000]):
        with pytest.raises(Refused) as refused:
            canonical({key: values}, "default", [])
        assert len(refused.value.message) < 500


def test_the_limits_themselves_are_allowed() -> None:
    canonical({f"k{n}": ["v"] for n in range(MAX_TASK_KEYS)}, "default", [])
    canonical({"k": [f"v{n}" for n in range(MAX_TASK_VALUES)]}, "default", [])
    canonical({"k" * MAX_KEY: ["v" * MAX_VALUE]}, "default", [])
    canonical({"a": ["1|2"], "b": ["1|2"], "c": ["1|2"], "pool": ["default"]}, "default", [])


REFUSED_BOTS = {
    "too many keys": {f"k{n}": ["v"] for n in range(MAX_BOT_KEYS + 1)},
    "too many values": {"k": [f"v{n}" for n in range(MAX_BOT_VALUES + 1)]},
    "no value": {"k": []},
    "doubled value": {"k": ["a", "a"]},
    "alternatives": {"k": ["a|b"]},
    "another's id": {"id": ["other"]},
    "two ids": {"id": ["b", "c"]},
    "feature": {"feature": ["noop"]},
    "blank": {"k": [" a"]},
}


@pytest.mark.parametrize("dimensions", REFUSED_BOTS.values(), ids=REFUSED_BOTS)
def test_a_bot_with_impossible_dimensions_is_refused(dimensions: dict[str, list[str]]) -> None:
    with pytest.raises(Refused) as refused:
        check_bot("b", dimensions)
    assert refused.value.code == "bad_dimension"


def test_a_bot_has_its_id_and_the_default_pool() -> None:
    assert check_bot("b", {"os": ["linux"]}) == {"os": ("linux",), "id": ("b",), "pool": ("default",)}
    assert check_bot("b", {"id": ["b"], "pool": ["x", "y"]}) == {"id": ("b",), "pool": ("x", "y")}
