"""Bodies to copy from, shown in the OpenAPI file: by handler, then by what they show. Ids in them name nothing."""

from __future__ import annotations

from typing import Any

EXAMPLE_ID = "1m84efmgw0000"
EXAMPLE_DIGEST = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc"

EXAMPLES: dict[str, dict[str, Any]] = {
    "submit": {
        "one command": {"tasks": [{"argv": ["echo", "hello"]}]},
        "three alike": {
            "tasks": [
                {
                    "argv": ["sh", "-c", "echo part $SWARMD_INDEX"],
                    "name": "part",
                    "array": {"first": 1, "last": 3},
                }
            ],
            "request_id": "parts of 28 November",
        },
        "requirements and limits": {
            "tasks": [
                {
                    "commands": [
                        {"write_to": "settings.ini", "text": "[run]\nrounds = 3\n"},
                        {"argv": ["./measure", "settings.ini"], "env": {"LANG": "C", "DISPLAY": None}},
                    ],
                    "outputs": ["*.csv"],
                    "dimensions": {"os": ["Linux"], "gpu": ["a100|h100"]},
                    "hard_limit_s": 7200,
                    "retries": 1,
                    "tags": ["nightly"],
                }
            ]
        },
        "a GPU now, or any bot in ten minutes": {
            "tasks": [
                {
                    "argv": ["./train"],
                    "slices": [{"dimensions": {"gpu": ["a100"]}, "expiration_s": 600}, {"dimensions": {}}],
                }
            ]
        },
        "after another task": {
            "tasks": [{"argv": ["./report"], "after": [{"on": EXAMPLE_ID, "condition": "any"}]}]
        },
    },
    "submit_graph": {
        "build, then test": {
            "name": "nightly",
            "tasks": [
                {"key": "build", "argv": ["make"]},
                {"key": "test", "argv": ["make", "test"], "after": ["build"]},
            ],
        },
        "open": {"name": "grows", "open": True},
    },
    "add_to_graph": {"one more": {"tasks": [{"key": "pack", "argv": ["make", "dist"]}]}},
    "wait_tasks": {"at most ten seconds": {"ids": [EXAMPLE_ID], "wait_s": 10}},
    "cancel_tasks": {
        "by id": {"filter": {"ids": [EXAMPLE_ID]}, "reason": "not needed any more"},
        "what waits, by tag": {"filter": {"tag": "nightly"}, "kill": False},
    },
    "retry_tasks": {"what failed": {"filter": {"failed": True, "tag": "nightly"}}},
    "set_after": {"waits for nothing any more": {"after": []}},
    "order_bot": {
        "drain": {"drain": True},
        "quarantine": {"quarantine": "its disk is failing"},
        "back to work": {"quarantine": None, "maintenance": None, "drain": False},
    },
    "missing_blobs": {"one digest": {"digests": [EXAMPLE_DIGEST]}},
    "open_session": {
        "a bot with two slots": {
            "session_key": "start 1 of lab-1",
            "bot_key": "a secret that lab-1 keeps",
            "dimensions": {"os": ["Linux"], "pool": ["default"]},
            "slots": 2,
        }
    },
    "sync": {
        "the first": {"seq": 1, "free": 2, "wait_s": 0},
        "a task ended": {
            "seq": 2,
            "finished": [{"attempt": EXAMPLE_ID, "ok": True, "exit_code": 0, "duration_s": 1.5}],
            "output": [{"attempt": EXAMPLE_ID, "stream": "stdout", "offset": 0, "data": "aGVsbG8K"}],
            "free": 1,
            "wait_s": 0,
        },
    },
}
