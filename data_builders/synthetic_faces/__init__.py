"""Synthetic faces: a small renderer of parametric 3D heads with exact landmarks, and the TFDS builder that stores them."""
