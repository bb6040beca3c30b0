"""From embeddings to similarities, rankings and numbers: NumPy and SciPy, no torch, no images, no files."""
