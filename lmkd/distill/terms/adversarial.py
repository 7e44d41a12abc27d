"""Adversarial distillation: a critic learns to tell a teacher's heatmaps from the student's, the student to be taken for it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from lmkd.core.errors import report_together, unknown
from lmkd.distill.base import OfPoints, TermInputs, TermOutput, TermVariables
from lmkd.distill.critics import Critic, image_on_grid
from lmkd.ops import adversarial as ops


@dataclasses.dataclass(frozen=True)
class Adversarial(OfPoints):
    """One critic for one teacher: its maps are real, the student's are fake.

    Both sides' maps are zero at points that do not count, so that the critic cannot tell them apart by how each network draws
    a point that nobody sees. The critic is a constant for the student and the maps are constants for the critic: the recipe
    sees to that.

    Attributes:
      objective: "non_saturating", "least_squares", "hinge" or "wasserstein"; `ops.adversarial` has the equations.
      conditioned: shows the critic the image too, so that it judges whether maps fit their face.
      spectral_norm: bounds each of the critic's layers (Miyato et al. 2018). With "wasserstein" the penalty alone would do.
      widths: the critic's channels, layer by layer; each halves the grid.
      map_scale: factor on the maps before the critic's first layer.
      label_smoothing: target of real maps is 1 less this (one-sided: Salimans et al. 2016, arXiv 1606.03498, section 3.4);
        for "non_saturating" and "least_squares".
      gradient_penalty: weight of (|gradient| - 1)^2 on the line between real and fake maps; of "wasserstein", and no part of
        the other objectives.
      feature_matching: weight of the mean absolute difference between the critic's activations on both maps, in the
        student's loss (Wang et al. 2018, arXiv 1711.11585, equation 4).
      all_points: the critic also sees maps of points that do not count, being unlabelled or outside of the crop. Faces whose
        points are all unlabelled look empty to it otherwise.
    """

    objective: str = "non_saturating"
    conditioned: bool = False
    spectral_norm: bool = True
    widths: Sequence[int] = (32, 64, 128)
    map_scale: float = 10.0
    label_smoothing: float = 0.0
    gradient_penalty: float = 10.0
    feature_matching: float = 0.0
    source: ClassVar[str] = (
        "Goodfellow et al. 2014, arXiv 1406.2661; between teacher and student: Liu et al. 2019, arXiv 1903.04197, equation 4"
    )
    teachers: ClassVar[str] = "one"

    def __post_init__(self):
        if self.objective not in ops.OBJECTIVES:
            raise unknown("adversarial objective", self.objective, ops.OBJECTIVES)
        report_together(self._problems(), "adversarial term")
        object.__setattr__(self, "widths", tuple(self.widths))

    def init(self, key: Any, inputs: TermInputs) -> TermVariables:
        """Returns the critic's parameters; the spectral norms' vectors are its state."""
        maps, image = self._seen(inputs, inputs.student.heatmaps), self._image(inputs)
        variables = self._critic.init(key, maps, image)
        return TermVariables(critic=variables["params"], state=variables.get("batch_stats", {}))

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns what the student has to gain by fooling the critic, one value a face."""
        image = self._image(inputs)
        scores, features = self._judge(inputs.variables, self._seen(inputs, inputs.student.heatmaps), image)
        values = ops.OBJECTIVES[self.objective].student(scores)
        if not self.feature_matching:
            return TermOutput(values)
        _, wanted = self._judge(inputs.variables, self._seen(inputs, inputs.teacher.heatmaps), image)
        distance = ops.feature_distance(wanted, features)
        return TermOutput(values + self.feature_matching * distance, logs={"feature_distance": distance})

    def critic_loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the critic's loss on both maps of each face, and how often it is right; "wasserstein": also "gap", the
        difference of the two scores, and "gradient_norm", which the penalty holds near 1.
        """
        objective = ops.OBJECTIVES[self.objective]
        real, fake = self._seen(inputs, inputs.teacher.heatmaps), self._seen(inputs, inputs.student.heatmaps)
        image = self._image(inputs)
        twice = None if image is None else jnp.concatenate([image, image])
        scores, state = self._judge_and_update(inputs.variables, jnp.concatenate([real, fake]), twice)
        real_scores, fake_scores = jnp.split(scores, 2)
        values = objective.real(real_scores, self.label_smoothing) + objective.fake(fake_scores)
        if objective.threshold is not None:
            return TermOutput(values, state, ops.accuracies(real_scores, fake_scores, objective.threshold))
        # The scores' zero is arbitrary here. The half-way score is this device's own, which a log may be.
        threshold = ops.midpoint(real_scores, fake_scores, inputs.batch["mask"])
        logs = ops.accuracies(real_scores, fake_scores, threshold) | {"gap": real_scores - fake_scores}
        if self.gradient_penalty:
            between = ops.interpolates(inputs.key, real, fake)
            norms = ops.gradient_norms(lambda maps: self._judge(inputs.variables, maps, image)[0], between)
            values = values + self.gradient_penalty * jnp.square(norms - 1.0)
            logs |= {"gradient_norm": norms}
        return TermOutput(values, state, logs)

    @property
    def _critic(self) -> Critic:
        return Critic(tuple(self.widths), self.spectral_norm, self.map_scale)

    def _image(self, inputs: TermInputs) -> Any:
        height, width = inputs.student.heatmaps.shape[1:3]
        return image_on_grid(inputs.batch["image"], (height, width)) if self.conditioned else None

    def _seen(self, inputs: TermInputs, heatmaps: Any) -> Any:
        """The maps as the critic sees them. By `where`: an uncounted map may hold anything."""
        maps = heatmaps.astype(jnp.float32)
        return jnp.where(self.counted(inputs)[:, None, None, :] > 0, maps, 0.0)

    def _judge(self, variables: TermVariables, maps: Any, image: Any) -> Any:
        return self._critic.apply({"params": variables.critic, "batch_stats": variables.state}, maps, image)

    def _judge_and_update(self, variables: TermVariables, maps: Any, image: Any) -> Any:
        own = {"params": variables.critic, "batch_stats": variables.state}
        if not self.spectral_norm:
            return self._critic.apply(own, maps, image)[0], None
        (scores, _), changed = self._critic.apply(own, maps, image, update_stats=True, mutable=["batch_stats"])
        return scores, changed["batch_stats"]

    def _problems(self) -> list[str]:
        found = []
        widths = list(self.widths)
        if not widths or any(not isinstance(w, int) or w < 1 for w in widths):
            found.append(f"widths={self.widths!r}: give one or more whole numbers from 1, e.g. (32, 64, 128)")
        if not 0.0 <= self.label_smoothing < 0.5:
            found.append(f"label_smoothing={self.label_smoothing}: allowed are 0 up to (not including) 0.5")
        elif self.label_smoothing and not ops.OBJECTIVES[self.objective].smooths:
            fit = [name for name, objective in ops.OBJECTIVES.items() if objective.smooths]
            found.append(
                f"label_smoothing={self.label_smoothing}: {self.objective!r} has no labels; use 0, or {' or '.join(fit)}"
            )
        for name in ("gradient_penalty", "feature_matching"):
            if getattr(self, name) < 0:
                found.append(f"{name}={getattr(self, name)}: a weight is 0 or more")
        if self.map_scale <= 0:
            found.append(f"map_scale={self.map_scale}: give a number above 0")
        if self.objective == "wasserstein" and not self.gradient_penalty and not self.spectral_norm:
            found.append("'wasserstein' with gradient_penalty=0 and spectral_norm=False: nothing bounds the critic; set one")
        return found
