"""Performance-aware global channel pruning (PAGCP, IEEE TPAMI 2023), with a faster search."""
