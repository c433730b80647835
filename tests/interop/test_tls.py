"""The real `swarming` command against a daemon behind TLS, with HTTP/2, as from another machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import make_pair
from tests.faults.served import served
from tests.interop.cli import Cli
from tests.interop.real_lab import RealLab, bundled_bot

SIZE = 17_000_000  # more than a page of output


@pytest.fixture
def secure(swarming, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealLab]:
    pair = make_pair(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pair.cert))
    options = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))
    with (
        served(tmp_path / "swarmd.db", *options, log=tmp_path / "daemon.log") as daemon,
        bundled_bot(daemon.url, tmp_path, "b1"),
    ):
        assert daemon.url.startswith("https://")
        yield RealLab(daemon.url, tmp_path)


async def test_a_task_runs_and_its_output_comes_whole(swarming, secure: RealLab):
    cli = swarming(secure.url)
    made = await cli.trigger("--", "sh", "-c", f"head -c {SIZE - 1} /dev/zero; printf x")
    assert made["task_result"]["state"] == "PENDING"
    await secure.ended(made["task_id"])
    [one] = (await cli.collect("-task-output-stdout", "dir:texts", made["task_id"])).values()
    assert one["results"]["state"] == "COMPLETED"
    assert (cli.folder / "texts" / f"{made['task_id']}.txt").read_bytes() == bytes(SIZE - 1) + b"x"
    assert "no such task" in await cli.refused("request-show", "7c3d9392af000010")


async def test_https_is_what_an_address_without_a_scheme_means(swarming, secure: RealLab):
    cli: Cli = swarming(secure.url.removeprefix("https://"))
    assert (await cli("bots", "-count")).json["now"]
