"""The card: complete, and of this very file."""

import hashlib
import json

import pytest

from lmkd.core.errors import UserError
from lmkd.exporters import card

REST = dict.fromkeys(card.REQUIRED, "x") | {"file": "model.bin", "config": {"a": 1}}
REST |= {"scheme": {}, "checkpoint": {}, "crop": {"scale": 1.25}, "image_px": 64}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    card.write(tmp_path, {key: value for key, value in REST.items() if key not in ("card_format", "sha256")})
    return tmp_path


def test_a_card_is_read_from_the_file_its_folder_or_itself(folder):
    for path in (folder, folder / "model.bin", folder / card.NAME):
        found, file = card.read(path)
        assert file == folder / "model.bin" and found["bytes"] == 7
    assert found["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert list(json.loads((folder / card.NAME).read_text()))[-1] == "config"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model.bin").write_bytes(b"other"), "its checksum differs"),
        (lambda f: (f / "model.bin").unlink(), "which is not there"),
        (lambda f: (f / card.NAME).unlink(), "has no model.json beside it"),
        (lambda f: (f / card.NAME).write_text("{"), "cannot be read"),
        (lambda f: (f / card.NAME).write_text("{}"), "no key 'sha256'"),
        (lambda f: (f / card.NAME).write_text(json.dumps(REST | {"card_format": 9})), "card format 9; this version reads 1"),
    ],
    ids=["changed", "gone", "no card", "broken card", "empty card", "newer card"],
)
def test_what_is_wrong_with_a_card_is_told(folder, change, message):
    change(folder)
    with pytest.raises(UserError, match=message):
        card.read(folder)


def test_a_card_of_another_file_is_refused(folder):
    (folder / "else.bin").write_bytes(b"weights")
    with pytest.raises(UserError, match="describes model.bin, not else.bin"):
        card.read(folder / "else.bin")


def test_the_checksum_of_a_folder_sees_names_and_contents_but_not_the_card(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    first = card.checksum(tmp_path)
    (tmp_path / card.NAME).write_text("{}")
    assert card.checksum(tmp_path) == first and card.size_bytes(tmp_path) == 1
    (tmp_path / "a").rename(tmp_path / "b")
    assert card.checksum(tmp_path) != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "../../etc/passwd"}, "'../../etc/passwd' is not the name of a file beside the card"),
        ({"file": "/etc/passwd"}, "'/etc/passwd' is not the name of a file"),
        ({"file": "..\\\\secret"}, "secret' is not the name of a file"),
        ({"file": ".."}, "'..' is not the name of a file"),
        ({"file": 3}, "file: no text"),
        ({"image_px": 1 << 40}, "image_px: 1099511627776 is no whole number within 1..4096"),
        ({"image_px": True}, "image_px: True"),
        ({"crop": {"scale": float("nan")}}, "crop.scale: nan is no number"),
        ({"crop": []}, "crop: no JSON object"),
    ],
    ids=["up", "absolute", "backslash", "parent", "number", "huge", "bool", "NaN", "list"],
)
def test_a_strangers_card_is_held_to_its_folder_and_to_sizes(folder, changes, message):
    written = json.loads((folder / card.NAME).read_text())
    (folder / card.NAME).write_text(json.dumps(written | {"card_format": 1} | changes))
    with pytest.raises(UserError, match=message):
        card.read(folder)
    (folder / card.NAME).write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot be read"):
        card.read(folder)
