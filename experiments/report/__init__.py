"""From run directories to results.json, tables and figures, and from nothing else."""
