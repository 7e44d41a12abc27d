"""The attack: inside its ball, never weaker than what it has seen, and one step equal to NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny

from lmkd.models import attack
from lmkd.ops import heatmaps

SIDE, STRIDE, POINTS = 16, 4, 3


@pytest.fixture(scope="module")
def setting():
    """A tiny landmarker (with batch norm), two faces, and one compiled attack of any radius and number of steps."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)
    truth = jnp.asarray(generator.uniform(2, 14, (2, POINTS, 2)), jnp.float32)
    model = tiny(norm=True)
    variables = model.init(jax.random.key(1), image[:1])

    def predict(pictures):
        return model.apply(variables, pictures).heatmaps

    @jax.jit
    def run(epsilon, steps, visible=((1.0, 1.0, 0.0), (1.0, 1.0, 1.0))):
        visible = jnp.asarray(visible)
        options = {"epsilon": epsilon, "steps": steps, "stride": STRIDE, "key": jax.random.key(2)}
        attacked = attack.pgd(predict, jnp.asarray(image), truth, visible, **options)
        return attacked, attack.point_distance_px(predict(attacked), truth, visible, stride=STRIDE)

    return image, run


def test_it_stays_within_epsilon_and_levels(setting):
    image, run = setting
    attacked = np.asarray(run(8.0, 5)[0])
    assert np.abs(attacked - image).max() == pytest.approx(8.0, abs=1e-3)
    assert attacked.min() >= 0 and attacked.max() <= 255


def test_the_objective_grows_with_epsilon_and_with_steps(setting):
    _, run = setting
    clean = np.asarray(run(0.0, 0)[1])
    by_epsilon = np.array([np.asarray(run(e, 10)[1]) for e in (2.0, 4.0, 8.0, 16.0)])
    assert np.all(by_epsilon[0] > clean) and np.all(np.diff(by_epsilon, axis=0) > 0)
    few, many = (np.asarray(run(8.0, steps)[1]) for steps in (0, 10))
    assert np.all(few >= clean) and np.all(many > few)


def test_zero_epsilon_returns_the_clean_picture(setting):
    image, run = setting
    np.testing.assert_array_equal(np.asarray(run(0.0, 3)[0]), image)


def test_a_face_without_visible_points_comes_back_as_it_was(setting):
    image, run = setting
    attacked = np.asarray(run(8.0, 5, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))[0])
    np.testing.assert_array_equal(attacked[0], image[0])
    assert np.isfinite(attacked).all() and np.abs(attacked[1] - image[1]).max() > 1


def test_the_strongest_picture_is_kept_even_where_steps_lead_back():
    # One map whose mass wanders from cell 0, the true one, to cell 3 as a pixel's level nears 104. From 103 the gradient points
    # up, and a step of 8 overshoots to 111, where all mass is back on the true cell.
    def predict(image):
        away = jnp.clip(4.0 - jnp.abs(image[:, 0, 0, 0] - 104.0), 0.0, None) / 4.0
        far = away[:, None, None, None] * np.eye(4, dtype=np.float32)[3][None, None, :, None]
        near = (1.0 - away)[:, None, None, None] * np.eye(4, dtype=np.float32)[0][None, None, :, None]
        return jnp.broadcast_to(far + near, (1, 4, 4, 1))

    image = np.full((1, SIDE, SIDE, 3), 103.0, np.float32)
    truth = np.asarray(heatmaps.px_from_cells(jnp.zeros((1, 1, 2)), STRIDE))
    options = {"epsilon": 8.0, "steps": 1, "step_size": 8.0, "stride": STRIDE, "key": jax.random.key(0), "random_start": False}
    attacked = attack.pgd(predict, jnp.asarray(image), jnp.asarray(truth), jnp.ones((1, 1)), **options)
    np.testing.assert_array_equal(np.asarray(attacked), image)


def test_one_step_on_a_linear_model_is_numpys():
    generator = np.random.default_rng(3)
    side, h, w, k = 4, 3, 5, 2
    weight = generator.normal(size=(side * side * 3, h * w, k)) / 40
    image = generator.uniform(0, 255, (1, side, side, 3)).astype(np.float32)
    truth = generator.uniform(0, 12, (1, k, 2)).astype(np.float32)
    visible = np.array([[1.0, 1.0]], np.float32)

    def predict(pictures):
        return jnp.einsum("bi,ijk->bjk", pictures.reshape(1, -1), weight.astype(np.float32)).reshape(1, h, w, k)

    options = {"epsilon": 3.0, "steps": 1, "step_size": 2.0, "stride": 4.0, "key": jax.random.key(0), "random_start": False}
    attacked = attack.pgd(predict, jnp.asarray(image), jnp.asarray(truth), jnp.asarray(visible), **options)

    flat = image.reshape(-1).astype(np.float64)
    before, gradient = by_hand(flat, weight, truth[0].astype(np.float64), h, w)
    moved = np.clip(flat + 2.0 * np.sign(gradient), 0, 255)
    after, _ = by_hand(moved, weight, truth[0].astype(np.float64), h, w)
    assert after > before  # else the expected picture would be the clean one
    np.testing.assert_allclose(np.asarray(attacked).reshape(-1), moved, atol=1e-3)


def by_hand(flat, weight, truth_px, h, w, stride=4.0, temperature=0.1):
    """The objective and its gradient in NumPy float64, the softmax's derivative written out."""
    rows, columns = np.divmod(np.arange(h * w), w)
    cells_px = stride * (np.stack([columns, rows], axis=-1) + 0.5) - 0.5
    distance, gradient = 0.0, np.zeros_like(flat)
    points = weight.shape[-1]
    for point in range(points):
        maps = flat @ weight[..., point]
        sharp = temperature * (maps.max() - maps.min())
        share = np.exp((maps - maps.max()) / sharp)
        share /= share.sum()
        mean = share @ cells_px
        gap = mean - truth_px[point]
        length = np.hypot(*gap)
        by_map = share * ((cells_px - mean) @ (gap / length)) / sharp
        distance, gradient = distance + length / points, gradient + weight[..., point] @ by_map / points
    return distance, gradient


def test_soft_points_are_the_peaks_of_drawn_maps():
    truth = np.array([[[13.0, 30.0], [40.5, 22.5]]], np.float32)
    maps = heatmaps.encode(jnp.asarray(truth), grid=(16, 16), stride=4, sigma_cells=1.5)
    # Within half a cell: 256 empty cells weigh little against the peak.
    np.testing.assert_allclose(np.asarray(attack.soft_points_px(maps, stride=4)), truth, atol=1.0)
    np.testing.assert_allclose(attack.soft_points_px(0.2 * maps, stride=4), attack.soft_points_px(maps, stride=4), atol=1e-3)
