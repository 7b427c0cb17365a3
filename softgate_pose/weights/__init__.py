"""Weights: on disk and on the Hub, with their records and cards."""
