"""Weights: on disk and on the Hub, with what is known of them."""
