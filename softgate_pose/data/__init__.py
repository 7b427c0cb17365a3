"""Data: people annotated in any layout, and the images that they are in."""
