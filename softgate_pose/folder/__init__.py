"""Prediction over many photos: found in folders, resumable, and going on past bad ones."""
