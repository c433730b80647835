"""Work off the trio thread."""

from __future__ import annotations

import gc
import weakref

import pytest

from swarmd.offthread import in_thread


class Large:
    """Stands for the body of a request."""


async def test_what_an_error_in_a_thread_held_is_free_when_the_error_is():
    """Cycles are looked for when the memory has doubled, so nothing large may be part of one."""

    def fail(large: Large) -> None:
        raise ValueError("no")

    gc.disable()
    try:
        large = Large()
        told = weakref.ref(large)
        try:  # `pytest.raises` keeps what was raised
            await in_thread(fail, large)
        except ValueError as error:
            assert str(error) == "no"
        else:
            pytest.fail("nothing was raised")
        del large
        assert told() is None
    finally:
        gc.enable()


async def test_an_answer_of_a_thread_arrives():
    assert await in_thread(divmod, 7, 2) == (3, 1)
