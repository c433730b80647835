"""Gauges that the packages of protocols add to the daemon's metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Gauge(NamedTuple):
    """A gauge as it is now: one value for each set of labels, which all have the same names."""

    name: str
    about: str
    values: Sequence[tuple[Mapping[str, str], float]]


Meter = Callable[[], Sequence[Gauge]]
