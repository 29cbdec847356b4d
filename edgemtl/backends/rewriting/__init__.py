"""Nodes that a runtime lacks or computes wrongly, written with other operators. Exact on paper."""
