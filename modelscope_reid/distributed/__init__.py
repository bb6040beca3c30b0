"""Collections larger than one machine: the same embedder in many processes under Ray, from any storage to Parquet."""
