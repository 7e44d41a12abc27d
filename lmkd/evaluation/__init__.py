"""From predictions to scores and the report: one row a face, reduced in float64 on the host."""
