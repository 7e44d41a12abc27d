"""Terms on channels: known values, a perfect match, claimed invariances, adapters, grids that differ, devices, taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.distill.base import TermInputs, TermVariables
from lmkd.distill.taps import at_grid
from lmkd.distill.terms.channel import AttentionMaps, ChannelAttention, ChannelKL
from lmkd.models import heads, hrnet
from lmkd.models.landmarker import Landmarker, Outputs
from lmkd.models.readout import Heatmaps
from lmkd.ops import heatmaps

FACES = 4


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs_with(student, teacher, *, counts=None, mask=None) -> TermInputs:
    """Networks given as dicts of taps, "heatmaps" among them."""
    both = [
        Outputs(taps.get("heatmaps"), None, {k: v for k, v in taps.items() if k != "heatmaps"}) for taps in (student, teacher)
    ]
    batch = {"mask": jnp.ones(FACES) if mask is None else jnp.asarray(mask, jnp.float32)}
    return TermInputs(both[0], batch, None, counts, 4.0, jax.random.key(0), {"w32": both[1]})


def on_features(student, teacher, **options) -> TermInputs:
    return inputs_with({"features": jnp.asarray(student)}, {"features": jnp.asarray(teacher)}, **options)


def with_variables(term, inputs) -> TermInputs:
    return inputs._replace(variables=term.init(jax.random.key(1), inputs))


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x, (1, 2), keepdims=True))
    return e / e.sum((1, 2), keepdims=True)


def divergence(teacher, student, temperature):
    """T^2 KL in float64, [b, c]."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * (p * np.log(p / q)).sum((1, 2))


# --- channel-distribution KL ---


def test_kl_is_the_paper_s_mean_over_channels():
    student, teacher = noise(0, FACES, 5, 6, 3), noise(1, FACES, 5, 6, 3)
    term = ChannelKL(temperature=2.0)
    inputs = on_features(student, teacher)
    assert term.init(jax.random.key(0), inputs) == TermVariables()
    np.testing.assert_allclose(term.loss(inputs).values, divergence(teacher, student, 2.0).mean(1), rtol=1e-4)


def test_kl_is_zero_at_a_match_up_to_a_number_added_to_each_channel():
    teacher = noise(0, FACES, 5, 6, 3)
    inputs = on_features(teacher + noise(1, 1, 1, 1, 3), teacher)

    def total(student):
        return jnp.sum(ChannelKL().loss(inputs._replace(student=student)).values)

    value, gradient = jax.jit(jax.value_and_grad(total))(inputs.student)
    assert abs(float(value)) < 1e-4 and float(jnp.abs(gradient.taps["features"]).max()) < 1e-6


def test_kl_lifts_the_student_s_channels_by_a_product_without_bias():
    student, teacher = noise(0, FACES, 5, 6, 2), noise(1, FACES, 5, 6, 3)
    term = ChannelKL()
    inputs = with_variables(term, on_features(student, teacher))
    assert jax.tree.map(jnp.shape, inputs.variables.adapter) == {"lift": {"kernel": (1, 1, 2, 3)}}
    kernel = np.asarray(inputs.variables.adapter["lift"]["kernel"], np.float64)[0, 0]
    np.testing.assert_allclose(term.loss(inputs).values, divergence(teacher, student @ kernel, 4.0).mean(1), rtol=1e-4)

    def total(adapter, student):
        variables = TermVariables(adapter=adapter)
        return jnp.sum(term.loss(inputs._replace(student=student, variables=variables)).values)

    of_adapter, of_student = jax.jit(jax.grad(total, argnums=(0, 1)))(inputs.variables.adapter, inputs.student)
    assert float(jnp.abs(of_adapter["lift"]["kernel"]).min()) > 1e-6
    assert float(jnp.abs(of_student.taps["features"]).max()) > 1e-6


def test_when_channels_are_lifted():
    same = on_features(noise(0, FACES, 4, 4, 3), noise(1, FACES, 4, 4, 3))
    fewer = on_features(noise(0, FACES, 4, 4, 2), noise(1, FACES, 4, 4, 3))
    adapters = {
        (adapt, name): bool(ChannelKL(adapt=adapt).init(jax.random.key(0), inputs).adapter)
        for adapt in ("auto", "always", "never")
        for name, inputs in (("same", same), ("fewer", fewer))
        if (adapt, name) != ("never", "fewer")
    }
    assert [case for case, lifted in adapters.items() if lifted] == [("auto", "fewer"), ("always", "same"), ("always", "fewer")]
    with pytest.raises(UserError, match="'features' has 2 channels in the student and 3 in the teacher.*Give adapt='auto'"):
        ChannelKL(adapt="never").loss(fewer)
    # An identity in the place of what was drawn changes nothing.
    lifted = same._replace(variables=TermVariables(adapter={"lift": {"kernel": jnp.eye(3)[None, None]}}))
    np.testing.assert_allclose(ChannelKL(adapt="always").loss(lifted).values, ChannelKL().loss(same).values, rtol=1e-5)


def test_kl_brings_the_teacher_to_the_student_s_grid():
    student, teacher = noise(0, FACES, 4, 4, 3), noise(1, FACES, 8, 8, 3)
    small = np.asarray(at_grid(jnp.asarray(teacher), (4, 4)))
    found = ChannelKL().loss(on_features(student, teacher)).values
    np.testing.assert_allclose(found, divergence(small, student, 4.0).mean(1), rtol=1e-4)


def test_grids_are_antialiased():
    x = np.arange(8, dtype=np.float32)
    ramp = jnp.asarray(np.broadcast_to(x[None, None, :, None], (1, 8, 8, 1)))
    assert at_grid(ramp, (8, 8)) is ramp
    # Halved: cell u covers 2 u and 2 u + 1, so the ramp reads 2 u + 0.5 there; the triangle's weights are (1, 3, 3, 1) / 8.
    np.testing.assert_allclose(at_grid(ramp, (4, 4))[0, 1, 1:3, 0], [2.5, 4.5], rtol=1e-6)
    spike = jnp.zeros((1, 8, 8, 1)).at[0, 3, 3, 0].set(64.0)
    expected = np.zeros((4, 4))
    expected[1:3, 1:3] = [[9, 3], [3, 1]]
    np.testing.assert_allclose(at_grid(spike, (4, 4))[0, :, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize("tap", ["heatmaps", "logits"])
def test_on_the_points_maps_only_counted_points_have_a_say(tap):
    student, teacher = noise(0, FACES, 4, 4, 3), noise(1, FACES, 4, 4, 3)
    counts = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 1], [0, 0, 0]], np.float32)
    inputs = inputs_with({tap: jnp.asarray(student)}, {tap: jnp.asarray(teacher)}, counts=jnp.asarray(counts))
    each = divergence(teacher, student, 0.5)
    expected = (each * counts).sum(1) / np.maximum(counts.sum(1), 1)
    np.testing.assert_allclose(ChannelKL(tap, temperature=0.5).loss(inputs).values, expected, rtol=1e-4)
    found = ChannelKL(tap, temperature=0.5, all_points=True).loss(inputs).values
    np.testing.assert_allclose(found, each.mean(1), rtol=1e-4)


# --- channel attention ---


def test_attention_compares_pooled_statistics_whatever_the_grids():
    s, t = noise(0, FACES, 4, 4, 3), noise(1, FACES, 6, 5, 3)
    inputs = inputs_with(
        {"stem": jnp.asarray(s), "stage1": jnp.asarray(2 * s)}, {"stem": jnp.asarray(t), "stage1": jnp.asarray(t)}
    )

    def gap(statistic, a, b):
        return np.square(statistic(a, axis=(1, 2)) - statistic(b, axis=(1, 2))).mean(1)

    term = ChannelAttention(("stem", "stage1"), connectors=False)
    means = gap(np.mean, s, t) + gap(np.mean, 2 * s, t)
    np.testing.assert_allclose(term.loss(inputs).values, means, rtol=1e-4)
    term = ChannelAttention(("stem", "stage1"), connectors=False, statistics="mean_variance")
    np.testing.assert_allclose(term.loss(inputs).values, means + gap(np.var, s, t) + gap(np.var, 2 * s, t), rtol=1e-4)
    assert term.init(jax.random.key(0), inputs) == TermVariables()


def test_attention_is_zero_where_cells_are_only_rearranged():
    teacher = noise(0, FACES, 4, 4, 3)
    inputs = on_features(teacher[:, ::-1].transpose(0, 2, 1, 3), teacher)
    term = ChannelAttention(("features",), connectors=False, statistics="mean_variance")

    def total(student):
        return jnp.sum(term.loss(inputs._replace(student=student)).values)

    value, gradient = jax.jit(jax.value_and_grad(total))(inputs.student)
    assert abs(float(value)) < 1e-10 and float(jnp.abs(gradient.taps["features"]).max()) < 1e-6


def test_a_connector_is_convolution_batch_norm_relu_over_counted_faces():
    student, teacher = noise(0, FACES, 4, 4, 2), noise(1, FACES, 4, 4, 3)
    mask = np.array([1, 1, 0, 1], np.float32)
    term = ChannelAttention(("features",), axis_name=None)
    inputs = with_variables(term, on_features(student, teacher, mask=mask))
    own = inputs.variables.adapter["features"]
    own = {**own, "scale": jnp.asarray([1.0, 2.0, -1.0]), "bias": jnp.asarray([0.5, 0.0, 0.1])}
    inputs = inputs._replace(variables=TermVariables(adapter={"features": own}))
    x = student.astype(np.float64) @ np.asarray(own["conv"]["kernel"], np.float64)[0, 0]
    counted = x[mask > 0].reshape(-1, 3)
    x = (x - counted.mean(0)) / np.sqrt(counted.var(0) + 1e-5) * np.asarray(own["scale"]) + np.asarray(own["bias"])
    expected = np.square(np.maximum(x, 0).mean((1, 2)) - teacher.mean((1, 2))).mean(1)
    np.testing.assert_allclose(term.loss(inputs).values, expected, rtol=1e-4)
    # What a padded face holds changes no other face.
    changed = with_variables(term, on_features(np.where(mask.reshape(-1, 1, 1, 1) > 0, student, 99.0), teacher, mask=mask))
    changed = changed._replace(variables=inputs.variables)
    np.testing.assert_array_equal(
        np.asarray(term.loss(changed).values)[mask > 0], np.asarray(term.loss(inputs).values)[mask > 0]
    )


@pytest.mark.parametrize("statistics", ["mean", "mean_variance"])
def test_two_devices_equal_one(statistics):
    """Values, and the psum of sums' gradients as the step takes it; the devices count unlike numbers of faces."""
    if jax.local_device_count() < 2:
        pytest.skip("one device here")
    mask = np.array([1, 0, 1, 1], np.float32)
    inputs = on_features(noise(0, FACES, 4, 4, 2), noise(1, FACES, 4, 4, 3), mask=mask)
    alone = ChannelAttention(("features",), statistics=statistics, axis_name=None)
    mapped = ChannelAttention(("features",), statistics=statistics)
    adapter = mapped.init(jax.random.key(0), inputs).adapter  # outside of a map: needs no axis

    def gradients(term, adapter, parts):
        student, teacher, mask = parts

        def total(adapter, student):
            own = on_features(student, teacher, mask=mask)._replace(variables=TermVariables(adapter=adapter))
            values = term.loss(own).values
            return jnp.sum(jnp.where(mask > 0, values, 0.0)), values

        (_, values), grads = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(adapter, student)
        return values, grads

    def step(adapter, parts):
        values, (of_adapter, of_student) = gradients(mapped, adapter, parts)
        return values, jax.lax.psum(of_adapter, "batch"), of_student

    parts = (inputs.student.taps["features"], inputs.teacher.taps["features"], jnp.asarray(mask))
    values, (of_adapter, of_student) = jax.jit(lambda a, p: gradients(alone, a, p))(adapter, parts)
    halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), parts)
    run = jax.pmap(step, axis_name="batch", in_axes=(None, 0), out_axes=(0, None, 0), devices=jax.local_devices()[:2])
    found = run(adapter, halves)
    np.testing.assert_allclose(np.ravel(found[0]), values, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), found[1], of_adapter)
    np.testing.assert_allclose(np.reshape(found[2], of_student.shape), of_student, rtol=1e-3, atol=1e-6)
    assert all(float(jnp.abs(g).max()) > 1e-6 for g in (*jax.tree.leaves(of_adapter), of_student))


def test_attention_without_connectors_needs_equal_channels():
    inputs = on_features(noise(0, FACES, 4, 4, 2), noise(1, FACES, 4, 4, 3))
    with pytest.raises(UserError, match="'features' has 2 channels in the student and 3 in the teacher. Give connectors=True"):
        ChannelAttention(("features",), connectors=False).loss(inputs)


# --- attention maps ---


def test_attention_maps_are_the_paper_s_summed_over_taps():
    s, t = noise(0, FACES, 4, 4, 2), noise(1, FACES, 4, 4, 5)
    inputs = inputs_with(
        {"stem": jnp.asarray(s), "stage1": jnp.asarray(3 * s)}, {"stem": jnp.asarray(t), "stage1": jnp.asarray(t)}
    )
    q = [np.square(x.astype(np.float64)).sum(-1).reshape(FACES, -1) for x in (s, t)]
    q = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in q]
    once = np.linalg.norm(q[0] - q[1], axis=1)
    np.testing.assert_allclose(AttentionMaps(("stem",)).loss(inputs).values, once, rtol=1e-5)
    # Three times the activation is the same attention.
    np.testing.assert_allclose(AttentionMaps(("stem", "stage1")).loss(inputs).values, 2 * once, rtol=1e-5)


def test_attention_maps_match_up_to_scale_sign_and_grid():
    teacher = noise(0, FACES, 8, 8, 3)
    smooth = at_grid(at_grid(jnp.asarray(teacher), (2, 2)), (8, 8))  # what a coarser grid can hold
    inputs = on_features(-0.01 * smooth, smooth)

    def total(student):
        return jnp.sum(AttentionMaps(("features",)).loss(inputs._replace(student=student)).values)

    value, gradient = jax.jit(jax.value_and_grad(total))(inputs.student)
    assert abs(float(value)) < 1e-5 and np.isfinite(gradient.taps["features"]).all()
    flat = jnp.ones((FACES, 4, 4, 2))
    np.testing.assert_allclose(
        AttentionMaps(("features",)).loss(on_features(flat, jnp.ones((FACES, 8, 8, 5)))).values, 0.0, atol=1e-6
    )
    far = AttentionMaps(("features",)).loss(on_features(noise(1, FACES, 4, 4, 2), teacher)).values
    assert (np.asarray(far) > 0.1).all() and (np.asarray(far) < 2**0.5).all()


# --- all of them ---


@pytest.mark.parametrize(
    "term",
    [ChannelKL(), ChannelAttention(("features",), axis_name=None), AttentionMaps(("features",))],
    ids=lambda t: type(t).__name__,
)
def test_bfloat16_maps_give_float32_values(term):
    maps = [jnp.asarray(noise(n, FACES, 4, 4, c), jnp.bfloat16) for n, c in ((0, 2), (1, 3))]
    wide = on_features(*(m.astype(jnp.float32) for m in maps))
    variables = term.init(jax.random.key(0), wide) if hasattr(term, "init") else TermVariables()
    narrow = on_features(*maps)
    found, exact = (term.loss(x._replace(variables=variables)).values for x in (narrow, wide))
    assert found.dtype == jnp.float32 and found.shape == (FACES,)
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("kind", [ChannelAttention, AttentionMaps])
def test_a_missing_tap_is_named_with_those_that_there_are(kind):
    inputs = inputs_with({"stage2.0": jnp.zeros((FACES, 4, 4, 2))}, {"stage2.1": jnp.zeros((FACES, 4, 4, 2))})
    with pytest.raises(
        UserError, match=r"unknown tap 'stage2.2' .the student.. Did you mean 'stage2.0'. Allowed: heatmaps, stage2.0"
    ):
        kind(("stage2.2",)).loss(inputs)
    with pytest.raises(UserError, match=r"unknown tap 'stage2.0' .teacher w32.. Did you mean 'stage2.1'"):
        kind(("stage2.0",)).loss(inputs)
    without = {"connectors": False} if kind is ChannelAttention else {}
    np.testing.assert_array_equal(kind(("stage2.0",), ("stage2.1",), **without).loss(inputs).values, jnp.zeros(FACES))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ChannelKL(temperature=0.0), "temperature: needs more than 0, got 0.0"),
        (lambda: ChannelKL(adapt="allways"), "unknown way to adapt 'allways'.* Did you mean 'always'"),
        (lambda: ChannelAttention(()), "taps: needs one at least"),
        (lambda: ChannelAttention(("stem", "stem")), "taps: stem, stem names one twice"),
        (lambda: ChannelAttention(statistics="var"), "unknown statistics 'var'.* Allowed: mean, mean_variance"),
        (lambda: AttentionMaps(("stem",), ("stem", "stage1")), "teacher_taps: 2 names for 1 taps"),
        (lambda: AttentionMaps(power=0.5), "power: needs at least 1, got 0.5"),
    ],
)
def test_wrong_options_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_the_taps_of_real_networks_fit():
    """Shapes alone: a slim student and a teacher with another head and a larger input."""

    def outputs(head, side, **sizes):
        backbone = hrnet.HRNet(modules=(1, 1, 1), blocks=1, stage1_blocks=1, stem_width=4, **sizes)
        net = Landmarker(backbone, head(num_points=3), Heatmaps(lambda h: heatmaps.argmax(h, sigma_cells=1.0)))
        image = jax.ShapeDtypeStruct((FACES, side, side, 3), jnp.uint8)
        return jax.eval_shape(lambda x: net.apply(net.init(jax.random.key(0), x), x), image)

    student = outputs(heads.V2, 64, width=2, stage1_width=2)
    teacher = outputs(heads.V1, 128, width=4, stage1_width=4)
    every = tuple(name for name in student.taps if name != "logits")
    assert {"stem", "stage1", "stage2.0", "stage2.1", "stage3.2", "stage4.3", "features"} <= set(every)
    terms = [ChannelKL("features"), ChannelKL("stage4.3"), ChannelAttention(every, axis_name=None), AttentionMaps(every)]

    def run(student, teacher):
        batch = {"mask": jnp.ones(FACES)}
        inputs = TermInputs(student, batch, None, jnp.ones((FACES, 3)), 4.0, jax.random.key(0), {"w32": teacher})
        return [t.loss(with_variables(t, inputs) if hasattr(t, "init") else inputs).values for t in terms]

    assert [x.shape for x in jax.eval_shape(run, student, teacher)] == [(FACES,)] * len(terms)
