"""Runs every example against a daemon of its own and checks what it prints.

    python examples/run_all.py

Starts `swarmd serve` and `swarmd bot` on a free port in a temporary folder, ends both, and leaves nothing behind.
Exit code 0: every example printed what is expected here.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
SWARMD = (sys.executable, "-m", "swarmd")
READY = "swarmd ready "
START_S, EXAMPLE_S, STOP_S = 30.0, 60.0, 10.0


@contextmanager
def child(*argv: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended when the block is left, by SIGKILL if SIGTERM does not do."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SWARMD_")}
    with log.open("ab") as file:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ready_url(daemon: subprocess.Popen[bytes], log: Path) -> str:
    """The URL in the daemon's first line. Raises `SystemExit` with its log when there is none."""
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at and daemon.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith(READY):
                return line.removeprefix(READY)
        time.sleep(0.05)
    raise SystemExit(f"the daemon did not start:\n{log.read_text()}")


def printed(url: str, *argv: str) -> str:
    """What an example writes to standard output. Raises `SystemExit` when it fails or takes too long."""
    bin = str(Path(sys.executable).parent)
    environment = os.environ | {"SWARMD_URL": url, "PATH": f"{bin}:{os.environ.get('PATH', os.defpath)}"}
    done = subprocess.run(
        argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=EXAMPLE_S
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def expect(name: str, text: str, *wanted: str) -> None:
    """Raises `SystemExit` unless `text` has the lines `wanted`, in this order."""
    lines, place = [line.strip() for line in text.splitlines()], 0
    for want in wanted:
        if want not in lines[place:]:
            raise SystemExit(f"{name} did not print {want!r}, but:\n{text}")
        place = lines.index(want, place) + 1
    print(f"{name}: as expected", flush=True)


def run_examples(url: str, log: Path) -> None:
    expect(
        "hello.sh", printed(url, "sh", str(HERE / "hello.sh")),
        "hello from a bot", "the second command ended with 7",
    )  # fmt: skip
    graph = subprocess.run(
        [*SWARMD, "submit", "--file", str(HERE / "graph.toml"), "--wait"],
        env=os.environ | {"SWARMD_URL": url}, capture_output=True, text=True, timeout=EXAMPLE_S,
    )  # fmt: skip
    # The alarm is skipped because the build is well; the graph is ok without it.
    states = [line.split()[1] for line in graph.stdout.splitlines() if len(line.split()) > 5]
    if graph.returncode != 0 or sorted(states[1:]) != ["COMPLETED"] * 5 + ["SKIPPED"]:
        raise SystemExit(f"graph.toml ended with {graph.returncode}:\n{graph.stdout}{graph.stderr}")
    print("graph.toml: as expected", flush=True)
    expect("sweep.sh", printed(url, "sh", str(HERE / "sweep.sh")), "1", "4", "9", "16", "25")
    expect(
        "client.py", printed(url, sys.executable, str(HERE / "client.py")),
        "COMPLETED 0 number 1", "the graph: COMPLETED, COMPLETED", "no_bot_matches",
    )  # fmt: skip
    with child(sys.executable, str(HERE / "tiny_bot.py"), url, "tiny-1", log=log):
        text = printed(
            url, *SWARMD, "submit", "--wait", "-d", "kind=tiny", "--array", "1-2", "--",
            "sh", "-c", "echo tiny $SWARMD_INDEX",
        )  # fmt: skip
        ids = text.split()[:2]
        output = "".join(printed(url, *SWARMD, "logs", id) for id in ids)
        expect("tiny_bot.py", output, "tiny 1", "tiny 2")

    run_remote_bot(url, log)


def run_remote_bot(url: str, log: Path) -> None:
    if find_spec("grpc") is None:
        print("remote_bot.py: skipped, it needs grpcio (pip install grpcio)", flush=True)
        return
    with child(sys.executable, str(HERE / "remote_bot.py"), url, "remote-1", log=log):
        task = ("-d", "kind=remote", "--array", "1-2", "--", "sh", "-c", "exit 0")
        text = printed(url, *SWARMD, "submit", "--wait", *task)
        bots = printed(url, *SWARMD, "bots", "--instances")
        if text.count("COMPLETED") != 2 or "OK:1" not in bots:
            raise SystemExit(f"remote_bot.py did not run two tasks, but:\n{text}{bots}")
        print("remote_bot.py: as expected", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="swarmd-examples-") as name:
        folder = Path(name)
        log, bot_log = folder / "daemon.log", folder / "bot.log"
        serve = (*SWARMD, "serve", "--db", f"{folder}/swarmd.db", "--listen", "127.0.0.1:0")
        with child(*serve, log=log) as daemon:
            url = ready_url(daemon, log)
            bot = ("bot", "--server", url, "--id", "example", "--slots", "2", "--work-dir", f"{folder}/bot")
            with child(*SWARMD, *bot, log=bot_log):
                try:
                    run_examples(url, bot_log)
                except SystemExit:
                    print(log.read_text(), bot_log.read_text(), sep="\n", file=sys.stderr)
                    raise
    print("all examples did what they should")


if __name__ == "__main__":
    main()
