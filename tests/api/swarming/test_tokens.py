"""Tokens that the daemon signs: what is good, what is none, and the one key that makes the difference."""

from __future__ import annotations

import base64
import sqlite3
import string

import pytest
import trio
from hypothesis import assume, example, given
from hypothesis import strategies as st

from swarmd.api.swarming import tables
from swarmd.api.swarming.tokens import (
    KEY_BYTES,
    MAC_BYTES,
    MAX_TOKEN,
    AccessToken,
    BootstrapToken,
    SessionToken,
    Signed,
    TokenFault,
    read,
    sign,
)
from swarmd.config import Config
from swarmd.config_swarming import SwarmingConfig
from swarmd.testing.harness import running
from tests.api.swarming.token_bots import TokenBot

NOW = 1_790_000_000.0
KEY = bytes(range(KEY_BYTES))
ids = st.integers(0, (1 << 63) - 1)
moments = st.floats(0, 4e9)
# Texts that a message can hold: no lone surrogates, which no JSON that is taken has.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
tokens = st.one_of(
    st.builds(SessionToken, moments, texts, texts, texts, texts),
    st.builds(AccessToken, moments, ids, ids, st.lists(texts, max_size=5).map(tuple)),
    st.builds(BootstrapToken, moments, texts),
)
KINDS = (SessionToken, AccessToken, BootstrapToken)


def before(token: Signed) -> float:
    """A moment at which it is still good."""
    return token.expires_at - 1


def is_refused(text: object, kind: type[Signed], now: float = -1e18, key: bytes = KEY) -> bool:
    """Refused as no token at all, not as one that was good once."""
    try:
        read(key, text, kind, now)
    except TokenFault as fault:
        return not fault.expired
    return False


# --------------------------------------------------------------------- one token


@given(tokens)
def test_what_was_signed_is_read(token):
    text = sign(KEY, token)
    assert set(text) <= set(string.ascii_letters + string.digits + "+/="), (
        "it must fit into JSON and a header"
    )
    assert read(KEY, text, type(token), before(token)) == token


@given(tokens, st.data())
def test_any_flipped_bit_is_refused(token, data):
    raw = bytearray(sign(KEY, token), "ascii")
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert is_refused(raw.decode("latin-1"), type(token))


@given(tokens, st.data())
def test_any_flipped_bit_of_what_the_text_stands_for_is_refused(token, data):
    raw = bytearray(base64.b64decode(sign(KEY, token)))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert is_refused(base64.b64encode(raw).decode(), type(token))


def test_unused_bits_of_the_last_letter_make_no_second_text():
    text = sign(KEY, BootstrapToken(NOW, "n"))
    assert text.endswith("=")
    last = text.rstrip("=")[-1]
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    twin = text.rstrip("=")[:-1] + alphabet[alphabet.index(last) ^ 1] + "=" * text.count("=")
    assert base64.b64decode(twin) == base64.b64decode(text), "the case that this is about"
    assert is_refused(twin, BootstrapToken)


@given(tokens, st.data())
def test_a_shorter_or_longer_one_is_refused(token, data):
    text = sign(KEY, token)
    raw = base64.b64decode(text)
    assert is_refused(text[: data.draw(st.integers(0, len(text) - 1))], type(token))
    assert is_refused(text + data.draw(st.text(min_size=1, max_size=9)), type(token))
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    longer = raw + data.draw(st.binary(min_size=1, max_size=9))
    assert is_refused(base64.b64encode(cut).decode(), type(token))
    assert is_refused(base64.b64encode(longer).decode(), type(token))


@given(tokens, st.sampled_from(KINDS))
def test_a_token_of_one_purpose_is_none_for_another(token, kind):
    assume(kind is not type(token))
    assert is_refused(sign(KEY, token), kind)


@given(tokens, st.binary(min_size=1, max_size=2 * KEY_BYTES))
def test_a_token_of_another_key_is_refused(token, key):
    assume(key.ljust(64, b"\0") != KEY.ljust(64, b"\0"))  # HMAC fills a short key up with zeros
    assert is_refused(sign(KEY, token), type(token), key=key)


@given(tokens)
def test_without_a_key_nothing_is_good(token):
    assert is_refused(sign(b"", token), type(token), key=b"")
    assert is_refused(sign(KEY, token), type(token), key=b"")


@given(tokens, st.floats(0, 1e6))
def test_an_expired_token_is_told_from_a_bad_one(token, late_s):
    text = sign(KEY, token)
    for kind in KINDS:
        with pytest.raises(TokenFault) as fault:
            read(KEY, text, kind, token.expires_at + late_s)
        assert fault.value.expired == (kind is type(token))


ALIKE = string.ascii_letters + string.digits + "+/=-_ \n"
anything = st.one_of(
    st.text(max_size=200),
    st.text(ALIKE, max_size=200),
    st.binary(max_size=200).map(lambda raw: base64.b64encode(raw).decode()),
    st.integers(MAX_TOKEN - 2, MAX_TOKEN + 2).map(lambda n: "A" * n),
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(),
    st.lists(st.text(), max_size=2) | st.dictionaries(st.text(), st.text(), max_size=2),
)


@given(anything, st.sampled_from(KINDS))
def test_whatever_is_shown_raises_nothing_but_a_token_fault(shown, kind):
    assert is_refused(shown, kind)


@example(b"\x95\xcb" + bytes(8) + b"\xa1\x80", SessionToken)  # its text is no UTF-8
@given(st.binary(max_size=100), st.sampled_from(KINDS))
def test_what_another_version_signed_raises_nothing_but_a_token_fault(payload, kind):
    """The right signature on what is not, or no longer, such a token."""
    import hashlib
    import hmac

    mac = hmac.digest(KEY, kind.__name__.encode() + b"\0" + payload, hashlib.sha256)
    assert len(mac) == MAC_BYTES
    text = base64.b64encode(mac + payload).decode()
    try:
        assert isinstance(read(KEY, text, kind, -1e18), kind)  # chance may find one
    except TokenFault as fault:
        assert not fault.expired


# --------------------------------------------------------------------- sessions


async def test_an_old_token_stays_good_when_a_newer_one_was_given(autojump_clock):
    async with running() as world:
        bot = await TokenBot(world.url).handshake()
        old = bot.session
        await trio.sleep(1)
        await bot.poll()
        assert bot.session != old
        for session in (old, bot.session, old):
            answer = await bot.call("event", {"session": session, "event": "bot_log", "message": "m"})
            assert answer.status == 200, answer


async def test_a_session_token_outlives_the_daemon(autojump_clock, tmp_path):
    async with running(tmp_path / "db") as world:
        bot = await TokenBot(world.url).handshake()
    async with running(tmp_path / "db") as world:
        bot.url = world.url
        assert (await bot.poll())["cmd"] == "sleep"


# --------------------------------------------------------------------- the key


async def stored_keys(world) -> list[bytes]:
    return [bytes(row[2]) for row in await world.daemon.read(lambda conn: tables.keys(conn, "session"))]


async def test_two_handshakes_at_the_first_moment_of_a_file_make_one_key(autojump_clock, tmp_path):
    bots: list[TokenBot] = []
    async with running(tmp_path / "db") as world:
        bots += [TokenBot(world.url, id) for id in ("b1", "b2")]
        with world.daemon.writer.hold_commits() as gate:
            async with trio.open_nursery() as nursery:
                for bot in bots:
                    nursery.start_soon(bot.handshake)
                await trio.sleep(10)
                assert [bot.session for bot in bots] == [None, None], (
                    "a token was given before its key was safe"
                )
                gate.release()
        assert len(await stored_keys(world)) == 1
        for bot in bots:
            assert (await bot.poll())["cmd"] == "sleep"
    async with running(tmp_path / "db") as world:
        for bot in bots:
            bot.url = world.url
            assert (await bot.poll())["cmd"] == "sleep"
        assert len(await stored_keys(world)) == 1


async def test_a_bot_that_gives_up_while_the_key_is_made_leaves_it_to_the_next(autojump_clock, tmp_path):
    async with running(tmp_path / "db") as world:
        with world.daemon.writer.hold_commits() as gate:
            with trio.move_on_after(5):
                await TokenBot(world.url, "b1").handshake()
            bot = TokenBot(world.url, "b2")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bot.handshake)
                await trio.sleep(10)
                gate.release()
        assert (await bot.poll())["cmd"] == "sleep"
        assert len(await stored_keys(world)) == 1


async def test_a_crash_before_the_key_is_safe_leaves_no_token_behind(autojump_clock, tmp_path):
    dead = False
    made = b""
    bot = TokenBot("")
    async with trio.open_nursery() as nursery:

        async def live(task_status):
            async with running(tmp_path / "db", is_dead=lambda: dead) as world:
                task_status.started(world)
                await trio.sleep_forever()

        world = await nursery.start(live)
        bot.url = world.url
        world.daemon.writer.hold_commits()  # for ever
        nursery.start_soon(bot.handshake)
        await trio.sleep(10)
        [package] = [p for p in world.app.packages if p.name == "swarming"]
        signer = package.lesser.__self__.signer
        made, _ = signer._made
        with pytest.raises(AssertionError):
            signer.sign(SessionToken(4e9, "b1", "p/1", ""))
        dead = True
        nursery.cancel_scope.cancel()
    assert len(made) == KEY_BYTES and bot.session is None
    forged = sign(made, SessionToken(4e9, "b1", "p/1", ""))
    async with running(tmp_path / "db") as world:
        assert await stored_keys(world) == []
        bot.url, bot.session = world.url, forged
        told = await bot.ask("poll", dimensions=bot.dimensions, state={}, version="v1", request_uuid="u")
        assert told["cmd"] == "bot_restart", "it must shake hands anew"
        assert made not in await stored_keys(world)
        assert (await bot.call("event", {"session": forged, "event": "bot_log"})).status == 401


async def test_a_handshake_that_needs_a_key_on_a_full_disk_is_told_so(autojump_clock):
    """It waited without limit, and so long that its bot had gone."""
    async with running() as world:
        backend, full = world.daemon.backend, True
        transact = backend.transact

        async def transact_or_not(fn):
            if not full:
                return await transact(fn)
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            await trio.lowlevel.checkpoint()
            raise error

        backend.transact = transact_or_not
        bot = TokenBot(world.url)
        body = {"dimensions": bot.dimensions, "state": {}, "version": "v1", "session_id": bot.process}
        with trio.fail_after(25):
            answer = await bot.call("handshake", body)
        assert (answer.status, answer.error.code) == (507, "no_space")
        with trio.fail_after(1):
            assert (await bot.call("handshake", body)).status == 507
        full = False
        await trio.sleep(2)
        await bot.handshake()
        assert len(await stored_keys(world)) == 1


async def test_a_session_ends_after_its_time(autojump_clock):
    config = Config(swarming=SwarmingConfig(session_s=100.0))
    async with running(config=config) as world:
        bot = await TokenBot(world.url).handshake()
        await trio.sleep(99)
        assert (await bot.call("event", {"session": bot.session, "event": "bot_log"})).status == 200
        await trio.sleep(1)
        answer = await bot.call("event", {"session": bot.session, "event": "bot_log"})
        assert answer.status == 401 and "expired" in answer.error.message
