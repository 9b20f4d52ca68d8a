"""Language models that sleep: context is consolidated into fast weights before it is evicted."""
