"""Helpers that tests of several rooms share: a small foreign network, small seeded data sets."""
