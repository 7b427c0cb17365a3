"""Evaluation: predictions of annotated people, scored."""
