"""What a request for a task must be like: each rule at its limit, and one beyond it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.proto import tasks_pb2
from swarmd.api.swarming.services.requests import checked
from swarmd.api.swarming.services.rules import check, pool_of
from swarmd.core.dimensions import canonical
from swarmd.core.submitting import slice_key
from tests.api.swarming.prpc.messages import messages
from tests.api.swarming.services.rules_rows import (
    NOT_OFFERED,
    NOT_WELL_FORMED,
    ROWS,
    Change,
    D,
    Row,
    applied,
    both,
    caches,
    env,
    good,
    many,
    packages,
    prefixes,
    put,
    put_work,
    requiring,
    slices,
    tree,
)


def refusal(request: tasks_pb2.NewTaskRequest, cipd: bool = True) -> RpcError:
    with pytest.raises(RpcError) as refused:
        check(request, cipd=cipd)
    return refused.value


TABLE = [pytest.param(row, id=f"{part}: {row.rule}") for part, rows in ROWS.items() for row in rows]


@pytest.mark.parametrize("row", TABLE)
def test_a_rule_at_its_limit_and_beyond(row: Row):
    check(applied(row.within), cipd=True)
    error = refusal(applied(row.beyond))
    assert error.code is Code.INVALID_ARGUMENT
    assert error.message.startswith(f"bad request: {row.names}")
    assert "; " in error.message, "it does not say what to do"


@pytest.mark.parametrize("row", NOT_WELL_FORMED, ids=[row.rule for row in NOT_WELL_FORMED])
def test_what_is_not_offered_must_be_well_formed_too(row: Row):
    assert refusal(applied(row.within)).code is Code.FAILED_PRECONDITION
    error = refusal(applied(row.beyond))
    assert error.code is Code.INVALID_ARGUMENT
    assert error.message.startswith(f"bad request: {row.names}")


@pytest.mark.parametrize("change, says", NOT_OFFERED.values(), ids=list(NOT_OFFERED))
def test_what_is_not_here_is_said(change: Change, says: str):
    error = refusal(applied(change), cipd=False)
    assert error.code is Code.FAILED_PRECONDITION
    assert error.message.startswith(says) and "; " in error.message


@pytest.mark.parametrize("change, says", NOT_OFFERED.values(), ids=list(NOT_OFFERED))
def test_mistakes_are_told_before_what_is_not_here(change: Change, says: str):
    error = refusal(applied(both(change, put(priority=999))), cipd=False)
    assert (error.code, error.message) == (
        Code.INVALID_ARGUMENT,
        "bad request: priority: it is 999; give 1 to 255",
    )


def test_packages_are_for_bots_that_install_them():
    asked = applied(packages("p:x@1"))
    check(asked, cipd=True)
    check(applied(packages()), cipd=False)  # no package is asked for


def test_the_pool_is_found_before_all_else():
    assert pool_of(applied(put(priority=999, name="\0"))) == "lab"
    assert refusal(applied(both(put(priority=999), requiring(pool="")))).message.startswith(
        f"bad request: {D}: pool"
    )


LONG = "x" * 100_000
HUGE = {
    "pool": requiring(pool=f"pool={LONG}"), "pools": requiring(*many(400, "pool={}" + LONG)),
    "pools of slices": slices(requiring(pool="pool=a"), requiring(pool=f"pool={LONG}")), "key": requiring(f"{LONG}=v"),
    "value": requiring(f"k={LONG}"), "alternatives": requiring("k=" + "a|" * 100_000), "id": requiring(f"id={LONG}"),
    "twice": requiring(f"k={LONG}", f"k={LONG}"), "name": put(name=LONG), "tag": put(tags=[LONG]),
    "value of a tag": put(tags=[f"k:{LONG}"]), "realm": put(realm=LONG), "account": put(service_account=LONG),
    "parent": put(parent_task_id=LONG), "topic": put(pubsub_topic=LONG), "word": put_work(command=[LONG]),
    "path": put_work(outputs=[LONG]), "cwd": put_work(relative_cwd=LONG), "variable": env((LONG, "")),
    "its value": env(("a", LONG)), "prefix": prefixes((LONG, ["p"])), "cache": caches((LONG, "p")),
    "path of a cache": caches(("a", LONG)), "package": packages(f"p:{LONG}@1"), "version": packages(f"p:x@{LONG}"),
    "server": packages(server=LONG), "instance": tree(LONG), "secret": put_work(secret_bytes=LONG.encode()),
    "client": packages(client_package={"package_name": "a", "version": "b", "path": LONG}),
}  # fmt: skip


@pytest.mark.parametrize("change", HUGE.values(), ids=list(HUGE))
def test_a_refusal_is_short_whatever_was_sent(change: Change):
    error = refusal(applied(change))
    assert error.code is Code.INVALID_ARGUMENT and len(error.message) < 1_200


VALUES = st.sampled_from(["a", "b", "a|b", "b|a", "", " ", "a:b", "|", "x" * 257, "\n"]) | st.text(max_size=3)
KEYS = st.sampled_from(["pool", "id", "os", "gpu", "feature", "", "0", "k" * 65]) | st.text(max_size=3)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=6), st.integers(0, 40))
def test_what_is_accepted_the_core_accepts(pairs: list[tuple[str, str]], more: int):
    """The core refuses nothing later that was accepted here: dimensions that no bot could have above all."""
    change = put_work(
        dimensions=[{"key": k, "value": v} for k, v in (*pairs, *((f"m{n}", "v") for n in range(more)))]
    )
    try:
        found = checked(
            applied(change), caller="user:x", pool_realm="{}:default".format, parent=None, cipd=False
        )
    except RpcError as error:
        assert error.code is Code.INVALID_ARGUMENT and error.message.startswith("bad request: ")
        return
    (part,) = found.spec.slices
    assert slice_key(found.spec.work[0], part, found.spec.pool)
    listed: dict[str, list[str]] = {}
    for key, value in (*pairs, *((f"m{n}", "v") for n in range(more))):
        listed.setdefault(key, []).append(value)
    assert canonical(part.dimensions, found.spec.pool, ()) == canonical(listed, found.spec.pool, ())


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(messages(tasks_pb2.NewTaskRequest), st.sampled_from(["top", "slice", "properties"]), st.booleans())
def test_nothing_but_refusals_comes_out(drawn: tasks_pb2.NewTaskRequest, where: str, cipd: bool):
    """Of any request at all, and of a good one with parts of any other."""
    request = good()
    if where == "top":
        request = drawn
    elif where == "slice":
        request.MergeFrom(drawn)
    else:
        request.task_slices[0].properties.MergeFrom(drawn.properties)
    parent = request.parent_task_id
    request.ClearField("parent_task_id")
    try:
        checked(request, caller="user:x", pool_realm="{}:default".format, parent=None, cipd=cipd)
        request.parent_task_id = parent
        check(request, cipd=cipd)
    except RpcError as error:
        assert error.code in (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION)
