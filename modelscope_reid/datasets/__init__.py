"""Dataset readers and the synthetic dataset: files on disk -> records; knows nothing of models."""
