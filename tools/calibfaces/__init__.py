"""Seeded renderer of synthetic, human-like heads with exactly known labels."""
