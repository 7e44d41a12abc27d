import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.models import layers
from lmkd.models.heads import V2
from lmkd.models.hrnet import HRNet
from lmkd.models.landmarker import Landmarker, predict
from lmkd.models.readout import Coordinates, Heatmaps

IDENTITY = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def argmax(heatmaps):
    b, h, w, k = heatmaps.shape
    flat = heatmaps.reshape(b, h * w, k)
    index = flat.argmax(1)
    return jnp.stack([index % w, index // w], -1).astype(jnp.float32), flat.max(1)


class Pool(nn.Module):
    """Backbone without parameters: means over 4 x 4 pixels."""

    def __call__(self, x, train):
        b, h, w, c = x.shape
        return [x.reshape(b, h // 4, 4, w // 4, 4, c).mean((2, 4))], {"input": x}


class Edges(nn.Module):
    """Head of three maps: brighter to the right, brighter to the left, bright. Mirroring swaps the first two."""

    def __call__(self, maps, train):
        bright = maps[0].mean(-1)
        padded = jnp.pad(bright, ((0, 0), (0, 0), (1, 1)))
        slope = padded[:, :, 2:] - padded[:, :, :-2]
        return jnp.stack([slope, -slope, bright], -1), {"features": maps[0]}


class Fixed(nn.Module):
    """Head that answers cell (x 1, y 2) with 1 whatever it sees."""

    def __call__(self, maps, train):
        b, h, w, _ = maps[0].shape
        return jnp.zeros((b, h, w, 1)).at[:, 2, 1].set(1.0), {"features": maps[0]}


def test_normalisation_is_the_first_layer():
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[0, 1, 2] = (255, 128, 1)
    model = Landmarker(Pool(), Edges(), Heatmaps(argmax))
    x = model.apply({}, image).taps["input"]
    np.testing.assert_allclose(x[0, 0, 0], [-2.117904, -2.035714, -1.804444], atol=1e-5)
    np.testing.assert_allclose(x[0, 1, 2], [2.248908, 0.205182, -1.787015], atol=1e-4)
    np.testing.assert_array_equal(x, model.apply({}, image.astype(np.float32)).taps["input"])


def test_points_are_in_crop_pixels():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 8:12, 20:24] = 200  # cell x 5, y 2: its middle is pixel (21.5, 9.5)
    outputs = Landmarker(Pool(), Edges(), Heatmaps(argmax), **IDENTITY).apply({}, image)
    np.testing.assert_array_equal(outputs.landmarks_px[0, 2], [21.5, 9.5])
    assert outputs.heatmaps.shape == (1, 8, 8, 3)


def test_predict_gives_confidence():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 8:12, 20:24] = 200
    model = Landmarker(Pool(), Edges(), Heatmaps(argmax), **IDENTITY)
    heatmaps, landmarks_px, confidence = predict(model, {}, image)
    np.testing.assert_array_equal(landmarks_px[0, 2], [21.5, 9.5])
    np.testing.assert_allclose(confidence[0, 2], 200)
    np.testing.assert_allclose(heatmaps[0, 2, 5, 2], 200)


def test_flip_test_changes_nothing_for_an_equivariant_network():
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    model = Landmarker(Pool(), Edges(), Heatmaps(argmax))
    plain = predict(model, {}, image)
    flipped = predict(model, {}, image, flip_permutation=(1, 0, 2))
    for a, b in zip(plain, flipped, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    wrong = predict(model, {}, image, flip_permutation=(0, 1, 2))
    assert np.abs(wrong[0] - plain[0]).max() > 0.1


def test_flip_test_averages_before_it_decodes():
    model = Landmarker(Pool(), Fixed(), Heatmaps(argmax))
    heatmaps, _, confidence = predict(model, {}, np.zeros((1, 32, 32, 3), np.uint8), flip_permutation=(0,))
    expected = np.zeros((8, 8))
    expected[2, 1] = expected[2, 6] = 0.5  # w - 1 - 1 = 6: no shift
    np.testing.assert_array_equal(heatmaps[0, :, :, 0], expected)
    assert float(confidence[0, 0]) == 0.5


class Given(nn.Module):
    """Coordinate head that answers the same points, fractions of the crop, whatever it sees."""

    points: tuple[tuple[float, float], ...]

    def __call__(self, maps, train):
        return jnp.broadcast_to(jnp.asarray(self.points), (maps[0].shape[0], len(self.points), 2)), {}


def test_coordinates_are_fractions_of_the_crop():
    model = Landmarker(Pool(), Given(((0.0, 0.0), (0.25, -0.5))), Coordinates(sigma_cells=1.0))
    outputs = model.apply({}, np.zeros((2, 32, 32, 3), np.uint8))
    # The centre of a crop of 32 pixels is 15.5, its upper border -0.5.
    np.testing.assert_allclose(outputs.landmarks_px, [[[15.5, 15.5], [23.5, -0.5]]] * 2)
    assert outputs.heatmaps.shape == (2, 8, 8, 2)
    # Pixel 15.5 is the border of cells 3 and 4 (centres 13.5 and 17.5): half a cell from both.
    np.testing.assert_allclose(outputs.heatmaps[0, 3:5, 3:5, 0], np.exp(-0.25), rtol=1e-6)


def test_points_have_a_gradient_where_they_are_regressed_and_none_where_they_are_decoded():
    def moved(readout, raw):
        return jax.grad(lambda raw: jnp.sum(readout.read(raw, 32).landmarks_px))(raw)

    np.testing.assert_allclose(moved(Coordinates(), jnp.zeros((1, 2, 2))), 32.0)  # pixels of 32 a crop
    raw = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 8, 8, 2)), jnp.float32)
    centre_of_mass = Heatmaps(lambda h: (jnp.stack([h.mean((1, 2)), h.max((1, 2))], -1), h.max((1, 2))))
    np.testing.assert_array_equal(moved(centre_of_mass, raw), 0.0)


def test_flip_test_of_coordinates_averages_points():
    model = Landmarker(Pool(), Given(((0.25, 0.0), (0.0, 0.25))), Coordinates())
    _, points, _ = predict(model, {}, np.zeros((1, 32, 32, 3), np.uint8), flip_permutation=(1, 0))
    # Mirrored: x = 31 - 23.5 = 7.5 and 15.5, and the two change names.
    np.testing.assert_allclose(points[0], [[(23.5 + 15.5) / 2, (15.5 + 23.5) / 2], [(15.5 + 7.5) / 2, (23.5 + 15.5) / 2]])


def test_grey_is_one_channel():
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[0, 1, 2] = (100, 200, 50)
    x = Landmarker(Pool(), Edges(), Heatmaps(argmax), colour="grey", **IDENTITY).apply({}, image).taps["input"]
    assert x.shape == (1, 4, 4, 1)
    assert float(x[0, 1, 2, 0]) == pytest.approx(0.299 * 100 + 0.587 * 200 + 0.114 * 50, rel=1e-6)


def test_a_frozen_part_has_no_gradient_and_keeps_its_statistics():
    norm = layers.batch_norm()
    backbone, head = HRNet(2, (1, 1, 1), 1, 2, 1, 2, norm=norm), V2(2, norm=norm)
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    frozen = Landmarker(backbone, head, Heatmaps(argmax), frozen=("backbone",))
    shapes = jax.eval_shape(lambda: frozen.init(jax.random.key(0), image))
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.1, x.dtype), shapes)

    def loss(params):
        outputs, updated = frozen.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return jnp.sum(outputs.heatmaps**2), updated["batch_stats"]

    gradients, statistics = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert not any(np.any(g) for g in jax.tree.leaves(gradients["backbone"]))
    assert np.any(gradients["head"]["final"]["bias"])
    before = variables["batch_stats"]
    same = jax.tree.map(np.array_equal, statistics["backbone"], before["backbone"])
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(statistics["head"]["mix"]["bn"]["mean"], before["head"]["mix"]["bn"]["mean"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_whole_landmarker(dtype):
    norm = layers.batch_norm(dtype=dtype)
    backbone = HRNet(4, (1, 1, 1), 1, 2, 1, 4, dtype=dtype, norm=norm)
    model = Landmarker(backbone, V2(5, dtype=dtype, norm=norm), Heatmaps(argmax), dtype=dtype)
    image = jnp.zeros((2, 32, 32, 3), jnp.uint8)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == set(variables["batch_stats"]) == {"backbone", "head"}
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    outputs, updated = jax.eval_shape(lambda v: model.apply(v, image, train=True, mutable=["batch_stats"]), variables)
    assert outputs.heatmaps.shape == (2, 8, 8, 5) and outputs.heatmaps.dtype == jnp.float32
    assert outputs.landmarks_px.shape == (2, 5, 2) and outputs.landmarks_px.dtype == jnp.float32
    assert outputs.taps["features"].shape == (2, 8, 8, 60) and outputs.taps["features"].dtype == dtype
    assert {"stem", "stage1", "stage4.3"} < set(outputs.taps)
    assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
