"""Settings as values; what `serve` says about bad ones is in test_main.py."""

from __future__ import annotations

import pytest

from swarmd.cli.options import ServeOptions
from swarmd.config import (
    MAX_CONFIG_BYTES,
    Config,
    ConfigError,
    config_of,
    expected,
    is_loopback,
    parse_address,
    parse_network,
    read_file,
)
from swarmd.config_swarming import BotGroup, SwarmingConfig


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8710", ("127.0.0.1", 8710)),
        ("[::1]:0", ("::1", 0)),
        ("lab.example:65535", ("lab.example", 65535)),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "8710", ":8710", "host:", "host:65536", "host:x", "::1:8710", "[h]:1", "host:١"]
)
def test_what_is_no_address(text):
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert repr(text) in caught.value.message and "HOST:PORT" in caught.value.remedy


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.evil", "example.com", ""])
def test_not_loopback(host):
    assert not is_loopback(host)


def test_defaults_listen_on_loopback_and_a_socket_alone_listens_nowhere_else():
    assert Config().addresses == [("127.0.0.1", 8710)]
    assert Config(unix="/run/s").addresses == []
    Config().check_exposure()


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "10.0.0.5:1", "lab.example:1"])
def test_others_need_a_token_or_a_network(listen):
    with pytest.raises(ConfigError) as caught:
        Config(listen=["127.0.0.1:1", listen]).check_exposure()
    assert caught.value.code == "unprotected"
    Config(listen=[listen], token_file="t").check_exposure()
    Config(listen=[listen], allow_network=["10.0.0.0/8"]).check_exposure()


def test_a_file_that_is_no_configuration(tmp_path):
    file = tmp_path / "big.toml"
    file.write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        read_file(file)
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        read_file(tmp_path / "none.toml")
    file.write_bytes(b"db = '\xff'")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_file(file)


@pytest.mark.parametrize(
    ("text", "network"),
    [("10.0.0.1/8", "10.0.0.0/8"), ("192.168.1.7/255.255.255.0", "192.168.1.0/24"), ("fe80::1/64", "fe80::/64")],
)  # fmt: skip
def test_an_address_inside_a_network_gets_the_network_named(text, network):
    with pytest.raises(ConfigError) as caught:
        _ = Config(allow_network=[text]).networks
    assert repr(text) in caught.value.message and caught.value.remedy == f"write {network}"
    assert str(parse_network(network)) == network


@pytest.mark.parametrize("text", ["", "lab", "10.0.0.0/33", "10.0.0/8"])
def test_what_is_no_network_at_all(text):
    with pytest.raises(ConfigError) as caught:
        parse_network(text)
    assert repr(text) in caught.value.message and caught.value.remedy == "write it as 10.1.0.0/16"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('accept_s = "soon"', "accept_s must be a number"),
        ("output_limit_mib = 1.5", "output_limit_mib must be a whole number"),
        ('listen = "127.0.0.1:1"', "listen must be a list of texts"),
        ("allow_host = [1]", "allow_host must be a list of texts"),
        ("trust_loopback = 1", "trust_loopback must be true or false"),
        ("unix = 1", "unix must be a text"),
        ("tls_cert = 1", "tls_cert must be a text"),
        ("db = []", "db must be a text"),
        ('log_format = "xml"', "log_format must be one of 'text', 'json'"),
        ("[token_file]", "token_file must be a text"),
    ],
)
def test_a_wrong_type_names_file_key_and_what_is_expected(tmp_path, line, says):
    file = tmp_path / "lab.toml"
    file.write_text(line)
    with pytest.raises(ConfigError) as caught:
        config_of(ServeOptions(config=str(file)))
    assert caught.value.message.startswith(f"{file}: {says} (")


@pytest.mark.parametrize(
    ("text", "says", "code"),
    [
        ("[swarming]\npol_s = 1", "swarming has an unknown key 'pol_s'", "unknown_key"),
        ("swarming = 1", "swarming must be a table (Expected `object`, got `int`)", "bad_config"),
        ("[swarming]\npoll_s = 'x'", "swarming.poll_s: Expected `float`, got `str`", "bad_config"),
        ("[[swarming.groups]]\nbot = 1", "swarming.groups[0] has an unknown key 'bot'", "unknown_key"),
        (
            "[swarming.pools.lab]\nmode = 'x'",
            "swarming.pools[...].mode: Invalid enum value 'x'",
            "bad_config",
        ),
    ],
)
def test_a_fault_in_a_table_names_its_place(tmp_path, text, says, code):
    file = tmp_path / "lab.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config_of(ServeOptions(config=str(file)))
    assert (caught.value.message, caught.value.code) == (f"{file}: {says}", code)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"poll_hold_s": 55}, "poll_hold_s is 55"),
        ({"poll_s": 0}, "poll_s is 0"),
        ({"canary_percent": 101}, "canary_percent is 101"),
        ({"server_url": "http://lab:1/"}, "server_url is 'http://lab:1/'"),
        ({"server_url": "lab:1"}, "server_url is 'lab:1'"),
        ({"server_url": "http://"}, "server_url is 'http://'"),
        ({"server_url": "http://[::1"}, "server_url is 'http://[::1'"),
        ({"server_url": "http://lab:x"}, "server_url is 'http://lab:x'"),
        ({"server_url": "http://lab/a?b"}, "server_url is 'http://lab/a?b'"),
        ({"server_url": "http://lab/#a"}, "server_url is 'http://lab/#a'"),
        ({"server_url": "http://lab/ä b"}, "server_url is 'http://lab/ä b'"),
        ({"groups": [BotGroup(), BotGroup()]}, "have no bots"),
    ],
)
def test_swarming_settings_that_cannot_be(settings, says):
    with pytest.raises(ConfigError) as caught:
        Config(swarming=SwarmingConfig(**settings))
    assert says in caught.value.message and caught.value.remedy


def test_every_setting_has_words_for_what_is_expected():
    assert all(expected(key) for key in Config.__struct_fields__)
