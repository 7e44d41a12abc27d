"""What `lmkd.benchmark` measures: one module a topic, `rounds` for what they share."""
