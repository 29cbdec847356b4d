"""Accuracy, latency and memory, measured and never assumed."""
