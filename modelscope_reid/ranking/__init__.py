"""From embeddings to similarities, rankings and numbers: NumPy only, no torch, no images, no files."""
