"""What prediction has beside the model: pictures and videos, detectors, tracking and smoothing, drawing, tables."""
