"""What landmarks are: schemes, geometry, batch keys, plug-in lookup. NumPy only, no JAX."""
