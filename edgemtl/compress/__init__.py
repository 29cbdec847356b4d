"""What makes a network smaller: each takes a network and returns a smaller one."""
