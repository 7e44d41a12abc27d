"""From prepared records to batches: reading, transforms, the Grain pipeline. NumPy only, no JAX."""
