"""What the benchmark of pruning without training is made of."""
