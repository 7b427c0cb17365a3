"""Prediction: from a photo and the boxes of its people to their poses, and pictures of them."""
