"""Making TVM's code fast on processors: layout, own operators, and the loops they become."""
