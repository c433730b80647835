"""The pytest plugin: the fixture `swarmd`, a daemon in the nursery of the test, on virtual time.

pytest loads this module in every project that has swarmd installed, so it imports nothing but pytest, and touches only
tests that use the fixture. Such a test needs no other mark: it is run by pytest-trio, and gets its clock here, through
the `run` argument of pytest-trio's own marker (pytest-trio itself takes a clock only from a fixture that the test
function names). See docs/testing.md.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from swarmd.testing.lab import Lab

SETTINGS = "_swarmd_settings"  # the fixture behind `swarmd`; who needs it, needs a clock
MARKER = 'swarmd(path="file"|"memory", tcp=False, config={}, real_time=False): how the fixture `swarmd` runs its daemon'


class LabSettings(NamedTuple):
    """What the marker `swarmd` says; its keywords are these names but `seed`."""

    path: str = "file"
    tcp: bool = False
    config: Mapping[str, Any] = {}
    real_time: bool = False
    seed: int = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("swarmd").addoption(
        "--swarmd-seed",
        default="",
        metavar="N",
        help="seed of the bots of the fixture `swarmd`: a number, or `random`; by default made from the test's name",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not _has_pytest_trio(config):
        return  # the fixture says so
    for item in items:
        if SETTINGS in getattr(item, "fixturenames", ()):
            # In front of all others: the first `run` that pytest-trio finds is the one it takes.
            item.add_marker(pytest.mark.trio(run=partial(_run, item)), append=False)


def _run(item: pytest.Item, main: Callable[[], Any], *, clock: Any = None, **options: Any) -> Any:
    """`trio.run` for one test, with a virtual clock unless the test brings one or wants real time."""
    import trio
    import trio.testing

    if clock is None and not settings_of(item).real_time:
        clock = trio.testing.MockClock(autojump_threshold=0)
    run = trio.run
    for marker in item.iter_markers("trio"):  # the runner that the project has chosen
        chosen = marker.kwargs.get("run")
        if chosen is not None and getattr(chosen, "func", None) is not _run:
            run = chosen
            break
    return run(main, clock=clock, **options)


def settings_of(item: pytest.Item) -> LabSettings:
    """What the markers of a test say, the nearest one last. Fails the test for a marker that cannot be understood."""
    given: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("swarmd"))):
        given |= marker.kwargs
        if marker.args:
            pytest.fail(
                f"@pytest.mark.swarmd takes keywords only, got {marker.args!r}: {MARKER}", pytrace=False
            )
    known = set(LabSettings._fields) - {"seed"}
    if unknown := sorted(set(given) - known):
        pytest.fail(
            f"@pytest.mark.swarmd has no {unknown[0]!r}; it takes {', '.join(sorted(known))}", pytrace=False
        )
    if given.get("path", "file") not in ("file", "memory"):
        pytest.fail(f"@pytest.mark.swarmd: path is {given['path']!r}; give 'file' or 'memory'", pytrace=False)
    return LabSettings(**given, seed=_seed(item))


def _seed(item: pytest.Item) -> int:
    text = item.config.getoption("--swarmd-seed")
    if text == "random":
        import random

        seed = item.stash.setdefault(_random_seed, random.SystemRandom().randrange(1 << 32))
        return int(seed)
    if not text:
        return zlib.crc32(item.nodeid.encode())
    if not text.isdecimal():
        raise pytest.UsageError(f"--swarmd-seed is {text!r}; give a whole number, or 'random'")
    return int(text)


def _has_pytest_trio(config: pytest.Config) -> bool:
    plugins = config.pluginmanager
    return plugins.hasplugin("trio") or plugins.hasplugin("pytest_trio.plugin")


_random_seed = pytest.StashKey[int]()


@pytest.fixture
def _swarmd_settings(request: pytest.FixtureRequest) -> LabSettings:
    """What the marker `swarmd` of this test says, and the seed, which is shown when the test fails."""
    if not _has_pytest_trio(request.config):
        pytest.fail("the fixture `swarmd` needs pytest-trio: pip install pytest-trio", pytrace=False)
    settings = settings_of(request.node)
    again = f"seed {settings.seed}: the same bots again with --swarmd-seed={settings.seed}"
    request.node.add_report_section("call", "swarmd", again)
    return settings


@pytest.fixture
async def swarmd(_swarmd_settings: LabSettings, request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """A running daemon: see `swarmd.testing.Lab`. Settings by `@pytest.mark.swarmd(…)`."""
    import trio
    import trio.testing

    from swarmd.testing.lab import config_for_tests, open_lab

    settings = _swarmd_settings
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, trio.testing.MockClock) == settings.real_time:
        pytest.fail(
            f"the fixture `swarmd` was to run with real_time={settings.real_time}, but the test runs on a "
            f"{type(clock).__name__}; is it run by something else than pytest-trio, or does it name a clock fixture?",
            pytrace=False,
        )
    path = request.getfixturevalue("tmp_path") / "swarmd.db" if settings.path == "file" else None
    config = config_for_tests(settings.config)
    async with open_lab(path, config=config, tcp=settings.tcp, seed=settings.seed) as lab:
        yield lab
