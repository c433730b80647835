"""Growing output is noticed soon, with inotify and without; the real clock would do as well."""

from __future__ import annotations

import pytest
import trio

from swarmd.bot.growth import LOOK_S, Growth


@pytest.fixture(params=["inotify", "no instance", "no watch"])
def growth(request, monkeypatch):
    told: list[tuple[float, str]] = []
    growth = Growth(lambda key: told.append((trio.current_time(), key)))
    growth.told = told
    if request.param == "no instance":
        growth.close()
        growth._fd = -1
    elif request.param == "no watch":
        refuses = {"inotify_add_watch": lambda *_: -1}
        monkeypatch.setattr(growth, "_libc", type("Libc", (), refuses)())
    yield growth
    growth.close()


async def test_each_growth_is_told_soon(growth, tmp_path, nursery, autojump_clock):
    nursery.start_soon(growth.run)
    growth.add("a", str(tmp_path))
    await trio.sleep(10)
    for at in (10, 20):
        with (tmp_path / "stdout").open("ab") as file:
            file.write(b"x")
        growth.told.clear()
        await trio.sleep(10)
        assert growth.told and growth.told[0][0] <= at + LOOK_S + 0.001
    nursery.cancel_scope.cancel()


async def test_what_is_removed_is_not_told(growth, tmp_path, nursery, autojump_clock):
    nursery.start_soon(growth.run)
    growth.add("young", str(tmp_path))
    growth.remove("young")
    growth.add("old", str(tmp_path))
    await trio.sleep(1)
    growth.remove("old")
    growth.told.clear()
    (tmp_path / "stdout").write_bytes(b"x")
    await trio.sleep(10)
    assert growth.told == []
    nursery.cancel_scope.cancel()


async def test_a_short_command_costs_no_watch(tmp_path, nursery, autojump_clock):
    growth = Growth(lambda key: None)
    nursery.start_soon(growth.run)
    for n in range(10):
        growth.add(str(n), str(tmp_path))
        await trio.sleep(0.001)
        growth.remove(str(n))
    await trio.sleep(1)
    assert growth._watches == {}
    nursery.cancel_scope.cancel()
