"""Which channels go together, switching them off, cutting them out, and the proof of it."""
