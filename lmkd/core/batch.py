"""The table of batch keys: what leaves the host for the device, for every face.

Heatmaps are not among them: they are drawn on the device (1.6 MB a face never crosses the bus). Evaluation also carries
`key` (str, one a face), which stays on the host.
"""

from typing import NamedTuple

import numpy as np


class Field(NamedTuple):
    """One batch key: its dtype, its shape after the batch axis ("S" crop side in px, "K" points), what it means."""

    dtype: type
    shape: tuple
    meaning: str


FIELDS: dict[str, Field] = {
    "image": Field(np.uint8, ("S", "S", 3), "RGB crop"),
    "landmarks_px": Field(np.float32, ("K", 2), "points (x, y) in crop pixels"),
    "visible": Field(np.float32, ("K",), "1 where a point is annotated and counts, else 0"),
    "crop_to_image": Field(np.float32, (2, 3), "affine from crop pixels to original image pixels"),
    "norm_px": Field(np.float32, (), "the default NME's normalising distance in original image pixels; 0 where there is none"),
    "mask": Field(np.float32, (), "1 for a face that counts, 0 for padding or an unreadable record"),
    "subset": Field(np.uint8, ("F",), "1 where the face belongs to the data set's n-th subset flag"),
}


def empty_face(side_px: int, num_points: int, num_flags: int) -> dict[str, np.ndarray]:
    """Returns a face of zeros (mask 0) with every key of the table: padding, or an unreadable evaluation record."""
    sizes = {"S": side_px, "K": num_points, "F": num_flags}
    face: dict[str, np.ndarray] = {}
    for name, field in FIELDS.items():
        face[name] = np.zeros([sizes.get(n, n) for n in field.shape], field.dtype)
    face["crop_to_image"][:, :2] = np.eye(2, dtype=np.float32)
    face["norm_px"] = np.asarray(1.0, np.float32)
    return face
