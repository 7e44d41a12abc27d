"""How large an encoded image says it is, read from its first bytes: a bomb is refused before its pixels are allocated.

problem(data)       # "" or what is wrong: "neither JPEG nor PNG data", "90000 x 90000 pixels, more than 100 megapixels"
"""

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 100_000_000
"""300 MB as RGB: more than any camera's photograph of faces, and what one reading thread may take."""
# Start-of-frame markers hold the size; 0xC4, 0xC8 and 0xCC stand among them and are tables (ITU-T T.81, table B.1).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})  # markers without a length
_ENDS = (0xD9, 0xDA)  # end of image, start of scan: no frame came before the pixels


def size(data: bytes) -> tuple[int, int] | None:
    """Returns (width, height) in pixels as the header of JPEG or PNG data says, None where there is no such header."""
    if data.startswith(JPEG):
        return _jpeg_size(data)
    if data.startswith(PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return None


def problem(data: bytes) -> str:
    """Says why encoded bytes should not be decoded; "" where their header gives no reason."""
    if not data:
        return "empty file"
    if not data.startswith((JPEG, PNG)):
        return "neither JPEG nor PNG data"
    found = size(data)
    if found is None:
        return "damaged image (its header is cut short)"
    if found[0] * found[1] > MOST_PIXELS:
        return f"{found[0]} x {found[1]} pixels, more than {MOST_PIXELS // 1_000_000} megapixels"
    return ""


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 9 <= len(data):
        marker = data[at + 1]
        if marker in _FRAMES:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if marker in _ENDS:
            return None
        if marker == 0xFF:  # a fill byte before the marker proper
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
