import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.models import layers


def along_x(values):
    return jnp.asarray(values, jnp.float32).reshape(1, 1, -1, 1)


def conv_with(kernel, x, **options):
    kernel = jnp.asarray(kernel, jnp.float32)
    return layers.Conv(kernel.shape[-1], kernel.shape[0], **options).apply({"params": {"kernel": kernel}}, x)


def one_tap(row, column):
    kernel = np.zeros((3, 3, 1, 1))
    kernel[row, column] = 1
    return kernel


@pytest.mark.parametrize(("column", "expected"), [(0, [0, 2, 4]), (1, [1, 3, 5]), (2, [2, 4, 6])])
def test_stride_2_pads_both_sides_like_pytorch(column, expected):
    # With padding 1 on the left, output i has its centre on input 2 i; "SAME" would put it on 2 i + 1.
    y = conv_with(one_tap(1, column), along_x([1, 2, 3, 4, 5, 6]), stride=2)
    np.testing.assert_array_equal(y[0, 0, :, 0], expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_1x1_product_equals_a_convolution(stride):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, 5, 4, 3)), jnp.float32)
    kernel = random.normal(size=(1, 1, 3, 6)).astype(np.float32)
    expected = np.einsum("bhwi,io->bhwo", x[:, ::stride, ::stride], kernel[0, 0])
    np.testing.assert_allclose(conv_with(kernel, x, stride=stride), expected, rtol=1e-5, atol=1e-6)


def test_conv_bias_and_first_values():
    conv = layers.Conv(200, use_bias=True)
    params = conv.init(jax.random.key(0), jnp.zeros((1, 4, 4, 50)))["params"]
    assert params["kernel"].shape == (3, 3, 50, 200)
    assert float(params["kernel"].std()) == pytest.approx(np.sqrt(2 / (9 * 200)), rel=0.02)  # He, fan out
    assert not params["bias"].any()
    y = conv.apply({"params": {**params, "bias": jnp.arange(200.0)}}, jnp.zeros((1, 4, 4, 50)))
    np.testing.assert_array_equal(y[0, 2, 1], np.arange(200.0))


def test_output_dtype_keeps_the_accumulator():
    # 256 + 1 needs 9 bits of mantissa; bfloat16 has 8.
    x = jnp.asarray([256.0, 1.0]).reshape(1, 1, 1, 2)
    kernel = np.ones((1, 1, 2, 1))
    assert float(conv_with(kernel, x, dtype=jnp.bfloat16)[0, 0, 0, 0]) == 256
    assert float(conv_with(kernel, x, dtype=jnp.bfloat16, output_dtype=jnp.float32)[0, 0, 0, 0]) == 257


@pytest.mark.parametrize(
    ("values", "target", "expected"),
    [
        ([0, 1], 4, [0, 0.25, 0.75, 1]),
        ([0, 8], 8, [0, 0, 1, 3, 5, 7, 8, 8]),  # factor 4: positions -0.375, -0.125, 0.125, 0.375, ...
        ([0, 1, 4], 6, [0, 0.25, 0.75, 1.75, 3.25, 4]),
        ([0, 6], 3, [0, 3, 6]),  # factor 1.5: positions -1/6, 1/2, 7/6
        ([5], 3, [5, 5, 5]),
    ],
)
def test_bilinear_by_hand(values, target, expected):
    y = layers.upsample(along_x(values), (1, target))
    np.testing.assert_allclose(y[0, 0, :, 0], expected, atol=1e-6)


def test_bilinear_of_a_plane_is_the_plane_inside():
    row, column = np.mgrid[0:4, 0:6].astype(np.float32)
    x = jnp.stack([row, column, 2 * row - column], -1)[None]
    y = np.asarray(layers.upsample(x, (16, 12)))
    row, column = np.mgrid[0:16, 0:12]
    row, column = (row + 0.5) / 4 - 0.5, (column + 0.5) / 2 - 0.5
    expected = np.stack([row, column, 2 * row - column], -1)
    np.testing.assert_allclose(y[0, 2:-2, 1:-1], expected[2:-2, 1:-1], atol=1e-5)


def test_nearest_repeats_cells():
    x = jnp.asarray([[1, 2], [3, 4]], jnp.float32).reshape(1, 2, 2, 1)
    y = layers.upsample(x, (4, 6), "nearest")
    expected = [[1, 1, 1, 2, 2, 2]] * 2 + [[3, 3, 3, 4, 4, 4]] * 2
    np.testing.assert_array_equal(y[0, :, :, 0], expected)


@pytest.mark.parametrize("method", layers.UPSAMPLING)
def test_upsample_keeps_the_dtype_and_maps_of_the_right_size(method):
    x = jnp.ones((1, 2, 2, 3), jnp.bfloat16)
    assert layers.upsample(x, (4, 4), method).dtype == jnp.bfloat16
    assert layers.upsample(x, (2, 2), method) is x


def test_upsample_errors():
    x = jnp.ones((1, 4, 4, 1))
    with pytest.raises(UserError, match="unknown up-sampling 'bilinaer'.*Did you mean 'bilinear'"):
        layers.upsample(x, (8, 8), "bilinaer")
    with pytest.raises(UserError, match="from 4x4 to 7x7 cells.*multiple of 32"):
        layers.upsample(x, (7, 7), "nearest")


@pytest.mark.parametrize(("stride", "side", "size"), [(1, 5, 3), (2, 5, 3), (2, 6, 3), (1, 4, 5), (2, 7, 5)])
def test_depthwise_equals_the_grouped_convolution_with_its_gradients(stride, side, size):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, side, side + 1, 3)), jnp.float32)
    kernel = jnp.asarray(random.normal(size=(size, size, 1, 3)), jnp.float32)

    def ours(x, kernel):
        return layers.DepthwiseConv(stride, size).apply({"params": {"kernel": kernel}}, x)

    def grouped(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        padding = [(size // 2, size // 2)] * 2
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=numbers, feature_group_count=3
        )

    @jax.jit
    def both(x, kernel):
        values = []
        for function in (ours, grouped):
            y, pull = jax.vjp(function, x, kernel)
            values.append((y, *pull(jnp.cos(y))))
        return values

    for mine, theirs in zip(*both(x, kernel), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(2, [-2, -4]), (3, [-2, -2, -4])],  # of columns 0-1, 2-3; and of 0-1, 1-3, 3-4: what is outside is never the maximum
)
def test_max_pool_pads_like_pytorch(size, expected):
    y = layers.max_pool(jnp.broadcast_to(along_x([-3, -2, -5, -4, -6]), (1, 5, 5, 1)), size)
    np.testing.assert_array_equal(y[0, 0, :, 0], expected)
    assert y.shape[1] == len(expected)


def test_depthwise_sums_in_float32():
    # 256 + 1 needs 9 bits of mantissa, bfloat16 has 8: only the last rounding may lose the 1s.
    x = jnp.asarray([256.0, 1.0, 1.0]).reshape(1, 1, 3, 1)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1] = 1
    y = layers.DepthwiseConv(dtype=jnp.bfloat16).apply({"params": {"kernel": kernel}}, x)
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0, 1, 0]) == 258


def test_separable_first_values_and_parts():
    module = layers.SeparableConvNorm(6, stride=2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 500)), jnp.float32)
    y, variables = module.init_with_output(jax.random.key(0), x, False)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    bn = {"scale": (6,), "bias": (6,)}
    assert shapes == {"depthwise": {"kernel": (3, 3, 1, 500)}, "pointwise": {"kernel": (1, 1, 500, 6)}, "bn": bn}
    assert y.shape == (1, 2, 2, 6)
    assert float(variables["params"]["depthwise"]["kernel"].std()) == pytest.approx(np.sqrt(2 / 9), rel=0.05)


def test_batch_norm_trains_on_the_batch_and_evaluates_on_the_running_statistics():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (8, 4, 4, 5)), jnp.float32)
    norm = layers.batch_norm(momentum=0.75)
    variables = norm(use_running_average=False).init(jax.random.key(0), x)
    y, updated = norm(use_running_average=False).apply(variables, x, mutable=["batch_stats"])
    x = np.asarray(x)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-4)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.25 * mean, rtol=1e-4)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.75 + 0.25 * var, rtol=1e-4)
    z = norm(use_running_average=True).apply({**variables, **updated}, jnp.asarray(x))
    expected = (x - 0.25 * mean) / np.sqrt(0.75 + 0.25 * var + 1e-5)
    np.testing.assert_allclose(z, expected, atol=1e-4)


def test_batch_norm_over_an_axis_equals_the_whole_batch():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (8, 4, 4, 5)), jnp.float32)
    variables = layers.batch_norm()(use_running_average=False).init(jax.random.key(0), x)
    split = layers.batch_norm(axis_name="batch")(use_running_average=False)

    def on_one_device(share):
        return split.apply(variables, share, mutable=["batch_stats"])

    y, updated = jax.vmap(on_one_device, axis_name="batch")(x.reshape(2, 4, 4, 4, 5))
    x = np.asarray(x)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y.reshape(x.shape), (x - mean) / np.sqrt(var + 1e-5), atol=1e-4)
    np.testing.assert_allclose(updated["batch_stats"]["mean"][1], 0.1 * mean, rtol=1e-4)


def test_a_parameter_of_another_shape_is_refused_as_flax_does():
    image = jnp.zeros((1, 4, 4, 2))
    variables = layers.Conv(3).init(jax.random.key(0), image)
    with pytest.raises(flax.errors.ScopeParamShapeError, match="kernel"):
        layers.Conv(5).apply(variables, image)
