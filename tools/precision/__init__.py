"""Parts of tools/bench_precision.py."""
