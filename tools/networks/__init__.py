"""Public architectures and the peer that ``bench_networks.py`` compares channel groups with."""
