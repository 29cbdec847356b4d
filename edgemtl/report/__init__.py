"""What a run found, for people: pages, tables and plots from stored results."""
