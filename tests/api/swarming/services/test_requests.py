"""What is kept of a request for a task: the record that readers get, its tags, and what makes slices equal."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from swarmd.api.rpc import Code, RpcError
from swarmd.api.swarming.proto import tasks_pb2
from swarmd.api.swarming.prpc.codec import decoded
from swarmd.api.swarming.prpc.negotiation import Encoding
from swarmd.api.swarming.services.requests import (
    Checked,
    Parent,
    canonical_hash,
    checked,
    core_priority,
    swarming_priority,
)
from swarmd.core.model import OpId
from tests.api.swarming.prpc.golden import NEW_TASK, NEW_TASK_BINARY, REQUEST, TAGS
from tests.api.swarming.services.rules_rows import (
    Change,
    applied,
    both,
    caches,
    env,
    packages,
    prefixes,
    put,
    put_work,
    requiring,
    slices,
    without,
)

PARENT = Parent(OpId(7), "bob")


def checking(*changes: Change, **others) -> Checked:
    """The golden request with these changes, from a caller who shows nothing."""
    fixed = {
        "caller": "anonymous:anonymous",
        "pool_realm": "{}:default".format,
        "parent": None,
        "cipd": True,
    }
    return checked(applied(both(*changes)), **{**fixed, **others})


def pairs(given) -> list[tuple[str, str]]:
    return [(pair.key, pair.value) for pair in given]


# --------------------------------------------------------------------- the record


@pytest.mark.parametrize("encoding", ["binary", "json"])
def test_a_real_request_is_kept_as_a_real_server_keeps_it(encoding: str):
    bodies = {"binary": bytes.fromhex(NEW_TASK_BINARY), "json": json.dumps(NEW_TASK).encode()}
    request = decoded(tasks_pb2.NewTaskRequest, bodies[encoding], Encoding[encoding.upper()])
    before = request.SerializeToString()
    kept = checked(
        request, caller="anonymous:anonymous", pool_realm="{}:default".format, parent=None, cipd=False
    ).record
    wanted = {name: value for name, value in REQUEST.items() if name not in ("taskId", "createdTs")}
    assert json_format.MessageToDict(kept) == wanted
    assert kept.HasField("resultdb") and not kept.HasField("created_ts")
    assert request.SerializeToString() == before, "the request itself was changed"


def test_what_was_left_out_is_said():
    kept = checking(without("user", "tags"), put(priority=30)).record
    assert (kept.service_account, kept.realm, kept.user) == ("none", "lab:default", "")
    assert (kept.bot_ping_tolerance_secs, kept.priority, kept.rbe_instance) == (1200, 30, "")
    assert "user:none" in kept.tags and "priority:30" in kept.tags


def test_what_was_given_is_kept():
    kept = checking(
        put(service_account="ci@lab.example", realm="p:@root", bot_ping_tolerance_secs=60, priority=255)
    ).record
    assert (kept.service_account, kept.realm) == ("ci@lab.example", "p:@root")
    assert (kept.bot_ping_tolerance_secs, kept.priority) == (60, 255)
    assert {"service_account:ci@lab.example", "realm:p:@root", "priority:255"} <= set(kept.tags)


def test_a_pool_without_realm_needs_one():
    with pytest.raises(RpcError) as refused:
        checking(pool_realm=lambda pool: "")
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert (
        refused.value.message
        == "bad request: realm: task realm is required; give one: pool lab has no default"
    )
    assert checking(put(realm="p:r"), pool_realm=lambda pool: "").record.realm == "p:r"


def test_slices_are_kept_in_their_order_and_the_first_twice():
    asked = slices(
        both(requiring("os=Mac"), lambda request: setattr(request.task_slices[0], "expiration_secs", 30)),
        both(requiring("gpu=x"), lambda request: setattr(request.task_slices[0], "wait_for_capacity", True)),
    )
    kept = checking(asked).record
    assert kept.expiration_secs == 30 + 21600
    assert [one.expiration_secs for one in kept.task_slices] == [30, 21600]
    assert [one.wait_for_capacity for one in kept.task_slices] == [False, True]
    assert pairs(kept.task_slices[1].properties.dimensions) == [("gpu", "x"), ("pool", "lab")]
    assert kept.properties == kept.task_slices[0].properties


def test_pairs_are_kept_by_their_keys_and_all_else_in_its_order():
    kept = checking(
        requiring("os=b", "gpu=x", "os=a"), env(("B", "1"), ("A", "2")), prefixes(("Q", ["z", "a"]), ("P", ["x"])),
        put_work(command=["b", "a"]), caches(("b", "q"), ("a", "p")),
    ).record.properties  # fmt: skip
    assert pairs(kept.dimensions) == [("gpu", "x"), ("os", "a"), ("os", "b"), ("pool", "lab")]
    assert pairs(kept.env) == [("A", "2"), ("B", "1")]
    assert [(pair.key, list(pair.value)) for pair in kept.env_prefixes] == [("P", ["x"]), ("Q", ["z", "a"])]
    assert list(kept.command) == ["b", "a"]
    assert [cache.name for cache in kept.caches] == ["b", "a"]


def test_containment_is_shown_when_it_has_a_type():
    kept = checking(put_work(containment={"containment_type": 2, "limit_processes": 3})).record.properties
    assert (kept.containment.containment_type, kept.containment.limit_processes) == (2, 3)
    assert not checking(put_work(containment={"lower_priority": True})).record.properties.HasField(
        "containment"
    )


def test_packages_are_shown_when_some_are_asked_for():
    assert not checking(packages(server="https://x")).record.properties.HasField("cipd_input")
    asked = checking(packages("p:x@1")).record.properties.cipd_input
    assert asked.server == "https://chrome-infra-packages.appspot.com"  # the bot's runner wants to be told
    assert (asked.client_package.package_name, asked.client_package.version) == (
        "infra/tools/cipd/${platform}",
        "latest",
    )
    client = {"package_name": "mine", "version": "2"}
    asked = checking(
        packages("p:x@1", server="https://y", client_package=client)
    ).record.properties.cipd_input
    assert (asked.server, asked.client_package.package_name) == ("https://y", "mine")


def test_fields_that_nobody_knows_are_not_kept():
    request = applied(put())
    request.task_slices[0].properties.MergeFromString(bytes.fromhex("fa3f04") + b"new!")  # field 1023
    kept = checked(request, caller="user:x", pool_realm="{}:r".format, parent=None, cipd=False).record
    assert b"new!" in request.SerializeToString() and b"new!" not in kept.SerializeToString()


@given(st.binary(min_size=12, max_size=64), st.booleans())
def test_a_secret_is_in_nothing_that_readers_get(secret: bytes, in_both: bool):
    both_slices = slices(
        both(put_work(secret_bytes=secret), requiring("n=1")),
        both(put_work(secret_bytes=secret) if in_both else put(), requiring("n=2")),
    )
    found = checking(both_slices, put_work(idempotent=True))
    shown = found.record.SerializeToString() + json_format.MessageToJson(found.record).encode()
    shown += repr((found.hashes, found.spec.tags, found.spec.slices, found.spec.name)).encode()
    assert secret not in shown and base64.b64encode(secret) not in shown
    assert [one.properties.secret_bytes for one in found.record.task_slices] == [
        b"<REDACTED>", b"<REDACTED>" if in_both else b"",
    ]  # fmt: skip
    assert found.record.properties.secret_bytes == b"<REDACTED>"


def test_where_there_is_no_secret_none_is_shown():
    assert checking().record.properties.secret_bytes == b""


# --------------------------------------------------------------------- tags


def test_tags_of_a_request():
    assert list(checking().record.tags) == TAGS
    assert checking().spec.tags == tuple(TAGS)


def test_tags_tell_the_caller_each_dimension_and_the_parent():
    asked = both(
        slices(requiring("os=Linux|Mac", "gpu=a", "gpu=b"), requiring("os=Mac", "site=x:y")),
        put(parent_task_id="7b24c0ea00abcd11", user="alice", tags=["os:Mac", "a:b"]),
    )
    tags = checking(asked, caller="user:carol@lab.example", parent=PARENT).record.tags
    assert list(tags) == [
        "a:b", "authenticated:user:carol@lab.example", "gpu:a", "gpu:b", "os:Linux", "os:Mac",
        "parent_task_id:7b24c0ea00abcd11", "pool:lab", "priority:200", "purpose:smoke", "realm:lab:default",
        "service_account:none", "site:x:y", "swarming.pool.task_template:none", "swarming.pool.version:1", "user:bob",
    ]  # fmt: skip


def test_a_child_is_its_parents_users():
    found = checking(put(parent_task_id="7b24c0ea00abcd11", user="alice"), parent=PARENT)
    assert (found.record.user, found.record.parent_task_id) == ("bob", "7b24c0ea00abcd11")
    assert found.spec.parent == PARENT.op
    nobody = checking(put(parent_task_id="7b24c0ea00abcd11"), parent=Parent(OpId(7), ""))
    assert nobody.record.user == "" and "user:none" in nobody.record.tags


# --------------------------------------------------------------------- priority


@pytest.mark.parametrize("asked, kept", [(1, 20), (19, 20), (20, 20), (21, 21), (255, 255)])
def test_what_is_too_urgent_is_made_less_so_and_nothing_is_said(asked: int, kept: int):
    found = checking(put(priority=asked))
    assert (found.record.priority, found.spec.priority) == (kept, kept - 200)
    assert f"priority:{kept}" in found.record.tags
    assert kept == asked or f"priority:{asked}" not in found.record.tags


def test_priorities_of_both_sides():
    assert core_priority(200) == 0
    assert [swarming_priority(core_priority(n)) for n in range(256)] == list(range(256))
    assert (swarming_priority(-1_000_000), swarming_priority(1_000_000)) == (0, 255)
    assert (swarming_priority(-201), swarming_priority(56)) == (0, 255)


# --------------------------------------------------------------------- which slices are equal


def hashed(*changes: Change) -> str:
    (found,) = checking(put_work(idempotent=True), *changes).hashes
    assert found is not None
    return found


IN = {
    "relative_cwd": put_work(relative_cwd="x"),
    "execution_timeout": put_work(execution_timeout_secs=3601),
    "io_timeout": put_work(io_timeout_secs=0),
    "grace_period": put_work(grace_period_secs=31),
    "command": put_work(command=["/bin/sh", "-c", "echo ho"]),
    "order of the command": put_work(command=["-c", "/bin/sh", "echo hi"]),
    "one word or two": put_work(command=["/bin/sh", "-c echo hi"]),
    "outputs": put_work(outputs=["x"]),
    "env": env(("FOO", "baz")),
    "more env": env(("FOO", "bar"), ("BAR", "")),
    "env_prefixes": prefixes(("P", ["a", "b"])),
    "order of env_prefixes": prefixes(("P", ["b", "a"])),
    "dimensions": requiring("os=Mac"),
    "alternatives": requiring("os=Linux|Mac"),
    "caches": caches(("a", "p")),
    "path of a cache": caches(("a", "q")),
    "packages": packages("p:x@a:1", idempotent=True),
    "version of a package": packages("p:x@a:2", idempotent=True),
    "CIPD server": packages("p:x@a:1", idempotent=True, server="https://x"),
    "CIPD client": packages("p:x@a:1", idempotent=True, client_package={"package_name": "c", "version": "1"}),
    "containment": put_work(containment={"containment_type": 2}),
    "its limits": put_work(containment={"containment_type": 2, "limit_processes": 1}),
    "its memory": put_work(containment={"containment_type": 2, "limit_total_committed_memory": 1}),
    "its priority": put_work(containment={"containment_type": 2, "lower_priority": True}),
    "secret": put_work(secret_bytes=b"x"),
    "another secret": put_work(secret_bytes=b"y"),
}


def test_all_that_decides_what_a_run_comes_to_makes_slices_different():
    found = {name: hashed(change) for name, change in IN.items()}
    found["as it is"] = hashed()
    assert len(set(found.values())) == len(found)
    assert all(len(value) == 64 and int(value, 16) >= 0 for value in found.values())


def test_a_tree_in_cas_makes_slices_different_too():
    """No request that names one is accepted yet."""
    properties = applied(put()).task_slices[0].properties
    seen = {canonical_hash(properties)}
    for instance, digest, size in (("i", "a", 1), ("j", "a", 1), ("i", "b", 1), ("i", "a", 2)):
        properties.cas_input_root.cas_instance = instance
        properties.cas_input_root.digest.hash, properties.cas_input_root.digest.size_bytes = digest, size
        seen.add(canonical_hash(properties))
    assert len(seen) == 5


OUT = {
    "name": put(name="other"), "tags": put(tags=["x:y"]), "user": put(user="bob"), "priority": put(priority=30),
    "expiration": lambda request: setattr(request.task_slices[0], "expiration_secs", 60),
    "capacity": lambda request: setattr(request.task_slices[0], "wait_for_capacity", True),
    "service account": put(service_account="bot"), "realm": put(realm="p:r"), "uuid": put(request_uuid="x"),
    "ping tolerance": put(bot_ping_tolerance_secs=60),
}  # fmt: skip


@pytest.mark.parametrize("change", OUT.values(), ids=list(OUT))
def test_what_is_not_of_the_run_makes_no_difference(change: Change):
    assert hashed(change) == hashed()


def test_the_hash_is_of_this_form():
    """It is kept for days: another form would find none of those that were kept. Change its number with it."""
    assert hashed() == "62fc52066e19609d0130e6d31b9b958585eba5785105860002fd7d6abd85a087"


SETS: dict[str, tuple[Callable[..., Change], list]] = {
    "outputs": (lambda *each: put_work(outputs=each), ["a", "b", "c/d"]),
    "env": (env, [("A", "1"), ("B", ""), ("C", "1")]),
    "env_prefixes": (prefixes, [("A", ["x", "y"]), ("B", ["x"]), ("C", ["z"])]),
    "dimensions": (requiring, ["os=a|b", "os=c", "gpu=x"]),
    "caches": (caches, [("a", "p"), ("b", "q"), ("c", "r")]),
    "packages": (lambda *each: packages(*each, idempotent=True), ["p:x@a:1", "q:x@a:1", "p:y@a:1"]),
}


@given(st.sampled_from(sorted(SETS)), st.data())
def test_order_counts_only_where_it_matters(name: str, data: st.DataObject):
    make, items = SETS[name]
    shuffled = data.draw(st.permutations(items))
    assert hashed(make(*shuffled)) == hashed(make(*items))
    fewer = data.draw(st.lists(st.sampled_from(items), max_size=2, unique_by=str))
    assert hashed(make(*fewer)) != hashed(make(*items))


def test_the_order_of_alternatives_does_not_matter():
    assert hashed(requiring("os=a|b")) == hashed(requiring("os=b|a"))


def test_each_slice_has_its_own_hash_or_none():
    found = checking(
        slices(requiring("n=1"), both(requiring("n=2"), put_work(idempotent=True)), requiring("n=3"))
    ).hashes
    assert found[0] is None and found[2] is None and isinstance(found[1], str)
