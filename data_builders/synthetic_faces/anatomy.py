"""Where the 98 points of an average head lie, in head units.

One head unit (hu) is the distance between the outer eye corners, about 90 mm. The origin is half-way between the
corners; x points to the image's right, y down, z towards the viewer. `average_points_hu()` follows the mean shape of the
published WFLW annotations, made symmetric: a shape, not an image. Depths come from textbook anthropometry (head 150 mm
wide, 190 mm deep, 225 mm high).
"""

import numpy as np

from lmkd.core.schemes import WFLW98

FLIP = np.array(WFLW98.flip)
CONTOUR = np.arange(33)
CHIN = 16
FACE_CENTRE_HU = np.array([0.0, 0.30])  # all rays of the head's surface start here, behind the nose
CROWN_Y_HU = -1.24

_LEFT_POINTS_HU = {
    0: (-0.862, -0.035), 1: (-0.855, 0.082), 2: (-0.849, 0.200), 3: (-0.840, 0.317), 4: (-0.827, 0.434),
    5: (-0.805, 0.549), 6: (-0.775, 0.663), 7: (-0.735, 0.772), 8: (-0.685, 0.877), 9: (-0.624, 0.976),
    10: (-0.555, 1.068), 11: (-0.480, 1.154), 12: (-0.398, 1.232), 13: (-0.310, 1.302), 14: (-0.216, 1.361),
    15: (-0.112, 1.401), 16: (0.000, 1.413), 33: (-0.609, -0.164), 34: (-0.498, -0.262), 35: (-0.381, -0.272),
    36: (-0.263, -0.258), 37: (-0.148, -0.228), 38: (-0.148, -0.151), 39: (-0.263, -0.175), 40: (-0.380, -0.189),
    41: (-0.497, -0.185), 51: (0.000, -0.012), 52: (0.000, 0.143), 53: (0.000, 0.297), 54: (0.000, 0.442),
    55: (-0.179, 0.524), 56: (-0.090, 0.543), 57: (0.000, 0.559), 60: (-0.500, 0.000), 61: (-0.434, -0.040),
    62: (-0.357, -0.057), 63: (-0.269, -0.044), 64: (-0.200, 0.007), 65: (-0.277, 0.035), 66: (-0.359, 0.043),
    67: (-0.433, 0.031), 76: (-0.305, 0.818), 77: (-0.201, 0.750), 78: (-0.062, 0.718), 79: (0.000, 0.720),
    85: (0.000, 1.009), 86: (-0.129, 0.984), 87: (-0.233, 0.911), 88: (-0.285, 0.821), 89: (-0.151, 0.789),
    90: (0.000, 0.785), 94: (0.000, 0.909), 95: (-0.155, 0.884), 96: (-0.351, -0.006),
}  # fmt: skip

# Depth of the frontal outline (where the surface turns away from a viewer in front), by steps from the chin: the chin
# lies far forward, the cheeks in front of the ears lie near the middle of the head.
_OUTLINE_STEPS = np.array([0, 2, 4, 6, 8, 10, 12, 16])
_OUTLINE_Z_HU = np.array([0.80, 0.72, 0.58, 0.42, 0.28, 0.20, 0.16, 0.12])


def average_points_hu() -> np.ndarray:
    """Returns the average frontal points float64 [98, 2] in head units, symmetric about x = 0."""
    points = np.full((98, 2), np.nan)
    for index, point in _LEFT_POINTS_HU.items():
        points[index] = point
        points[FLIP[index]] = (-point[0], point[1])
    return points


def contour_depth_hu() -> np.ndarray:
    """Returns the depth z [33] of the outline at each contour point, in head units."""
    return np.interp(np.abs(CONTOUR - CHIN), _OUTLINE_STEPS, _OUTLINE_Z_HU)
