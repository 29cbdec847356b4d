"""What tools/check_runtimes.py does: ask every runtime for graphs whose right answer is known."""
