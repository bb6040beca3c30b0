"""Networks that turn pixels into embeddings, and the checkpoints that fill them.

`reid_model.ReidModel` is one backbone and one head; `checkpoints.load_checkpoint` opens every published file.
"""
