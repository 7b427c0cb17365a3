"""Training: annotated people, augmentation, losses and the loop."""
