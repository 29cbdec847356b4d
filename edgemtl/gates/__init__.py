"""Limits and results in, verdicts out; what was not measured never passes."""
