"""Measure how fast the models are, beside other networks: ``python -m benchmarks --help``. Not part of the package."""
