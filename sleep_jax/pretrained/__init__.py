"""Pretrained weights and tokenizers: Llama-shaped models out of GGUF files, offline."""
