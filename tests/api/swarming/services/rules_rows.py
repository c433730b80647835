"""The rules as a table: for each a change of a good request that it allows, and one that it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from swarmd.api.swarming.proto import tasks_pb2
from tests.api.swarming.prpc.golden import NEW_TASK_BINARY

Change = Callable[[tasks_pb2.NewTaskRequest], object]
P = "task_slices[0].properties"


def good() -> tasks_pb2.NewTaskRequest:
    """A request as the command sends it."""
    return tasks_pb2.NewTaskRequest.FromString(bytes.fromhex(NEW_TASK_BINARY))


class Row(NamedTuple):
    """A rule: a change that it allows, one that it does not, and what the refusal names."""

    rule: str
    within: Change
    beyond: Change
    names: str


# --------------------------------------------------------------------- changes


def put(**fields) -> Change:
    """Sets fields of the request."""
    return lambda request: request.MergeFrom(tasks_pb2.NewTaskRequest(**fields))


def put_slice(**fields) -> Change:
    """Sets fields of its slice."""
    return lambda request: request.task_slices[0].MergeFrom(tasks_pb2.TaskSlice(**fields))


def put_work(**fields) -> Change:
    """Sets fields of what its slice runs; lists and texts in the place of what was there."""

    def change(request: tasks_pb2.NewTaskRequest) -> None:
        properties = request.task_slices[0].properties
        for name in fields:
            properties.ClearField(name)
        properties.MergeFrom(tasks_pb2.TaskProperties(**fields))

    return change


def without(*names: str) -> Change:
    return lambda request: [request.ClearField(name) for name in names]


def requiring(*pairs: str, pool: str = "pool=lab") -> Change:
    """The slice requires these dimensions, written `key=value`, and a pool."""
    given = [pair.partition("=") for pair in (*pairs, pool) if pair]
    return put_work(dimensions=[{"key": key, "value": value} for key, _, value in given])


def slices(*changes: Change) -> Change:
    """As many slices, each changed on its own."""

    def change(request: tasks_pb2.NewTaskRequest) -> None:
        first = tasks_pb2.TaskSlice()
        first.CopyFrom(request.task_slices[0])
        del request.task_slices[:]
        for one in changes:
            holder = tasks_pb2.NewTaskRequest(task_slices=[first])
            one(holder)
            request.task_slices.append(holder.task_slices[0])

    return change


def same(request: tasks_pb2.NewTaskRequest) -> None:
    """No change."""


def env(*pairs: tuple[str, str]) -> Change:
    return put_work(env=[{"key": key, "value": value} for key, value in pairs])


def prefixes(*pairs: tuple[str, list[str]]) -> Change:
    return put_work(env_prefixes=[{"key": key, "value": paths} for key, paths in pairs])


def caches(*pairs: tuple[str, str]) -> Change:
    return put_work(caches=[{"name": name, "path": path} for name, path in pairs])


def both(*changes: Change) -> Change:
    return lambda request: [change(request) for change in changes]


def packages(*each: str, idempotent: bool = False, **others) -> Change:
    """CIPD packages, written `path:name@version`."""
    split = [(*one.partition("@")[0].split(":", 1), one.partition("@")[2]) for one in each]
    given = [{"path": path, "package_name": name, "version": version} for path, name, version in split]
    return put_work(cipd_input={"packages": given, **others}, idempotent=idempotent)


def tree(instance: str = "projects/p/instances/i", hash: str = "ab", size: int = 0) -> Change:
    return put_work(cas_input_root={"cas_instance": instance, "digest": {"hash": hash, "size_bytes": size}})


def many(count: int, text: str = "k{}") -> list[str]:
    return [text.format(number) for number in range(count)]


# --------------------------------------------------------------------- the table

SLICES = [requiring(f"n={number}") for number in range(9)]
ID_40, ID_44 = "0123456789abcdef" * 2 + "01234567", "aB-_" * 10 + "aaaC"
TOP = (
    Row("one slice at least", same, without("task_slices"), "task_slices: there are 0; give 1 to 8"),
    Row(
        "eight slices at most", slices(*SLICES[:8]), slices(*SLICES), "task_slices: there are 9; give 1 to 8",
    ),
    Row(
        "no equal slices", slices(requiring("n=1"), requiring("n=2")), slices(requiring("n=1"), requiring("n=1")),
        "task_slices: two of them have the same properties",
    ),
    Row("no old properties", same, put(properties={}), "properties: they are in the old place"),
    Row("no old expiration", same, put(expiration_secs=60), "expiration_secs: it is in the old place"),
    Row("a name", put(name="x"), without("name"), "name: it is missing"),
    Row(
        "its length", put(name="x" * 1024), put(name="x" * 1025),
        "name: it has 1025 characters; give 1 to 1024",
    ),
    Row("no NUL in it", put(name="a b"), put(name="a\0b"), "name: it has a NUL"),
    Row("user", put(user="x" * 1024), put(user="x" * 1025), "user: it has 1025"),
    Row("request_uuid", put(request_uuid="x" * 128), put(request_uuid="x" * 129), "request_uuid: it has 129"),
    Row("highest priority", put(priority=1), without("priority"), "priority: it is 0; give 1 to 255"),
    Row("no negative priority", put(priority=1), put(priority=-1), "priority: it is -1"),
    Row("lowest priority", put(priority=255), put(priority=256), "priority: it is 256"),
    Row(
        "shortest ping tolerance", put(bot_ping_tolerance_secs=60), put(bot_ping_tolerance_secs=59),
        "bot_ping_tolerance_secs: it is 59; give 60 to 1200, or 0 for the usual one",
    ),
    Row(
        "longest ping tolerance", put(bot_ping_tolerance_secs=1200), put(bot_ping_tolerance_secs=1201),
        "bot_ping_tolerance_secs: it is 1201",
    ),
    Row("ping tolerance", same, put(bot_ping_tolerance_secs=-1), "bot_ping_tolerance_secs: it is -1"),
    Row(
        "no account", put(service_account="none"), put(service_account="-"),
        "service_account: '-' is no account",
    ),
    Row(
        "the bot's account", put(service_account="bot"), put(service_account="a b"), "service_account: 'a b'",
    ),
    Row(
        "account", put(service_account="a@b.c" + "d" * 123), put(service_account="a@b.c" + "d" * 124),
        "service_account: ",
    ),
    Row("realm", put(realm="p:r/1.x-_"), put(realm="p"), "realm: it is 'p'"),
    Row("its project", put(realm="p" * 100 + ":r"), put(realm="p" * 101 + ":r"), "realm: "),
    Row("its own name", put(realm="p:" + "r" * 400), put(realm="p:" + "r" * 401), "realm: "),
    Row("the root realm", put(realm="p:@root"), put(realm="p:@other"), "realm: "),
    Row("the legacy realm", put(realm="p:@legacy"), put(realm=":@legacy"), "realm: "),
    Row("the project's realm", put(realm="p:@project"), put(realm="P:r"), "realm: "),
    Row("256 tags", put(tags=many(255, "k:{}")), put(tags=many(256, "k:{}")), "tags: there are 257"),
    Row("key and value", put(tags=["a:b:c"]), put(tags=["a"]), "tags[1]: it is 'a'"),
    Row("a tag's key", put(tags=["k" * 64 + ":"]), put(tags=["k" * 65 + ":"]), "tags[1]: it is 'kkk"),
    Row("not an empty one", put(tags=["k:"]), put(tags=[":v"]), "tags[1]: it is ':v'"),
    Row("a tag's value", put(tags=["k:" + "v" * 256]), put(tags=["k:" + "v" * 257]), "tags[1]: it is 'k:v"),
    Row("no blank at its end", put(tags=["k:a b"]), put(tags=["k:v "]), "tags[1]: the value of 'k:v '"),
    Row("no blank at its start", put(tags=["k:a b"]), put(tags=["k: v"]), "tags[1]: the value of 'k: v'"),
    Row("no NUL in a tag", put(tags=["k:v"]), put(tags=["k:\0"]), "tags[1]: it is"),
    Row(
        "not the tag of terminations", put(tags=["swarming.terminated:1"]), put(tags=["swarming.terminate:1"]),
        "tags[1]: swarming.terminate is for the tasks that end a bot; call TerminateBot",
    ),
    Row(
        "parent", put(parent_task_id="7b24c0ea00abcd11"), put(parent_task_id="1"),
        "parent_task_id: '1' is no id",
    ),
    Row(
        "parent in hex", put(parent_task_id="10"), put(parent_task_id="7b24c0ea00abcdxx"), "parent_task_id: ",
    ),
    Row(
        "token without topic", same, put(pubsub_auth_token="x"),
        "pubsub_auth_token: it is given without pubsub_topic",
    ),
    Row(
        "data without topic", same, put(pubsub_userdata="x"),
        "pubsub_userdata: it is given without pubsub_topic",
    ),
)  # fmt: skip

IN_A_SLICE = (
    Row(
        "shortest expiration", put_slice(expiration_secs=30), put_slice(expiration_secs=29),
        "task_slices[0].expiration_secs: it is 29; give 30 to 604800",
    ),
    Row(
        "longest expiration", put_slice(expiration_secs=604_800), put_slice(expiration_secs=604_801),
        "task_slices[0].expiration_secs: it is 604801",
    ),
    Row(
        "an expiration", same, lambda r: r.task_slices[0].ClearField("expiration_secs"),
        "task_slices[0].expiration_secs: it is 0",
    ),
    Row(
        "properties", same, lambda r: r.task_slices[0].ClearField("properties"),
        f"{P}.dimensions: pool is missing",
    ),
    Row(
        "shortest limit", put_work(execution_timeout_secs=30), put_work(execution_timeout_secs=29),
        f"{P}.execution_timeout_secs: it is 29; give 30 to 601140",
    ),
    Row(
        "longest limit", put_work(execution_timeout_secs=601_140), put_work(execution_timeout_secs=601_141),
        f"{P}.execution_timeout_secs: it is 601141",
    ),
    Row("a limit", same, put_work(execution_timeout_secs=0), f"{P}.execution_timeout_secs: it is 0"),
    Row(
        "shortest silence", put_work(io_timeout_secs=30), put_work(io_timeout_secs=29),
        f"{P}.io_timeout_secs: it is 29; give 30 to 601140, or 0 for none",
    ),
    Row(
        "longest silence", put_work(io_timeout_secs=601_140), put_work(io_timeout_secs=601_141),
        f"{P}.io_timeout_secs: it is 601141",
    ),
    Row(
        "no limit of silence", put_work(io_timeout_secs=0), put_work(io_timeout_secs=-1),
        f"{P}.io_timeout_secs: ",
    ),
    Row(
        "longest grace", put_work(grace_period_secs=3600), put_work(grace_period_secs=3601),
        f"{P}.grace_period_secs: it is 3601; give 0 to 3600",
    ),
    Row(
        "no grace", put_work(grace_period_secs=0), put_work(grace_period_secs=-1), f"{P}.grace_period_secs: ",
    ),
    Row(
        "a command", put_work(command=["x"]), put_work(command=[]),
        f"{P}.command: it has 0 words; give 1 to 128",
    ),
    Row(
        "its words", put_work(command=["x"] * 128), put_work(command=["x"] * 129),
        f"{P}.command: it has 129 words",
    ),
    Row("a word", put_work(command=["x" * 65536]), put_work(command=["x" * 65537]), f"{P}.command: a word"),
    Row(
        "no NUL in a word", put_work(command=["x", ""]), put_work(command=["x", "\0"]),
        f"{P}.command: a word",
    ),
    Row(
        "relative_cwd", put_work(relative_cwd="x" * 256), put_work(relative_cwd="x" * 257),
        f"{P}.relative_cwd: ",
    ),
    Row(
        "relative_cwd of Windows", put_work(relative_cwd="a\\b"), put_work(relative_cwd="a\\..\\b"),
        f"{P}.relative_cwd: 'a\\\\..\\\\b' has a '..'",
    ),
    Row(
        "the folder itself", put_work(relative_cwd="."), put_work(relative_cwd="./a"),
        f"{P}.relative_cwd: './a' is not normalized; write 'a'",
    ),
    Row(
        "64 variables", env(*((k, "") for k in many(64))), env(*((k, "") for k in many(65))),
        f"{P}.env: there are 65",
    ),
    Row("each once", env(("a", "1"), ("A", "1")), env(("a", "1"), ("a", "2")), f"{P}.env: a is there twice"),
    Row("a variable's name", env(("a" * 64, "")), env(("a" * 65, "")), f"{P}.env: 'aaaa"),
    Row("of letters", env(("_a0", "")), env(("0a", "")), f"{P}.env: '0a' cannot be"),
    Row("not empty", env(("a", "")), env(("", "")), f"{P}.env: '' cannot be"),
    Row(
        "a variable's value", env(("a", "x" * 1024)), env(("a", "x" * 1025)),
        f"{P}.env: the value of a is too long",
    ),
    Row("no NUL in it", env(("a", "\n")), env(("a", "\0")), f"{P}.env: the value of a"),
    Row(
        "64 prefixes", prefixes(*((k, ["p"]) for k in many(64))), prefixes(*((k, ["p"]) for k in many(65))),
        f"{P}.env_prefixes: there are 65",
    ),
    Row(
        "each prefix once", prefixes(("a", ["p"]), ("b", ["p"])), prefixes(("a", ["p"]), ("a", ["q"])),
        f"{P}.env_prefixes: a is there twice",
    ),
    Row(
        "a prefix's name", prefixes(("a" * 64, ["p"])), prefixes(("a" * 65, ["p"])),
        f"{P}.env_prefixes: 'aaa",
    ),
    Row(
        "a path at least", prefixes(("a", ["p"])), prefixes(("a", [])),
        f"{P}.env_prefixes: a has 0 paths; give 1 to 128",
    ),
    Row(
        "paths at most", prefixes(("a", many(128))), prefixes(("a", many(129))),
        f"{P}.env_prefixes: a has 129 paths",
    ),
    Row(
        "its path", prefixes(("a", ["x" * 1024])), prefixes(("a", ["x" * 1025])),
        f"{P}.env_prefixes: a path has 1025",
    ),
    Row(
        "not a Windows path", prefixes(("a", ["b/c"])), prefixes(("a", ["b\\c"])),
        f"{P}.env_prefixes: 'b\\\\c' cannot",
    ),
    Row(
        "4096 outputs", put_work(outputs=many(4096)), put_work(outputs=many(4097)),
        f"{P}.outputs: there are 4097",
    ),
    Row(
        "an output", put_work(outputs=["x" * 512]), put_work(outputs=["x" * 513]),
        f"{P}.outputs[0]: a path has 513",
    ),
    Row(
        "a secret", put_work(secret_bytes=b"x" * 20480), put_work(secret_bytes=b"x" * 20481),
        f"{P}.secret_bytes: there are 20481",
    ),
    Row(
        "one secret",
        slices(put_work(secret_bytes=b"x"), SLICES[1], put_work(secret_bytes=b"x", command=["y"])),
        slices(put_work(secret_bytes=b"x"), SLICES[1], put_work(secret_bytes=b"y")),
        "task_slices[2].properties.secret_bytes: they are not those of another slice",
    ),
    Row(
        "containment", put_work(containment={"containment_type": 3}), put_work(containment={"containment_type": 4}),
        f"{P}.containment.containment_type: it is 4",
    ),
    Row(
        "its limits", put_work(containment={"limit_processes": 1}),
        put_work(containment={"limit_processes": -1}), f"{P}.containment: ",
    ),
    Row(
        "its memory", put_work(containment={"limit_total_committed_memory": 1}),
        put_work(containment={"limit_total_committed_memory": -1}), f"{P}.containment: a limit is negative",
    ),
)  # fmt: skip

PATHS = (
    Row(
        "not empty", put_work(outputs=["a"]), put_work(outputs=[""]),
        f"{P}.outputs[0]: a path has 0 characters",
    ),
    Row("relative", put_work(outputs=["a"]), put_work(outputs=["/a"]), f"{P}.outputs[0]: '/a' is absolute"),
    Row(
        "relative on Windows", put_work(relative_cwd="a\\b"), put_work(relative_cwd="\\a"),
        f"{P}.relative_cwd: '\\\\a' is absolute",
    ),
    Row("not above", put_work(outputs=["..a"]), put_work(outputs=[".."]), f"{P}.outputs[0]: '..' has a '..'"),
    Row(
        "not beside", put_work(outputs=["a.."]), put_work(outputs=["../a"]),
        f"{P}.outputs[0]: '../a' has a '..'",
    ),
    Row(
        "not up and down", put_work(outputs=["a/..b"]), put_work(outputs=["a/../b"]),
        f"{P}.outputs[0]: 'a/../b' has",
    ),
    Row(
        "no empty part", put_work(outputs=["a/b"]), put_work(outputs=["a//b"]),
        f"{P}.outputs[0]: 'a//b' is not normalized; write 'a/b'",
    ),
    Row(
        "no dot", put_work(outputs=["a/.b"]), put_work(outputs=["a/./b"]),
        f"{P}.outputs[0]: 'a/./b' is not normalized",
    ),
    Row(
        "no '/' at the end", put_work(outputs=["a"]), put_work(outputs=["a/"]),
        f"{P}.outputs[0]: 'a/' is not normalized",
    ),
    Row(
        "no NUL", put_work(outputs=["a b"]), put_work(outputs=["a\0b"]),
        f"{P}.outputs[0]: 'a\\x00b' cannot be a path",
    ),
    Row(
        "no backslash", put_work(outputs=["a|b"]), put_work(outputs=["a\\b"]),
        f"{P}.outputs[0]: 'a\\\\b' cannot be a path",
    ),
)  # fmt: skip

D = f"{P}.dimensions"
DIMENSIONS = (
    Row("a pool", requiring(), requiring(pool=""), f"{D}: pool is missing; give dimension pool exactly once"),
    Row("one pool", requiring("os=a"), requiring("pool=b"), f"{D}: pool is ['b', 'lab']"),
    Row("no other pool", requiring(pool="pool=x"), requiring(pool="pool=x|y"), f"{D}: pool is ['x|y']"),
    Row("not an empty pool", requiring(pool="pool=x"), requiring(pool="pool="), f"{D}: pool is ['']"),
    Row(
        "the same pool", slices(SLICES[0], SLICES[1]), slices(SLICES[0], requiring(pool="pool=other")),
        "task_slices: their pools are ['lab', 'other']; give all slices the same",
    ),
    Row(
        "no colon in a pool", requiring(pool="pool=a.b"), requiring(pool="pool=a:b"),
        f"{D}: pool is 'a:b'; it cannot have",
    ),
    Row("one id", requiring("id=a"), requiring("id=a", "id=b"), f"{D}: dimension id is ['a', 'b']"),
    Row("no other id", requiring("id=a"), requiring("id=a|b"), f"{D}: dimension id is ['a|b']"),
    Row("no colon in an id", requiring("id=a"), requiring("id=a:b"), f"{D}: id is 'a:b'"),
    Row(
        "a colon elsewhere", requiring("os=a:b"), requiring("feature=a:b"),
        f"{D}: dimension 'feature' is set by the daemon",
    ),
    Row("a key", requiring("k" * 64 + "=v"), requiring("k" * 65 + "=v"), f"{D}: 'kkk"),
    Row(
        "of letters", requiring("-_.a0=v"), requiring("0a=v"), f"{D}: '0a' cannot be the name of a dimension",
    ),
    Row("not an empty key", requiring("k=v"), requiring("=v"), f"{D}: '' cannot be the name"),
    Row("a value", requiring("k=" + "v" * 256), requiring("k=" + "v" * 257), f"{D}: 'vvv"),
    Row("not an empty value", requiring("k=v"), requiring("k="), f"{D}: '' cannot be a value"),
    Row("no blank at its end", requiring("k=a b"), requiring("k=a "), f"{D}: 'a ' cannot be a value"),
    Row("each alternative", requiring("k=a|b"), requiring("k=a| b"), f"{D}: ' b' cannot be a value"),
    Row("no empty alternative", requiring("k=a|b"), requiring("k=a|"), f"{D}: '' cannot be a value"),
    Row(
        "no alternative twice", requiring("k=a|b"), requiring("k=a|a"),
        f"{D}: k has an alternative twice in 'a|a'",
    ),
    Row("no value twice", requiring("k=a", "k=b"), requiring("k=a", "k=a"), f"{D}: k has a value twice"),
    Row(
        "16 of a key", requiring(*many(16, "k={}")), requiring(*many(17, "k={}")),
        f"{D}: dimension k has 17 values",
    ),
    Row(
        "32 keys", requiring(*many(31, "k{}=v")), requiring(*many(32, "k{}=v")),
        f"{D}: a task requires 33 dimensions",
    ),
    Row(
        "8 combinations", requiring("a=1|2", "b=1|2|3|4"), requiring("a=1|2|3", "b=1|2|3"),
        f"{D}: the alternatives make 9",
    ),
    Row(
        "512 pairs",
        requiring(*(f"k{key}={value}" for key in range(31) for value in range(16))),
        requiring(*many(512, "k={}")),
        f"{D}: there are 513; give at most 512",
    ),
)  # fmt: skip

C = f"{P}.caches"
CACHES = (
    Row(
        "32 caches", caches(*((k, k) for k in many(32))), caches(*((k, k) for k in many(33))),
        f"{C}: there are 33",
    ),
    Row("a name", caches(("a" * 128, "p")), caches(("a" * 129, "p")), f"{C}[0].name: it is 'aaa"),
    Row("of letters", caches(("a_0", "p")), caches(("a-0", "p")), f"{C}[0].name: it is 'a-0'"),
    Row("not empty", caches(("a", "p")), caches(("", "p")), f"{C}[0].name: it is ''"),
    Row(
        "each name once", caches(("a", "p"), ("b", "q")), caches(("a", "p"), ("a", "q")),
        f"{C}[1].name: 'a' is there twice",
    ),
    Row("a path", caches(("a", "p" * 256)), caches(("a", "p" * 257)), f"{C}[0].path: a path has 257"),
    Row("not above", caches(("a", "p/..q")), caches(("a", "../q")), f"{C}[0].path: '../q' has a '..'"),
    Row(
        "each path once", caches(("a", "p"), ("b", "pp")), caches(("a", "p"), ("b", "p")),
        f"{C}: 'p' and the path of a cache, 'p'",
    ),
    Row(
        "none in another", caches(("a", "p/q"), ("b", "p/r")), caches(("a", "p/q/r"), ("b", "p/q")),
        f"{C}: 'p/q/r' and",
    ),
    Row(
        "nor the other way", caches(("a", "p"), ("b", "pq/r")), caches(("a", "p"), ("b", "p/r")),
        f"{C}: 'p' and",
    ),
    Row("all in the folder itself", caches(("a", ".")), caches(("a", "."), ("b", "p")), f"{C}: '.' and"),
    Row("one after the folder itself", caches(("a", ".")), caches(("a", "p"), ("b", ".")), f"{C}: 'p' and"),
    Row(
        "no package in it", both(caches(("a", "p")), packages("q:x@1", "p.x:x@1", ".:x@1")),
        both(caches(("a", "p")), packages("q:x@1", "p/x:x@1")), f"{C}: 'p' and the path of a package, 'p/x'",
    ),
    Row(
        "not in a package", both(caches(("a", "p")), packages("q:x@1", "q:y@1")),
        both(caches(("a", "p/x")), packages("p:x@1")), f"{C}: 'p/x' and the path of a package, 'p'",
    ),
)  # fmt: skip

I = f"{P}.cipd_input"  # noqa: E741
CIPD = (
    Row(
        "64 packages", packages(*many(64, "p{}:x@1")), packages(*many(65, "p{}:x@1")),
        f"{I}.packages: there are 65",
    ),
    Row(
        "a path", packages("p" * 256 + ":x@1"), packages("p" * 257 + ":x@1"),
        f"{I}.packages[0].path: a path has 257",
    ),
    Row("some path", packages(".:x@1"), packages(":x@1"), f"{I}.packages[0].path: it is missing; give a folder"),
    Row(
        "each once in a place", packages("p:x@1", "q:x@1", "p:y@1"), packages("p:x@1", "p:x@2"),
        f"{I}.packages[1]: 'x' is twice in 'p'",
    ),
    Row(
        "a name", packages("p:" + "x" * 256 + "@1"), packages("p:" + "x" * 257 + "@1"),
        f"{I}.packages[0].package_name: ",
    ),
    Row(
        "not empty", packages("p:a/${os=linux,mac}-x.y_z@1"), packages("p:@1"),
        f"{I}.packages[0].package_name: it is ''",
    ),
    Row("of letters", packages("p:a@1"), packages("p:A@1"), f"{I}.packages[0].package_name: it is 'A'"),
    Row("a version", packages("p:x@a_./-0"), packages("p:x@"), f"{I}.packages[0].version: it is ''"),
    Row("a ref", packages("p:x@" + "r" * 256), packages("p:x@" + "r" * 257), f"{I}.packages[0].version: "),
    Row(
        "a tag", packages("p:x@k:" + "v" * 398), packages("p:x@k:" + "v" * 399), f"{I}.packages[0].version: ",
    ),
    Row(
        "pinned by a tag", packages("p:x@a:b", idempotent=True), packages("p:x@ref", idempotent=True),
        f"{I}.packages[0].version: 'ref' can change",
    ),
    Row(
        "pinned by an id", packages(f"p:x@{ID_40}", idempotent=True),
        packages(f"p:x@{ID_40}0", idempotent=True), f"{I}.packages[0].version: ",
    ),
    Row(
        "pinned by a long id", packages(f"p:x@{ID_44}", idempotent=True),
        packages(f"p:x@{ID_44[:-1]}", idempotent=True), f"{I}.packages[0].version: ",
    ),
    Row(
        "a server", packages(server="https://x.example"), packages(server="http://x.example"),
        f"{I}.server: it is 'http://x.example'",
    ),
    Row(
        "on this machine", packages(server="http://localhost:8080"), packages(server="ftp://localhost"),
        f"{I}.server: ",
    ),
    Row(
        "by an address", packages(server="http://[::1]:80"), packages(server="http://127.0.0.2"),
        f"{I}.server: ",
    ),
    Row(
        "its length", packages(server="https://x/" + "x" * 1014), packages(server="https://x/" + "x" * 1015),
        f"{I}.server: ",
    ),
    Row("an address", packages(server="https://x"), packages(server="https://[x"), f"{I}.server: "),
    Row("a port", packages(server="https://x:1"), packages(server="https://x:port"), f"{I}.server: "),
    Row(
        "a client", packages(client_package={"package_name": "a", "version": "b"}),
        packages(client_package={"package_name": "a"}), f"{I}.client_package.version: ",
    ),
    Row("its name", same, packages(client_package={"version": "b"}), f"{I}.client_package.package_name: "),
    Row(
        "without path", same, packages(client_package={"package_name": "a", "version": "b", "path": "."}),
        f"{I}.client_package.path: it is '.'; leave it out",
    ),
)  # fmt: skip

ROWS = {
    "top": TOP, "slice": IN_A_SLICE, "path": PATHS, "dimension": DIMENSIONS, "cache": CACHES, "cipd": CIPD,
}  # fmt: skip

# What is well-formed, but asks for what is not there: its own limits are found before that.
TOPIC = "projects/lab/topics/t"
NOT_WELL_FORMED = (
    Row(
        "topic", put(pubsub_topic=TOPIC), put(pubsub_topic="projects/lab"),
        "pubsub_topic: it is 'projects/lab'",
    ),
    Row(
        "its length", put(pubsub_topic=TOPIC.ljust(1024, "t")), put(pubsub_topic=TOPIC.ljust(1025, "t")),
        "pubsub_topic: ",
    ),
    Row(
        "data", put(pubsub_topic=TOPIC, pubsub_userdata="x" * 1024),
        put(pubsub_topic=TOPIC, pubsub_userdata="x" * 1025), "pubsub_userdata: it has 1025 characters",
    ),
    Row(
        "CAS", tree("projects/a-0/instances/b_0"), tree("default_instance"),
        f"{P}.cas_input_root.cas_instance: ",
    ),
    Row("CAS at all", tree(), put_work(cas_input_root={}), f"{P}.cas_input_root.cas_instance: it is ''"),
    Row("digest", tree(size=0), tree(size=-1), f"{P}.cas_input_root.digest: "),
    Row("hash", tree(), tree(hash=""), f"{P}.cas_input_root.digest: "),
)  # fmt: skip

NOT_OFFERED = {
    "CAS": (tree(), f"{P}.cas_input_root: there is no CAS here"),
    "a folder for CAS": (put_work(command=["x", "--out=${ISOLATED_OUTDIR}/y"]), f"{P}: ${{ISOLATED_OUTDIR}} is"),
    "the same in a variable": (env(("A", "${ISOLATED_OUTDIR}")), f"{P}: ${{ISOLATED_OUTDIR}} is"),
    "ResultDB": (put(resultdb={"enable": True}), "resultdb.enable: there is no ResultDB here"),
    "topics": (put(pubsub_topic=TOPIC), "pubsub_topic: nothing is published from here"),
    "packages": (packages("p:x@1"), f"{P}.cipd_input: bots install no CIPD packages here"),
    "outputs and caches": (both(put_work(outputs=["a"]), caches(("a", "p"))), f"{P}.outputs: Swarming bots cannot"),
    "in the second slice": (slices(SLICES[0], both(tree(), SLICES[1])), "task_slices[1].properties.cas_input_root: "),
}  # fmt: skip


def applied(change: Change) -> tasks_pb2.NewTaskRequest:
    request = good()
    change(request)
    return request
