"""Benchmarks: each prints a figure, the limit measured in the same run, and the ratio, which decides.

    python -m bench            all, in a few minutes
    python -m bench noop true  some

Absolute figures depend on the machine; results with date and machine stand in docs/benchmarks.md.
"""
