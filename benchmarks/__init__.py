"""One script for each claim about cost; run as `python -m benchmarks.NAME`."""
