"""Speed of the training step by N, its memory and its input pipeline, and beside PyTorch."""
