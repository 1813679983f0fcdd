"""Measurements beside the peers. Each module is a command: `python -m benchmarks.op_overhead`."""
