"""What tools/robustness.py does: spoil inputs, kill runs, fill disks, run many at once."""
