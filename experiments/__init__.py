"""Binaries that run the experiments, one a table or figure, and the report over them."""
