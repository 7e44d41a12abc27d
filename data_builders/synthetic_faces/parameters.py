"""What a face is drawn from: every parameter, and the six flags that are read off them, after WFLW's attributes."""

from typing import NamedTuple

import numpy as np

FLAGS = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
HAIR_STYLES = ("bald", "short", "medium", "long", "tied", "afro")
OCCLUDERS = ("none", "hand", "mask", "scarf", "block", "strands", "phone")
POSE_YAW_DEG, POSE_PITCH_DEG, POSE_ROLL_DEG = 42.0, 24.0, 28.0


class Identity(NamedTuple):
    """Bone and flesh: factors about 1, and shifts in head units."""

    face_width: float = 1.0
    face_length: float = 1.0
    jaw_width: float = 1.0
    cranium_height: float = 1.0
    eye_width: float = 1.0
    eye_height: float = 1.0
    eye_tilt_deg: float = 0.0
    eye_spacing: float = 0.0
    brow_shift: float = 0.0
    brow_tilt_deg: float = 0.0
    brow_thickness: float = 1.0
    brow_ridge: float = 1.0
    socket_depth: float = 1.0
    nose_length: float = 1.0
    nose_width: float = 1.0
    nose_height: float = 1.0
    mouth_width: float = 1.0
    mouth_drop: float = 0.0
    lip_fullness: float = 1.0
    chin_depth: float = 1.0
    cheekbone: float = 1.0
    cheek_fat: float = 0.0
    ear_size: float = 1.0
    feminine: float = 0.0


class Expression(NamedTuple):
    """Movements, 0 at rest; eye openness 1 at rest, 0 shut."""

    jaw_open: float = 0.0
    rest_opening: float = 0.1
    smile: float = 0.0
    pucker: float = 0.0
    eye_open_left: float = 1.0
    eye_open_right: float = 1.0
    brow_left: float = 0.0
    brow_right: float = 0.0
    frown: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0


class Pose(NamedTuple):
    """Turns in degrees (yaw > 0: nose to the image's right; pitch > 0: down; roll > 0: clockwise), and the camera."""

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    distance_hu: float = 14.0
    margin: float = 1.8
    shift_x: float = 0.0
    shift_y: float = 0.0


class Colours(NamedTuple):
    """sRGB colours (0-255) and strengths (0-1)."""

    skin: tuple = (214, 170, 144)
    lips: tuple = (186, 104, 98)
    hair: tuple = (60, 42, 30)
    iris: tuple = (84, 58, 36)
    clothes: tuple = (60, 70, 110)
    beard: float = 0.0
    moustache: float = 0.0
    freckles: float = 0.0
    wrinkles: float = 0.0
    lipstick: float = 0.0
    eyeshadow: float = 0.0
    eyeliner: float = 0.0
    blush: float = 0.0
    eyeshadow_colour: tuple = (90, 60, 110)


class Hair(NamedTuple):
    """Style, hairline height in head units (y of the fringe's edge), thickness, waviness, asymmetry of the fringe."""

    style: str = "short"
    line_y: float = -0.74
    volume: float = 0.12
    wave: float = 0.3
    part: float = 0.0
    length: float = 1.6


class Light(NamedTuple):
    """One key light over an ambient one; `exposure` multiplies both."""

    azimuth_deg: float = 0.0
    elevation_deg: float = 40.0
    key: float = 0.65
    ambient: float = 0.45
    tint: tuple = (1.0, 1.0, 1.0)
    exposure: float = 1.0
    gloss: float = 0.1


class Extras(NamedTuple):
    """What is on or in front of the face, and what the camera did."""

    glasses: str = "none"
    occluder: str = "none"
    hat: bool = False
    blur_hu: float = 0.0
    motion_hu: float = 0.0
    motion_deg: float = 0.0
    noise: float = 0.01
    jpeg_quality: int = 95


class FaceParams(NamedTuple):
    """All of a face."""

    identity: Identity = Identity()
    expression: Expression = Expression()
    pose: Pose = Pose()
    colours: Colours = Colours()
    hair: Hair = Hair()
    light: Light = Light()
    extras: Extras = Extras()


def flags(face: FaceParams) -> np.ndarray:
    """Returns the six flags uint8 [6], in the order of `FLAGS`."""
    e, p, light, x = face.expression, face.pose, face.light, face.extras
    strong = (
        abs(p.yaw_deg) > POSE_YAW_DEG or abs(p.pitch_deg) > POSE_PITCH_DEG or abs(p.roll_deg) > POSE_ROLL_DEG,
        e.jaw_open > 0.3 or abs(e.smile) > 0.75 or e.pucker > 0.6 or min(e.eye_open_left, e.eye_open_right) < 0.3,
        light.ambient < 0.25 or light.exposure < 0.55 or light.exposure > 1.5,
        max(face.colours.lipstick, face.colours.eyeshadow) > 0.5,
        x.occluder != "none" or x.glasses == "sun",
        max(x.blur_hu, x.motion_hu) > 0.03,
    )
    return np.array(strong, np.uint8)
