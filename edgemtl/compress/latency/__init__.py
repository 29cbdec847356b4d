"""What a network takes on its runtime, as a function of the widths of its channel groups."""
