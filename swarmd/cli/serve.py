"""`swarmd serve`: the daemon's options."""

from __future__ import annotations

from typing import Any

import click

from swarmd.cli.options import ServeOptions


@click.command("serve", context_settings={"auto_envvar_prefix": "SWARMD", "show_default": False})
@click.option("--db", metavar="PATH", show_envvar=True, help="The database file.  [default: ./swarmd.db]")
@click.option(
    "--listen",
    multiple=True,
    metavar="HOST:PORT",
    show_envvar=True,
    help="Where to listen; repeat for more; port 0 takes a free one.  [default: 127.0.0.1:8710]",
)
@click.option(
    "--unix",
    metavar="PATH",
    show_envvar=True,
    help="Also listen on this Unix socket; without --listen, only there.",
)
@click.option(
    "--config",
    metavar="FILE",
    show_envvar=True,
    help="A TOML file with these settings; flags and environment win.",
)
@click.option(
    "--tls-cert",
    metavar="FILE",
    show_envvar=True,
    help="A PEM file with the daemon's certificate: TCP is then in TLS, with --tls-key.",
)
@click.option("--tls-key", metavar="FILE", show_envvar=True, help="A PEM file with the certificate's key.")
@click.option(
    "--token-file",
    metavar="FILE",
    show_envvar=True,
    help="A file with the token that callers must show; needed, or --allow-network, beyond loopback.",
)
@click.option(
    "--allow-network",
    multiple=True,
    metavar="CIDR",
    show_envvar=True,
    help="Callers of this network need no token; repeat for more.",
)
@click.option(
    "--durability",
    type=click.Choice(["power", "process"]),
    show_envvar=True,
    help="What an acknowledged change survives: loss of power, or the end of the process.  [default: power]",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), show_envvar=True, help="[default: text]")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    show_envvar=True,
    help="[default: info]",
)
@click.option(
    "--retention-days",
    type=click.FloatRange(min=0, min_open=True),
    show_envvar=True,
    help="Forget ended tasks after this many days.  [default: 30]",
)
@click.option(
    "--retention-gib",
    type=click.FloatRange(min=0, min_open=True),
    show_envvar=True,
    help="Forget the oldest ended tasks when the file is larger than this.  [default: 10]",
)
def command(**values: Any) -> int:
    """Run the daemon until SIGTERM or Ctrl-C.

    The first line on standard output is `swarmd ready http://HOST:PORT`. Flags win over the
    environment, which wins over the file of --config.
    """
    from swarmd.daemon.main import serve_from_options

    return serve_from_options(ServeOptions(**given(values)))


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were given: empty tuples become None, others lists."""
    return {
        name: (list(value) or None) if isinstance(value, tuple) else value for name, value in values.items()
    }
