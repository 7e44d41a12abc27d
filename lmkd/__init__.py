"""lmkd: compact facial-landmark models, trained and distilled in JAX / Flax."""

__version__ = "0.1.0"
