import gzip
import json
import pickle
import re
import struct
import sys
import types
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.models import heads, weights
from lmkd.models.hrnet import PUBLISHED_NAMES, HRNet
from lmkd.models.landmarker import Landmarker
from lmkd.models.readout import Heatmaps

REFERENCE = Path(__file__).parent / "reference"


def no_decoder(heatmaps):
    return jnp.zeros((heatmaps.shape[0], heatmaps.shape[-1], 2)), heatmaps.max((1, 2))


def shapes_of(backbone, head):
    model = Landmarker(backbone, head, Heatmaps(no_decoder))
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)


@pytest.fixture(scope="module")
def w18():
    """Variables (shapes only) of HRNetV2-W18 with 98 points."""
    return shapes_of(HRNet(width=18), heads.V2(98))


@pytest.fixture
def published():
    """The published network's tensor names and shapes; the values are zeros."""
    spec = json.loads(gzip.decompress((REFERENCE / "hrnetv2_w18_98.json.gz").read_bytes()))
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in spec["shapes"].items()}


def test_every_variable_is_filled_and_transposed(w18, published):
    random = np.random.default_rng(0)
    published["conv1.weight"] = conv = random.normal(size=(64, 3, 3, 3)).astype(np.float32)
    published["stage4.1.fuse_layers.3.0.2.1.running_var"] = variance = random.normal(size=144).astype(np.float32)
    wrapped = {f"module.{name}": value for name, value in published.items()}
    wrapped["module.bn1.num_batches_tracked"] = np.asarray(7)
    variables = weights.convert(wrapped, w18, PUBLISHED_NAMES)
    assert jax.tree.structure(variables) == jax.tree.structure(dict(w18))
    assert {(v.dtype, type(v)) for v in jax.tree.leaves(variables)} == {(np.dtype("float32"), np.ndarray)}
    kernel = variables["params"]["backbone"]["stem"]["conv1"]["conv"]["kernel"]
    assert kernel[0, 2, 1, 40] == conv[40, 1, 0, 2]  # [y, x, in, out] from [out, in, y, x]
    fused = variables["batch_stats"]["backbone"]["stage4"]["module1"]["fuse3_0_step2"]["bn"]
    np.testing.assert_array_equal(fused["var"], variance)


def test_a_grey_network_starts_from_rgb_weights(w18, published):
    grey = jax.tree.map(lambda leaf: leaf, w18)
    grey["params"]["backbone"]["stem"]["conv1"]["conv"]["kernel"] = jax.ShapeDtypeStruct((3, 3, 1, 64), jnp.float32)
    published["conv1.weight"] = conv = np.arange(64 * 27, dtype=np.float32).reshape(64, 3, 3, 3)
    kernel = weights.convert(published, grey, PUBLISHED_NAMES)["params"]["backbone"]["stem"]["conv1"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 1, 64)
    assert kernel[2, 1, 0, 5] == conv[5, 0, 2, 1] + conv[5, 1, 2, 1] + conv[5, 2, 2, 1]


def test_every_problem_is_reported_at_once(w18, published):
    del published["layer1.0.conv1.weight"], published["stage3.2.branches.1.0.bn1.running_var"]
    published["head.3.weight"] = np.zeros((68, 270, 1, 1))
    published["head.3.bias"] = np.zeros(68)
    published["unheard.of"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        weights.convert(published, w18, PUBLISHED_NAMES)
    lines = str(error.value).splitlines()
    assert "(5 problems)" in lines[0]
    assert set(lines[1:]) == {
        "  - missing: layer1.0.conv1.weight (for backbone/stage1/block0/conv1/conv/kernel)",
        "  - missing: stage3.2.branches.1.0.bn1.running_var (for backbone/stage3/module2/branch1_block0/conv1/bn/var)",
        "  - misshapen: head.3.weight is [68, 270, 1, 1], the model needs [98, 270, 1, 1]",
        "  - misshapen: head.3.bias is [68], the model needs [98]",
        "  - extra: unheard.of [3]",
    }


def test_another_architecture_lists_more_than_a_screenful(w18, published):
    few = {name: value for name, value in published.items() if not name.startswith("stage")}
    with pytest.raises(UserError) as error:
        weights.convert(few, w18, PUBLISHED_NAMES)
    assert str(error.value).count("missing: stage") == sum(name.startswith("stage") for name in published)


def test_a_different_head_names_the_way_out(w18, published):
    published["head.3.weight"] = np.zeros((68, 270, 1, 1))
    with pytest.raises(UserError, match="only the head differs: backbone_only=True"):
        weights.convert(published, w18, PUBLISHED_NAMES)


@pytest.mark.parametrize("all_outputs", [True, False])
def test_backbone_of_a_classifier(published, all_outputs):
    head = heads.V2(5) if all_outputs else heads.V1(5)
    shapes = shapes_of(HRNet(width=18, all_outputs=all_outputs), head)
    variables = jax.tree.map(lambda s: np.full(s.shape, 9, np.float32), shapes)
    classifier = {n: v for n, v in published.items() if not n.startswith("head.")}
    for name in (
        "incre_modules.0.0.conv1.weight",
        "downsamp_modules.0.0.weight",
        "final_layer.0.bias",
        "classifier.weight",
    ):
        classifier[name] = np.zeros(2)
    filled = weights.convert(classifier, variables, PUBLISHED_NAMES, backbone_only=True)
    for collection in ("params", "batch_stats"):
        assert all((v == 0).all() for v in jax.tree.leaves(filled[collection]["backbone"]))
        assert all((v == 9).all() for v in jax.tree.leaves(filled[collection].get("head", {})))
    with pytest.raises(UserError, match="extra: stage5"):
        weights.convert({**classifier, "stage5.weight": np.zeros(1)}, variables, PUBLISHED_NAMES, backbone_only=True)


def test_a_head_without_published_weights_says_so(published):
    with pytest.raises(UserError, match="no published network has head/level0/kernel"):
        weights.convert(published, shapes_of(HRNet(width=18), heads.V2p(98, neck_channels=8)), PUBLISHED_NAMES)


def test_reads_npz(tmp_path):
    np.savez(tmp_path / "w.npz", **{"head.0.weight": np.arange(3.0)})
    state = weights.load_state_dict(tmp_path / "w.npz")
    assert list(state) == ["head.0.weight"]
    np.testing.assert_array_equal(state["head.0.weight"], [0, 1, 2])


def test_reads_safetensors(tmp_path):
    numpy_format = pytest.importorskip("safetensors.numpy")
    numpy_format.save_file({"head.0.weight": np.arange(3, dtype=np.float32)}, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(weights.load_state_dict(tmp_path / "w.safetensors")["head.0.weight"], [0, 1, 2])


class Tensor:
    """What `weights` uses of a torch tensor."""

    def __init__(self, values):
        self.values = np.asarray(values, np.float16)

    def float(self):
        return Tensor32(self.values)


class Tensor32:
    def __init__(self, values):
        self.values = values.astype(np.float32)

    def numpy(self):
        return self.values


def test_reads_pth_with_torch_and_never_unpickles_code(tmp_path, monkeypatch):
    options = {}

    def load(path, **given):
        options.update(given)
        return {"epoch": 60, "state_dict": {"head.3.bias": Tensor([1, 2])}}

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    (tmp_path / "w.pth").touch()
    np.testing.assert_array_equal(weights.load_state_dict(tmp_path / "w.pth")["head.3.bias"], [1, 2])
    assert options["weights_only"] is True


@pytest.mark.parametrize(
    ("suffix", "package", "message"),
    [("safetensors", "safetensors.numpy", r'pip install "lmkd\[weights\]"'), ("pth", "torch", "needs torch")],
)
def test_missing_packages(tmp_path, monkeypatch, suffix, package, message):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"w.{suffix}"
    path.touch()
    with pytest.raises(UserError, match=message):
        weights.load_state_dict(path)


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match=r"cannot read '.bin'. Allowed: .npz, .safetensors, .pth, .pt"):
        weights.load_state_dict(tmp_path / "w.bin")
    with pytest.raises(UserError, match="no such file"):
        weights.load_state_dict(tmp_path / "w.npz")
    (tmp_path / "w.npz").write_bytes(b"not a zip file")
    with pytest.raises(UserError, match="cannot be read as .npz"):
        weights.load_state_dict(tmp_path / "w.npz")


class Written:
    """What unpickles as a call that writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "executed"))


def test_no_pickle_in_a_file_of_weights_is_executed(tmp_path):
    trace = tmp_path / "trace"
    pickled = pickle.dumps({"conv1.weight": Written(trace)})
    np.savez(tmp_path / "objects.npz", weight=np.array([Written(trace)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "torch.pth", "w") as archive:
        archive.writestr("torch/data.pkl", pickled)
        archive.writestr("torch/version", "3")
    for name in ("a.npz", "a.pth", "a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(pickled)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=re.escape(str(path))):
            weights.load_state_dict(path)
    assert not trace.exists()
    pickle.loads(pickled)
    assert trace.read_text() == "executed"  # so the files would have done it


def npy(header):
    """A .npy member with any header and hardly any data."""
    text = (repr(header) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 32, 1 << 32), (1000,)])
def test_a_tensor_that_claims_more_than_its_file_holds_is_refused(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("w.npy", npy({"descr": "<f4", "fortran_order": False, "shape": shape}))
    with pytest.raises(UserError, match=r"claims \[\d+.*more than the file holds"):
        weights.load_state_dict(tmp_path / "a.npz")
    header = json.dumps({"w": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4 * shape[0]]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(UserError, match="cannot be read as .safetensors"):
        weights.load_state_dict(tmp_path / "a.safetensors")


@pytest.mark.parametrize("suffix", [".npz", ".pth"])
def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    with zipfile.ZipFile(tmp_path / f"a{suffix}", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", npy({"descr": "|u1", "fortran_order": False, "shape": (1 << 20,)}) + bytes(1 << 20))
    monkeypatch.setattr(weights, "MOST_BYTES", 1 << 19)
    with pytest.raises(UserError, match="unpacks to"):
        weights.load_state_dict(tmp_path / f"a{suffix}")
    monkeypatch.setattr(weights, "MOST_BYTES", 100)
    with pytest.raises(UserError, match="more than the 0 that are read"):
        weights.load_state_dict(tmp_path / f"a{suffix}")
