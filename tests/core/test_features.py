"""What of a task needs a bot whose protocol can express it."""

from __future__ import annotations

import pytest

from swarmd.core.features import NATIVE, features_of
from swarmd.core.model import Command, Input, Payload, Work

RUN = Command(("x",))


@pytest.mark.parametrize(
    ("work", "features"),
    [
        (Work((RUN,)), ()),
        (Work((RUN, RUN)), ("commands",)),
        (Work((Command(write_to="f", text="t"),)), ("files",)),
        (Work((RUN,), inputs=(Input("in", "0" * 64),)), ("inputs",)),
        (Work((RUN,), outputs=("out",)), ("outputs",)),
        (Work((RUN,), io_limit_s=1.0), ("io_limit",)),
        (Work((RUN,), env={"A": "1"}), ()),
        (Work((RUN,), env={"A": None}), ("unset",)),
        (Work((RUN,), env={"A": ""}), ("empty",)),
        (Work((Command(("x",), env={"A": None}),)), ("unset",)),
        (Work((Command(("x",), env={"A": ""}),)), ("empty",)),
        (Work((RUN,), env={"A": "", "B": None}), ("empty", "unset")),
        (Work(noop=True), ("noop",)),
        (Work(terminate=True), ("terminate",)),
        (Work(payload=Payload("a.b")), ("payload.a.b",)),
        (Work((RUN,), payload=Payload("a.b")), ()),  # who does not know it has the command
        (Work(marker=True), ()),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else "",
)
def test_the_features_that_a_task_needs(work: Work, features: tuple[str, ...]) -> None:
    assert features_of(work) == features


def test_the_native_protocol_expresses_all_but_other_protocols_messages() -> None:
    everything = Work(
        (RUN, Command(write_to="f")),
        {"A": None, "B": ""},
        (Input("in", "0" * 64),),
        ("out",),
        io_limit_s=1,
        noop=True,
        terminate=True,
    )
    assert set(features_of(everything)) == set(NATIVE)
