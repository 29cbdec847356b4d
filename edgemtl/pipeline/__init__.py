"""Stages in order, their cache, resuming, and the run folder."""
