"""Synthetic tasks: pure samplers of (seed, split, index), and the input pipeline."""
