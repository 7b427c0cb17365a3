"""Skeletons, geometry, heatmaps and metrics: pure functions on batched tensors."""
