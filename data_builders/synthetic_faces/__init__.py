"""Synthetic faces: a small renderer of 3D heads with exact landmarks, and the TFDS builder that stores them."""
