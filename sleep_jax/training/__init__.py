"""One jitted step, one host loop, optimizer, evaluation and checkpoints."""
