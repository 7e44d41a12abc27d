"""Shipped experiments, one file each: `get_config(variant=None)` returns an `ml_collections.ConfigDict`."""
