"""From the head to the picture: rotation, perspective, framing, and the contour that a viewer sees."""

from typing import NamedTuple

import numpy as np

from lmkd.data_builders.synthetic_faces import anatomy
from lmkd.data_builders.synthetic_faces.head import Head, Mesh, to_3d
from lmkd.data_builders.synthetic_faces.parameters import Pose

PIVOT_HU = np.array([0.0, 0.45, -0.1])  # the head turns about the top of the neck


class View(NamedTuple):
    """A posed camera: `rotation` [3, 3], `distance_hu`, and picture = `scale_px` * screen + `offset_px`."""

    rotation: np.ndarray
    distance_hu: float
    scale_px: float
    offset_px: np.ndarray

    def turn(self, points_hu: np.ndarray) -> np.ndarray:
        """Rotates points [..., 3] of the head about the pivot."""
        rotation, shift = self.rotation, PIVOT_HU - self.rotation @ PIVOT_HU
        return points_hu @ rotation.T.astype(points_hu.dtype) + shift.astype(points_hu.dtype)

    def turn_normals(self, normals: np.ndarray) -> np.ndarray:
        """Rotates directions [..., 3]."""
        return normals @ self.rotation.T.astype(normals.dtype)

    def screen(self, turned_hu: np.ndarray) -> np.ndarray:
        """Projects turned points [..., 3] with perspective to [..., 2]."""
        return turned_hu[..., :2] * (self.distance_hu / (self.distance_hu - turned_hu[..., 2:]))

    def to_px(self, turned_hu: np.ndarray) -> np.ndarray:
        """Projects turned points [..., 3] to picture pixels [..., 2]."""
        return self.screen(turned_hu) * self.scale_px + self.offset_px


def rotation_matrix(pose: Pose) -> np.ndarray:
    """Returns the rotation [3, 3]: pitch first, then yaw, then roll."""
    yaw, pitch, roll = np.deg2rad([pose.yaw_deg, pose.pitch_deg, pose.roll_deg])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def frame(head: Head, mesh: Mesh, pose: Pose, side_px: int) -> tuple[View, np.ndarray]:
    """Places the head in a square picture so that all points lie inside.

    The longer side of the points' box is 1 / `pose.margin` of the picture's side; the box wanders within the margin.

    Returns:
      The view and the 98 points [98, 2] in picture pixels.
    """
    view = View(rotation_matrix(pose), pose.distance_hu, 1.0, np.zeros(2))
    screen = view.screen(view.turn(landmarks_3d(head, mesh, view)))
    lo, hi = screen.min(axis=0), screen.max(axis=0)
    scale = side_px / pose.margin / (hi - lo).max()
    slack = np.maximum(0.98 * side_px - scale * (hi - lo), 0.0) / 2
    middle = (side_px - 1) / 2 + 0.45 * slack * [pose.shift_x, pose.shift_y]
    view = view._replace(scale_px=scale, offset_px=middle - scale * (lo + hi) / 2)
    return view, screen * view.scale_px + view.offset_px


def landmarks_3d(head: Head, mesh: Mesh, view: View) -> np.ndarray:
    """Returns the 98 points [98, 3] on the head, not turned; those of the contour lie where the viewer sees it."""
    points = to_3d(head, head.points_hu)
    points[:33] = visible_contour(head, mesh, view)
    return points


def visible_contour(head: Head, mesh: Mesh, view: View) -> np.ndarray:
    """Returns the contour points [33, 3] as annotators place them.

    Every point slides along its own ray of the surface, from the jaw line (the frontal outline) towards the face, until
    the surface faces the viewer: on the far side that is the silhouette, on the near side it stays on the jaw line.
    (Landmark marching: Zhu, Yan, Yi, Lei, Li, "High-fidelity pose and expression normalization", CVPR 2015; they slide
    along horizontal lines of a mesh.)
    """
    offset = head.points_hu[:33] - anatomy.FACE_CENTRE_HU
    angle = np.arctan2(offset[:, 0], offset[:, 1])
    last = int(np.argmin(np.abs(mesh.t - np.pi / 2))) + 1
    position = np.clip((angle - mesh.angle[0]) / (mesh.angle[1] - mesh.angle[0]), 0, len(mesh.angle) - 1.001)
    low, part = position.astype(int), (position % 1.0)[:, None, None]
    points = mesh.points_hu[low, :last] * (1 - part) + mesh.points_hu[low + 1, :last] * part
    normals = mesh.normals[low, :last] * (1 - part) + mesh.normals[low + 1, :last] * part
    eye = PIVOT_HU + (np.array([0, 0, view.distance_hu]) - PIVOT_HU) @ view.rotation  # the camera, in the head's frame
    facing = ((eye - points) * normals).sum(-1)
    inner = np.arange(last) < np.searchsorted(mesh.t, 0.55)  # nose and lips also turn away; they are no contour
    ring = last - 1 - np.argmax((facing > 0)[:, ::-1] | inner[::-1], axis=1)
    rows, following = np.arange(33), np.minimum(ring + 1, last - 1)
    here, there = facing[rows, ring], facing[rows, following]
    share = np.where((here > 0) & (there < 0), here / np.where(here == there, 1.0, here - there), 0.0)[:, None]
    return points[rows, ring] * (1 - share) + points[rows, following] * share
