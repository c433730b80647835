"""What of a task needs a bot whose protocol can express it."""

from __future__ import annotations

import pytest

from swarmd.core.features import NATIVE, features_of
from swarmd.core.model import Command, Input, Payload, Work

RUN = Command(("x",))


@pytest.mark.parametrize(
    ("work", "features"),
    [
        (Work((RUN,)), ("command",)),
        (Work((RUN, RUN)), ("command", "commands")),
        (Work((Command(("x",), cwd="sub"),)), ("command", "cwd")),
        (Work((Command(write_to="f", text="t"),)), ("command", "files")),
        (Work((RUN,), inputs=(Input("in", "0" * 64),)), ("command", "inputs")),
        (Work((RUN,), outputs=("out",)), ("command", "outputs")),
        (Work((RUN,), io_limit_s=1.0), ("command", "io_limit")),
        (Work((RUN,), env={"A": "1"}), ("command",)),
        (Work((RUN,), env={"A": None}), ("command", "unset")),
        (Work((RUN,), env={"A": ""}), ("command", "empty")),
        (Work((Command(("x",), env={"A": None}),)), ("command", "unset")),
        (Work((Command(("x",), env={"A": ""}),)), ("command", "empty")),
        (Work((RUN,), env={"A": "", "B": None}), ("command", "empty", "unset")),
        (Work(noop=True), ("noop",)),
        (Work(terminate=True), ("terminate",)),
        (Work(payload=Payload("a.b")), ("payload.a.b",)),
        (Work((RUN,), payload=Payload("a.b")), ("command",)),  # who does not know it has the command
        (Work(marker=True), ()),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else "",
)
def test_the_features_that_a_task_needs(work: Work, features: tuple[str, ...]) -> None:
    assert features_of(work) == features


def test_the_native_protocol_expresses_all_but_other_protocols_messages() -> None:
    everything = Work(
        (Command(("x",), cwd="sub"), Command(write_to="f")),
        {"A": None, "B": ""},
        (Input("in", "0" * 64),),
        ("out",),
        io_limit_s=1,
        noop=True,
        terminate=True,
    )
    assert set(features_of(everything)) == set(NATIVE)
