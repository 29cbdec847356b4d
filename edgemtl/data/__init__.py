"""Readers of labelled pictures and the way a picture enters a network."""
