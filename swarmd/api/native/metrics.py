"""Prometheus metrics, made anew from what the daemon knows at each scrape."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from swarmd import __version__

if TYPE_CHECKING:
    from swarmd.daemon.daemon import Daemon


def metrics_text(daemon: Daemon) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest  # heavy: at the first scrape
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    class Now:
        def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
            tasks, bots = daemon.engine.counts()
            found: list[GaugeMetricFamily | CounterMetricFamily] = []

            def gauge(name: str, about: str, value: float) -> None:
                found.append(GaugeMetricFamily(name, about, value))

            def counter(name: str, about: str, value: float) -> None:
                found.append(CounterMetricFamily(name, about, value))

            by_state = GaugeMetricFamily("swarmd_tasks", "Unfinished tasks by state.", labels=["state"])
            for state, count in tasks.items():
                by_state.add_metric([state.lower()], count)
            by_status = GaugeMetricFamily("swarmd_bots", "Bots by status.", labels=["status"])
            for status, count in bots.items():
                by_status.add_metric([status], count)
            found += [by_state, by_status]
            info = GaugeMetricFamily("swarmd_info", "The version that runs.", labels=["version"])
            info.add_metric([__version__], 1)
            found.append(info)
            gauge("swarmd_sessions", "Open sessions.", len(daemon.engine.sessions))
            gauge("swarmd_attempts", "Live attempts.", len(daemon.engine.attempts))
            gauge("swarmd_graphs", "Graphs that are open or not done.", len(daemon.engine.graphs))
            gauge("swarmd_held_calls", "Calls of bots that wait for work.", len(daemon.held))
            gauge("swarmd_uptime_seconds", "Since this start.", daemon.clock.now() - daemon.started_at)
            gauge("swarmd_out_of_space", "1 while the disk is full.", float(daemon.writer.out_of_space))
            counter("swarmd_commits", "Transactions since this start.", daemon.writer.commits)
            counter("swarmd_rows", "Rows written since this start.", daemon.writer.rows)
            counter("swarmd_changes", "Changes of the engine since this start.", daemon.engine.version)
            for own in [gauge for meter in daemon.meters for gauge in meter()]:
                names = list(own.values[0][0]) if own.values else []
                family = GaugeMetricFamily(own.name, own.about, labels=names)
                for labels, value in own.values:
                    family.add_metric([labels[name] for name in names], value)
                found.append(family)
            used = resource.getrusage(resource.RUSAGE_SELF)
            counter("swarmd_cpu_seconds", "Of this process.", used.ru_utime + used.ru_stime)
            gauge("swarmd_max_resident_bytes", "Largest memory so far.", used.ru_maxrss * 1024)
            return found

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Now())  # type: ignore[arg-type]
    return generate_latest(registry)
