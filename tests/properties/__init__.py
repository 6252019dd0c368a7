"""Properties that hold for all inputs, tried on drawn ones: the same draws in every run, and few enough to be fast."""

from hypothesis import settings

bounded = settings(max_examples=50, derandomize=True, deadline=None, database=None)
