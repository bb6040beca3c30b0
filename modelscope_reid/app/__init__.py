"""The page and the HTTP API over one gallery: thin faces of `Embedder` and `Gallery`, with no logic of their own."""
