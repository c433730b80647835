"""The plugin in projects that are not ours: whatever way they run trio tests, and also when they do not."""

from __future__ import annotations

import subprocess
import sys

import pytest

import swarmd.testing.lab  # noqa: F401 - once, not anew in each inner run

pytest_plugins = ["pytester"]

PLUGINS = ("-p", "pytest_trio.plugin", "-p", "swarmd.testing.plugin", "--strict-markers", "-W", "error")
TIME_IS_VIRTUAL = """
    import time, pytest, trio
    {mark}
    async def test_time({arguments}):
        began = time.monotonic()
        await trio.sleep(0.4)  # so short that a test which really waits for it fails soon
        assert time.monotonic() - began < 0.35, "it really waited"
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch):
    """Runs `files` as a project of somebody else and gives the outcome."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(
        test: str, *arguments: str, ini: str = "", conftest: str = "", plugins=PLUGINS
    ) -> pytest.RunResult:
        pytester.makepyfile(test_it=test)
        pytester.makeini(f"[pytest]\n{ini}")
        pytester.makeconftest(conftest)
        return pytester.runpytest_inprocess(*plugins, *arguments)

    return run


@pytest.mark.parametrize(
    "mark, ini, conftest",
    [
        ("", "", ""),
        ("@pytest.mark.trio", "", ""),
        ("@pytest.mark.trio(run=trio.run)", "", ""),
        ("pytestmark = pytest.mark.trio", "", ""),
        ("@pytest.mark.parametrize('n', [1])", "trio_mode = true", ""),
        ("", "trio_mode = true", ""),
        ("", "", "from pytest_trio.enable_trio_mode import *"),
    ],
)
def test_naming_the_fixture_is_enough_for_virtual_time(run, mark, ini, conftest):
    arguments = "swarmd, n" if "parametrize" in mark else "swarmd"
    result = run(TIME_IS_VIRTUAL.format(mark=mark, arguments=arguments), ini=ini, conftest=conftest)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("trio_mode", ["true", "false"])
def test_a_test_of_virtual_time_fails_in_real_time(run, trio_mode):
    mark = "@pytest.mark.swarmd(real_time=True)"
    result = run(TIME_IS_VIRTUAL.format(mark=mark, arguments="swarmd"), ini=f"trio_mode = {trio_mode}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*it really waited*"])


def test_a_fixture_between_the_test_and_swarmd_changes_nothing(run):
    conftest = """
        import pytest
        @pytest.fixture
        def world(swarmd):
            return swarmd
    """
    result = run(TIME_IS_VIRTUAL.format(mark="@pytest.mark.trio", arguments="world"), conftest=conftest)
    result.assert_outcomes(passed=1)


def test_a_clock_that_the_test_names_is_taken(run):
    result = run("""
        async def test_clock(swarmd, autojump_clock):
            import trio
            assert trio.lowlevel.current_clock() is autojump_clock
    """)
    result.assert_outcomes(passed=1)


def test_the_runner_of_the_project_is_kept(run):
    result = run("""
        import pytest, trio
        seen = []
        def my_run(*args, **options):
            seen.append(options["clock"])
            return trio.run(*args, **options)

        @pytest.mark.trio(run=my_run)
        async def test_runner(swarmd):
            assert seen == [trio.lowlevel.current_clock()]
    """)
    result.assert_outcomes(passed=1)


def test_methods_and_settings_nearest_to_the_test_win(run):
    result = run("""
        import pytest
        pytestmark = pytest.mark.swarmd(path="memory", config={"accept_s": 7})

        class TestIt:
            async def test_near(self, swarmd):
                assert swarmd.path is None and swarmd.url.startswith("unix:")
                assert swarmd.daemon.config.accept_s == 7

            @pytest.mark.swarmd(path="file", tcp=True)
            async def test_nearer(self, swarmd, tmp_path):
                assert swarmd.path.parent == tmp_path and swarmd.url.startswith("http://127.0.0.1:")
                assert swarmd.daemon.config.accept_s == 7
    """)
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    "keywords, sentence",
    [
        ("pth='file'", "*has no 'pth'; it takes config, path, real_time, tcp*"),
        ("path='disk'", "*path is 'disk'; give 'file' or 'memory'*"),
        ("'file'", "*takes keywords only, got ('file',)*"),
        ("config={'accept': 1}", "*unknown field `accept`*"),
    ],
)
def test_a_marker_that_cannot_be_understood_is_told(run, keywords, sentence):
    mark = f"@pytest.mark.swarmd({keywords})"
    result = run(TIME_IS_VIRTUAL.format(mark=mark, arguments="swarmd"))
    assert result.ret == 1
    result.stdout.fnmatch_lines([sentence])


FAILS = "async def test_fails(swarmd):\n    print('drew', swarmd.random.random())\n    assert False"


def test_a_failed_test_shows_its_seed_and_the_seed_repeats_it(run):
    first = run(FAILS)
    [seed] = {line.rpartition("=")[2] for line in first.outlines if "--swarmd-seed=" in line}
    drew = {line for line in first.outlines if line.startswith("drew")}
    assert {line for line in run(FAILS).outlines if line.startswith("drew")} == drew, (
        "the default is no chance"
    )
    again = run(FAILS, f"--swarmd-seed={seed}")
    other = run(FAILS, "--swarmd-seed=1")
    assert {line for line in again.outlines if line.startswith("drew")} == drew
    assert not drew & set(other.outlines)
    by_chance = run(FAILS, "--swarmd-seed=random")
    by_chance.stdout.fnmatch_lines(["*--swarmd-seed=*"])
    assert not drew & set(by_chance.outlines)


def test_a_test_that_passes_shows_nothing(run):
    result = run("async def test_passes(swarmd): pass")
    result.stdout.no_fnmatch_line("*seed*")


def test_an_error_of_the_daemon_fails_the_test(run):
    result = run("""
        async def test_it(swarmd):
            import trio
            swarmd.daemon._fail(RuntimeError("memory contradicts itself"))
            await trio.sleep_forever()
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*memory contradicts itself*"])


def test_others_may_have_a_fixture_of_that_name(run):
    result = run("""
        import pytest

        @pytest.fixture
        def swarmd():
            return 7

        def test_mine(swarmd, request):
            assert swarmd == 7 and request.node.get_closest_marker("trio") is None
    """)
    result.assert_outcomes(passed=1)


def test_a_test_that_is_not_async_is_told(run):
    result = run("def test_sync(swarmd): pass")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*is not async*"])


def test_without_pytest_trio_a_sentence_says_what_to_install(run):
    plugins = ("-p", "swarmd.testing.plugin", "--strict-markers")
    result = run("async def test_it(swarmd): pass", plugins=plugins)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*needs pytest-trio: pip install pytest-trio*"])


def test_suites_that_do_not_use_it_are_left_alone(run, monkeypatch):
    test = """
        import asyncio, pytest

        def test_plain(request):
            assert [mark.name for mark in request.node.iter_markers()] == []

        @pytest.fixture
        def loop():
            with asyncio.Runner() as runner:
                yield runner

        def test_asyncio(loop):
            assert loop.run(asyncio.sleep(0, 7)) == 7
    """
    run(test, plugins=("-p", "swarmd.testing.plugin", "--strict-markers")).assert_outcomes(passed=2)


def test_the_plugin_imports_nothing_heavy():
    code = (
        "import sys, zlib, functools, pytest; before = set(sys.modules); import swarmd.testing.plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["swarmd", "swarmd.testing", "swarmd.testing.plugin"]
