"""Inputs that broke a reader once: (target, bytes)."""

import json

from fuzz import targets

INPUTS: list[tuple[str, bytes]] = [
    ("dlib", "<a><image file='a.png'><box><part name='²' x='1' y='2'/></box></image></a>".encode()),
    ("coco", b'{"images": [{"id": 1, "file_name": "a.png"}], "annotations": null}'),
    ("scheme", b'{"names": null}'),
    ("scheme", b"9" * 5000),
    ("csv", b"image,x0,y0,x1,y1,x2,y2\n" + b"a" * 300 + b",1,2,3,4,5,6\n"),
    ("card", json.dumps(targets.sound_card() | {"file": "9" * 300}).encode()),
]
