"""What is fuzzed: for each reader of foreign bytes a strategy and a function that must return or raise `UserError`.

    TARGETS["coco"].check(b'{"images": ...')      # anything but UserError is a finding

Inputs start from sound files and are mutated: random bytes alone seldom get past a first check. `fuzz_test.py` runs a few cases
of each and every input that was ever found to break one; `launch/fuzz.sh` runs as many as one likes.
"""

import atexit
import contextlib
import functools
import hashlib
import io
import json
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import orbax.checkpoint as ocp
from hypothesis import strategies as st
from PIL import Image

from lmkd import kept_configs
from lmkd.configs import common as common_config
from lmkd.core import encoded_images, schemes
from lmkd.core.errors import UserError
from lmkd.data import reading, transforms
from lmkd.data_builders import landmark_files, trees
from lmkd.data_builders.own_faces import formats
from lmkd.data_builders.wflw import wflw_dataset_builder as wflw
from lmkd.data_builders.youtube_faces68 import youtube_faces68_dataset_builder as youtube
from lmkd.exporters import card, orbax
from lmkd.models import weights
from lmkd.prediction import images
from lmkd.training import checkpoints, soundness

SCHEME = schemes.from_json('{"points": 3, "name": "three", "flip_pairs": [[0, 1]]}')
FOLDER = Path(tempfile.mkdtemp(prefix="lmkd_fuzz_"))  # for what a reader wants by path
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
JUNK = (
    b"", b"\x00", b"\xff", b"\xff\xd8", b"-1", b"0", b"1e400", b"nan", b"inf", b"9" * 20, b"9" * 5000, b'"', b"'", b",", b":",
    b"\n", b"\r", b"\r\n", b"[]", b"{}", b"null", b"true", b"[[", b"{" * 2000, b"[" * 2000, b"<", b"<!ENTITY", b"&lt;", b"..",
    b"/", b"\\ud800", b"\xed\xa0\x80", "²".encode(), "٣".encode(), b"\xef\xbb\xbf", b"#", b"\x7f\xff\xff\xff", b"a" * 300,
)  # fmt: skip


VALUES = (
    None, True, False, 0, 1, -1, 3, 1 << 40, 1 << 70, 0.5, float("nan"), float("inf"), 1e308, "", "a", "0", "..", "\x00",
    "\ud800", "x" * 300, [], {}, [[]], [0], ["a"], {"a": 1}, {"": {}}, [None], [[0, 1]], [1, 2, 2, 3, 4, 1, 5, 6, 2],
)  # fmt: skip


class Target(NamedTuple):
    """One reader: what it is given, the function that must return or raise UserError, and its share of the cases."""

    strategy: st.SearchStrategy[bytes]
    check: Callable[[bytes], None]
    share: float = 1.0


def mutated(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Sound inputs after up to five edits (a bit flipped, bytes cut out, repeated, swapped, replaced by junk, the end cut off);
    or any bytes at all.

    One draw of bytes says which: a strategy of many draws would spend most of the time in Hypothesis.
    """
    return st.binary(min_size=32, max_size=32).map(functools.partial(_mutant, tuple(seeds)))


def _mutant(seeds: Sequence[bytes], drawn: bytes) -> bytes:
    choice, count = drawn[0], drawn[1] % 5 + 1
    if choice >= 240:
        return drawn[2 : 2 + drawn[1] % 30]
    data = bytearray(seeds[choice % len(seeds)])
    for n in range(count):
        kind, high, low, amount, which, _ = drawn[2 + 6 * n : 8 + 6 * n]
        at = ((high << 8) + low) % (len(data) + 1)
        kind %= 7
        if kind == 0 and at < len(data):
            data[at] ^= 1 << (amount % 8)
        elif kind == 1:
            del data[at : at + amount]
        elif kind == 2:
            data[at:at] = data[at : at + amount] * 2
        elif kind in (3, 4):
            data[at : at + amount % 8] = JUNK[which % len(JUNK)]
        elif kind == 5:
            del data[at:]
        elif data:
            other = amount * 7 % len(data)
            data[at % len(data)], data[other] = data[other], data[at % len(data)]
    return bytes(data)


def json_values(seeds: Sequence[object]) -> st.SearchStrategy[bytes]:
    """Sound JSON with one value somewhere replaced by another kind, or a key taken away; and mutated text."""
    texts = tuple(json.dumps(seed).encode() for seed in seeds)
    return st.binary(min_size=32, max_size=32).map(functools.partial(_changed, texts))


def _changed(texts: Sequence[bytes], drawn: bytes) -> bytes:
    if drawn[0] < 80:
        return _mutant(texts, drawn[1:] + drawn[:1])
    whole = json.loads(texts[drawn[1] % len(texts)])
    for n in range(drawn[2] % 2 + 1):
        whole = _with_another_value(
            whole, drawn[3 + 9 * n : 9 + 9 * n], drawn[9 + 9 * n], VALUES[drawn[10 + 9 * n] % len(VALUES)]
        )
    return json.dumps(whole).encode()


def _with_another_value(whole: Any, path: bytes, drop: int, value: Any) -> Any:
    here, inside = whole, None
    for step in path[: path[0] % 5 + 1]:
        keys = list(here) if isinstance(here, dict) else list(range(len(here))) if isinstance(here, list) else []
        if not keys:
            break
        inside = (here, keys[step % len(keys)])
        here = inside[0][inside[1]]
    value = json.loads(json.dumps(value))  # its own copy: later edits may change it
    if inside is None:
        return value
    if drop < 40:
        del inside[0][inside[1]]
    else:
        inside[0][inside[1]] = value
    return whole


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _findings() -> trees.Findings:
    return trees.Findings(FOLDER)


def _file(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


def _checked(faces: Sequence, findings: trees.Findings, scheme: schemes.Scheme) -> None:
    """What the builders do with faces next."""
    kept = list(faces)
    with contextlib.suppress(UserError):
        trees.check({"train": kept}, findings, scheme=scheme, published={}, partial=True)
    for face in kept:
        assert np.isfinite(face.landmarks_px[np.isfinite(face.landmarks_px)]).all()


def check_pts(data: bytes) -> None:
    parsed = landmark_files.parse_pts(_text(data), 3)
    assert (parsed.points_px is None) == bool(parsed.problems)
    assert parsed.points_px is None or (parsed.points_px.shape == (3, 2) and np.isfinite(parsed.points_px).all())


def check_wflw(data: bytes) -> None:
    findings = _findings()
    lines = wflw.read_list(_file("list.txt", data), findings, rect_attr=True)
    assert all(np.isfinite(line.points_px).all() for _, line in lines)


def _check_reader(kind: str, name: str) -> Callable[[bytes], None]:
    def check(data: bytes) -> None:
        findings = _findings()
        context = formats.Context(FOLDER, [_file(name, data)], SCHEME, findings)
        _checked(trees.number_faces(list(formats.READERS[kind](context)), findings), findings, SCHEME)

    return check


def check_youtube(data: bytes) -> None:
    findings = _findings()
    path = _file("training_frames_keypoints.csv", data)
    _checked(youtube._read_list(FOLDER, "training", findings), findings, youtube.FACE68)
    path.unlink()


def check_scheme(data: bytes) -> None:
    with contextlib.suppress(UserError, json.JSONDecodeError):
        scheme = schemes.from_json(_text(data))
        assert schemes.from_json(scheme.to_json()) == scheme


def check_card(data: bytes) -> None:
    _file("model.bin", b"weights")
    with contextlib.suppress(UserError):
        found, file = card.read(_file(card.NAME, data).parent)
        assert file.parent == FOLDER or file == FOLDER


def check_config(data: bytes) -> None:
    with contextlib.suppress(UserError):
        config = kept_configs.completed(kept_configs.from_json(_text(data)))
        kept_configs.to_json(config)


def _check_weights(suffix: str) -> Callable[[bytes], None]:
    def check(data: bytes) -> None:
        with contextlib.suppress(UserError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert all(isinstance(value, np.ndarray) for value in weights.load_state_dict(_file(f"w{suffix}", data)).values())

    return check


def check_image(data: bytes) -> None:
    """What training and preparation read; the size that the header promises is the one that is decoded."""
    size, problem = trees.decoded_size(data)
    assert (size == (0, 0)) == bool(problem)
    record = reading.Record("k", data, np.full((3, 2), 1.0), np.ones(3, np.float32), np.full(4, np.nan), np.zeros(0), "")
    with contextlib.suppress(reading.UnreadableRecord):
        image = transforms.decode(record)
        assert encoded_images.size(data) == (image.shape[1], image.shape[0])


def check_picture(data: bytes) -> None:
    """What predicting reads."""
    with contextlib.suppress(UserError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = images.read(_file("picture", data)).image
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def check_checkpoint(data: bytes) -> None:
    """A file of a checkpoint, chosen by the first byte, holds the rest: the weights that were saved come back, or none do."""
    copy = FOLDER / "stage" / "2"
    file = sorted(_CHECKPOINT)[data[0] % len(_CHECKPOINT)] if data else "meta/metadata"
    for name, sound in _CHECKPOINT.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data[1:] if name == file else sound)
    with contextlib.suppress(UserError):
        variables, _ = checkpoints.load(copy, _WEIGHTS)
        np.testing.assert_array_equal(variables["params"]["a"], _WEIGHTS["params"]["a"])
        np.testing.assert_array_equal(variables["params"]["b"], _WEIGHTS["params"]["b"])


def _checkpoint(variables: dict) -> dict[str, bytes]:
    """The files of a small checkpoint with checksums, by their names."""
    folder = FOLDER / "sound"
    folder.mkdir()
    orbax.write_checkpoint(folder, variables, {"format": 1})
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
        writer.save(folder / "checksums", args=ocp.args.JsonSave({"model": soundness.checksums(variables)}))
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _pictures() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    found = {}
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        out = io.BytesIO()
        Image.fromarray(noise).save(out, kind)
        found[kind] = out.getvalue()
    found["progressive"] = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    return found


def _npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.zeros((2, 3), np.float32), b=np.zeros(4, np.float32))
    return out.getvalue()


def _safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


def sound_card() -> dict:
    """The card of `model.bin`, as `check_card` writes it."""
    whole = dict.fromkeys(card.REQUIRED, "x") | {"card_format": card.CARD_FORMAT, "file": "model.bin", "config": {}}
    sha = hashlib.sha256(b"weights").hexdigest()
    return whole | {"scheme": {}, "checkpoint": {}, "crop": {"scale": 1.25}, "image_px": 64, "sha256": sha}


_PTS = b"version: 1\nn_points: 3\n{\n1.0 2.0\n3.5 4\n5 6e0\n}\n"
_CSV = b'image,x0,y0,x1,y1,x2,y2,person,x_min,y_min,x_max,y_max\na.png,1,2,3,4,,,me,0,0,9,9\n"b,c.png",1,2,3,4,5,6,,,,,\n'
_COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
    "annotations": [
        {"id": 7, "image_id": 1, "keypoints": [1, 2, 2, 3, 4, 1, 0, 0, 0], "bbox": [0, 0, 9, 9]},
        {"image_id": 2, "keypoints": [1, 2, 2, 3, 4, 1, 5, 6, 2], "iscrowd": 0},
    ],
}
_DLIB = (
    b"<?xml version='1.0'?><dataset><images><image file='a.png'><box top='1' left='2' width='9' height='9'>"
    b"<part name='00' x='1' y='2'/><part name='1' x='3' y='4'/><part name='point_2' x='5' y='6'/></box>"
    b"</image></images></dataset>"
)
_WFLW = (" ".join(["1.5"] * 196 + ["0", "0", "9", "9"] + ["0", "1"] * 3 + ["a/b.jpg"]) + "\n").encode()
_YOUTUBE = (",".join(["", *map(str, range(136))]) + "\n" + ",".join(["A_B_1.jpg", *["2.5"] * 136]) + "\n").encode()
_SCHEME = {
    "name": "five", "points": 5, "flip_pairs": [[0, 1], [3, 4]], "normalisers": {"eyes": [[0], [1]]}, "lines": [[0, 1]],
    "groups": {"eyes": [0, 1]}, "subsets": {"two": [0, 1]},
}  # fmt: skip
_CONFIG = json.loads(kept_configs.to_json(common_config.get_config()))
_PICTURES = _pictures()
_WEIGHTS = {"params": {"a": np.arange(600, dtype=np.float32).reshape(20, 30), "b": np.ones(3, np.float32)}}
_CHECKPOINT = _checkpoint(_WEIGHTS)
_CHECKPOINT_FILES = [bytes([n]) + _CHECKPOINT[name] for n, name in enumerate(sorted(_CHECKPOINT))]

SOUND = {
    "pts": _PTS, "wflw": _WFLW, "csv": _CSV, "coco": json.dumps(_COCO).encode(), "dlib": _DLIB, "youtube": _YOUTUBE,
    "npz": _npz(), "safetensors": _safetensors(),
}  # fmt: skip
TARGETS = {
    "pts": Target(mutated([_PTS]), check_pts),
    "wflw": Target(mutated([_WFLW]), check_wflw),
    "csv": Target(mutated([_CSV]), _check_reader("csv", "a.csv")),
    "coco": Target(json_values([_COCO]), _check_reader("coco", "a.json")),
    "dlib": Target(mutated([_DLIB]), _check_reader("dlib", "a.xml")),
    "youtube": Target(mutated([_YOUTUBE]), check_youtube),
    "scheme": Target(json_values([_SCHEME, json.loads(SCHEME.to_json())]), check_scheme),
    "card": Target(json_values([sound_card()]), check_card),
    "config": Target(json_values([_CONFIG]), check_config, share=0.3),
    "npz": Target(mutated([SOUND["npz"]]), _check_weights(".npz")),
    "safetensors": Target(mutated([SOUND["safetensors"]]), _check_weights(".safetensors")),
    "image": Target(mutated([_PICTURES[kind] for kind in ("PNG", "JPEG", "progressive")]), check_image),
    "picture": Target(mutated(list(_PICTURES.values())), check_picture),
    "checkpoint": Target(mutated(_CHECKPOINT_FILES), check_checkpoint, share=0.003),
}
