"""A bot with nothing but the standard library: runs commands, sends their output, reports.

It has at most 60 lines of code without blank lines and comments.

    python examples/tiny_bot.py http://127.0.0.1:8710 tiny-1

It runs one task at a time, in the folder where it was started, and refuses what it cannot do (inputs, outputs,
several commands); it leaves limits to the daemon, which orders a stop a little later than a bot would. `swarmd bot`
does all that better. The rules are in docs/http-api.md, "A bot's calls". Ended in the middle of a task, it leaves
the rest to the daemon: the task is lost after a minute, and tried again if it may be.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request

URL, BOT, LOOK_S, MOST = sys.argv[1].rstrip("/") + "/api/v1", sys.argv[2], 1.0, 4 << 20


def call(path, body):
    """The answer to a POST; asks again while the daemon is away. `LookupError`: what the path names is gone."""
    raw, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(URL + path, raw, kind), timeout=60) as answer:
                return json.load(answer)
        except OSError as error:
            if getattr(error, "code", 503) == 404:
                raise LookupError(path) from None
            if getattr(error, "code", 503) in (400, 401, 403, 413, 421):
                sys.exit(error.read().decode())
        time.sleep(1)  # then the same bytes: a `seq` sent twice gets the same answer and changes nothing


def sync(session, **said):
    """Says what is held and what happened. Raises `LookupError` when the session has ended."""
    session["seq"] += 1
    return call(f"/sessions/{session['id']}/sync", {"seq": session["seq"], "wait_s": 0, **said})


def run(session, offer, file):
    """Runs an offered task; gives its entry in `finished`, and the output that was not sent yet."""
    me, work, sent = {"attempt": offer["attempt"]}, offer["work"], 0
    try:
        if {"inputs", "outputs", "noop"} & set(work) or [list(c) for c in work["commands"]] != [["argv"]]:
            raise ValueError("a tiny bot runs just one command")
        env = os.environ | work.get("env", {}) | {"SWARMD_INDEX": str(offer["index"])}
        process = subprocess.Popen(work["commands"][0]["argv"], env=env, stdout=file, stderr=file)
    except (OSError, ValueError, TypeError) as error:
        return {**me, "ok": False, "client_error": True, "reason": str(error)}, []
    while True:
        try:
            code = process.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            code = None
        data = os.pread(file.fileno(), MOST, sent)
        output = [{**me, "stream": "stdout", "offset": sent, "data": base64.b64encode(data).decode()}]
        sent += len(data)
        if code is not None and len(data) < MOST:
            return {**me, "ok": code == 0, "exit_code": code}, output
        answer = sync(session, running=list(me.values()), output=output)  # accepts it, too
        if any(order["kind"] == "stop" for order in answer["orders"]):
            process.kill()


while True:
    key = secrets.token_hex(16)
    me = {"session_key": key, "bot_key": key, "dimensions": {"kind": ["tiny"]}}
    session, said = {"id": call(f"/bots/{BOT}/sessions", me)["session"], "seq": 0}, {}
    try:
        while True:
            said, offers = {}, sync(session, **(said or {"free": 1, "wait_s": 30}))["offers"]
            for offer in offers:  # at most one, for `free` was 1
                with tempfile.TemporaryFile() as file:
                    finished, output = run(session, offer, file)
                said = {"finished": [finished], "output": output}
    except LookupError:
        pass  # silent for too long, or replaced: begin anew
