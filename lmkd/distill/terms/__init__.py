"""Terms, one file a family. A term is a frozen dataclass; see `base.Term` for what to provide."""
