"""Training: recipes, losses, batches, stages; Lightning runs the loop."""
