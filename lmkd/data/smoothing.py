"""Soft landmarks: points smoothed by an active shape model, a principal component analysis of training faces.

    model = fit(points_px, share=0.9)          # float [n, K, 2], NaN where nobody annotated
    soft_px = model.smooth(points_px[0])       # [K, 2]

Fard & Mahoor 2022, arXiv 2111.07047, train their tolerant teacher on such points (names in their code say 90 % of the
variance); active shape models: Cootes et al. 1995, doi 10.1006/cviu.1995.1004.
"""

import dataclasses

import numpy as np

from lmkd.core.errors import UserError, report_together
from lmkd.core.geometry import tight_box

LIMIT = 3.0
"""Coefficients are cut at so many standard deviations of the training faces: what is beyond is no likely face."""


@dataclasses.dataclass(frozen=True, eq=False)
class ShapeModel:
    """A mean shape and the main ways in which faces differ from it, in box units: the tight box's middle is (0, 0), its longer
    side 1.

    Faces are moved and scaled into that frame, and not turned, as in the authors' code: in-plane rotation is one of the ways.

    Attributes:
      mean: float64 [K, 2].
      components: float64 [m, K, 2], orthonormal, the largest first.
      deviations: float64 [m], standard deviations along the components.
    """

    mean: np.ndarray
    components: np.ndarray
    deviations: np.ndarray

    def smooth(self, points: np.ndarray) -> np.ndarray:
        """Returns the likely shape that is nearest to a face's points, in their own frame and unit.

        Coefficients are the least-squares ones over the known points (the ones of least size where these are too few to tell),
        cut at `LIMIT` deviations. A face with unknown points has another box: its place and size are fitted too.

        Args:
          points: [K, 2]. Unknown points are NaN: they have no say and stay NaN, smoothing invents no annotation. Points that
            are invisible but have coordinates count like any other; who does not trust them makes them NaN.

        Returns:
          float64 [K, 2]; the points as they are where fewer than two are known, or all lie on one spot.
        """
        points = np.asarray(points, np.float64)
        if points.shape != self.mean.shape:
            raise UserError(f"smoothing: the shape model has {len(self.mean)} points, got an array {points.shape}")
        known = np.isfinite(points).all(axis=1)
        if known.sum() < 2 or not np.ptp(points[known], axis=0).any():
            return points.copy()
        centre, size = _frame(points[known])
        shape = (points[known] - centre) / size
        zoom, shift = (1.0, np.zeros(2)) if known.all() else self._placed(shape, known)
        shape = shape * zoom + shift
        directions = self.components[:, known].reshape(len(self.components), -1)
        wanted = np.linalg.lstsq(directions.T, (shape - self.mean[known]).ravel(), rcond=None)[0]
        coefficients = np.clip(wanted, -LIMIT * self.deviations, LIMIT * self.deviations)
        likely = self.mean + np.tensordot(coefficients, self.components, axes=1)
        likely = (likely - shift) / zoom * size + centre
        return np.where(known[:, None], likely, np.nan)

    def _placed(self, shape: np.ndarray, known: np.ndarray) -> tuple[float, np.ndarray]:
        """The zoom and shift [2] that bring some points nearest to a shape of the model, coefficients free."""
        columns = [shape, np.tile([1.0, 0.0], (len(shape), 1)), np.tile([0.0, 1.0], (len(shape), 1))]
        unknowns = np.stack([column.ravel() for column in (*columns, *-self.components[:, known])], axis=1)
        zoom, *shift = np.linalg.lstsq(unknowns, self.mean[known].ravel(), rcond=None)[0][:3]
        return (float(zoom), np.array(shift)) if zoom > 0 else (1.0, np.zeros(2))


def fit(points: np.ndarray, *, share: float = 0.9) -> ShapeModel:
    """Fits a shape model to training faces.

    Args:
      points: [n, K, 2], each face in any frame. Faces with NaN among their points are left out.
      share: of the variance that the components keep, more than 0, at most 1; as many as reach it are kept. 1 smooths nothing
        but what the limits cut.

    Raises:
      UserError: fewer than two complete faces, or a share that is none.
    """
    points = np.asarray(points, np.float64)
    complete = points[np.isfinite(points).all(axis=(1, 2))]
    complete = complete[np.ptp(complete, axis=1).max(axis=1) > 0] if len(complete) else complete
    problems = [] if 0 < share <= 1 else [f"share: needs more than 0 and at most 1, got {share!r}"]
    if len(complete) < 2:
        problems.append(f"points: needs two faces at least with every point annotated, got {len(complete)} of {len(points)}")
    report_together(problems, "no shape model can be fitted")
    shapes = np.stack([(face - centre) / size for face in complete for centre, size in (_frame(face),)])
    mean = shapes.mean(axis=0)
    _, singular, directions = np.linalg.svd((shapes - mean).reshape(len(shapes), -1), full_matrices=False)
    variances = singular**2 / (len(shapes) - 1)
    kept = np.cumsum(variances) / max(variances.sum(), np.finfo(np.float64).tiny)
    # Rounding may leave the last sum a little under 1.
    m = min(int(np.searchsorted(kept, share - 1e-12)) + 1, len(variances))
    return ShapeModel(mean, directions[:m].reshape(m, *mean.shape), np.sqrt(variances[:m]))


def _frame(points: np.ndarray) -> tuple[np.ndarray, float]:
    """The middle [2] and the longer side of the points' tight box."""
    x0, y0, x1, y1 = tight_box(points)
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2]), max(x1 - x0, y1 - y0)
