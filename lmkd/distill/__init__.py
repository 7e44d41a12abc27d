"""The terms of an objective and the recipe that adds them up."""
