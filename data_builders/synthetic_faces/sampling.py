"""How faces are drawn at random: `sample_face(seed, index)` depends on nothing else.

So a face is the same on its own and in a data set, and at every size.
"""

import numpy as np

from lmkd.data_builders.synthetic_faces.parameters import (
    HAIR_STYLES,
    OCCLUDERS,
    Colours,
    Expression,
    Extras,
    FaceParams,
    Hair,
    Identity,
    Light,
    Pose,
)


def sample_face(seed: int, index: int) -> FaceParams:
    """Returns face `index` of the stream that `seed` starts."""
    rng = np.random.default_rng([seed, index])
    feminine = float(rng.uniform() < 0.5)
    identity = _identity(rng, feminine)
    return FaceParams(
        identity, _expression(rng), _pose(rng), _colours(rng, feminine), _hair(rng, feminine), _light(rng), _extras(rng)
    )


def _pick(rng: np.random.Generator, options: tuple, weights: tuple):
    """Draws one of the options; `Generator.choice` does the same at ten times the cost."""
    return options[int(np.searchsorted(np.cumsum(weights), rng.uniform() * sum(weights), side="right"))]


def _identity(rng: np.random.Generator, feminine: float) -> Identity:
    draws = iter(np.clip(rng.standard_normal(len(Identity._fields)), -2.2, 2.2).tolist())

    def about(middle: float, sd: float) -> float:
        return middle + sd * next(draws)

    return Identity(
        face_width=about(0.985, 0.045),
        face_length=about(1.0 - 0.02 * feminine, 0.06),
        jaw_width=about(1.03 - 0.09 * feminine, 0.05),
        cranium_height=about(1.0, 0.04),
        eye_width=about(1.0, 0.04),
        eye_height=about(1.02 + 0.16 * feminine, 0.14),
        eye_tilt_deg=about(1.0, 2.5),
        eye_spacing=about(0.0, 0.016),
        brow_shift=about(-0.02 * feminine, 0.03),
        brow_tilt_deg=about(0.0, 3.0),
        brow_thickness=about(1.10 - 0.34 * feminine, 0.16),
        brow_ridge=about(1.1 - 0.6 * feminine, 0.3),
        socket_depth=about(1.0 - 0.15 * feminine, 0.2),
        nose_length=about(1.0, 0.07),
        nose_width=about(1.02 - 0.05 * feminine, 0.10),
        nose_height=about(1.0, 0.12),
        mouth_width=about(0.98, 0.07),
        mouth_drop=about(0.0, 0.02),
        lip_fullness=about(0.92 + 0.22 * feminine, 0.22),
        chin_depth=about(1.0, 0.4),
        cheekbone=about(1.0, 0.4),
        cheek_fat=about(0.2, 0.8),
        ear_size=about(1.0, 0.1),
        feminine=feminine,
    )


# kind: how often, jaw opening = a + b strength, smile = c + d strength
_EXPRESSIONS = {
    "rest": (0.50, (0.0, 0.04), (0.0, 0.0)),
    "smile": (0.32, (0.0, 0.10), (0.0, 0.75)),
    "open": (0.055, (0.25, 0.70), (0.0, 0.0)),
    "laugh": (0.045, (0.15, 0.45), (0.5, 0.5)),
    "pucker": (0.025, (0.0, 0.0), (0.0, 0.0)),
    "sad": (0.035, (0.0, 0.0), (0.0, -0.9)),
    "wink": (0.02, (0.0, 0.0), (0.0, 0.4)),
}


def _expression(rng: np.random.Generator) -> Expression:
    kind = _pick(rng, tuple(_EXPRESSIONS), tuple(share for share, _, _ in _EXPRESSIONS.values()))
    strength = rng.uniform(0.3, 1.0)
    jaw, smile = (a + b * strength for a, b in _EXPRESSIONS[kind][1:])
    lids = float(np.clip(rng.normal(1.0, 0.15), 0.55, 1.35)) + (0.25 * strength if kind == "open" else 0.0)
    if kind in ("smile", "laugh"):
        lids *= 1 - 0.25 * strength
    left, right = lids, lids
    if kind == "wink":
        left, right = (0.05, lids) if rng.uniform() < 0.5 else (lids, 0.05)
    elif rng.uniform() < 0.025:
        left = right = 0.03
    raised = rng.normal(0.1, 0.35) + (0.7 * strength if kind == "open" else 0.0)
    return Expression(
        jaw_open=float(jaw),
        rest_opening=float(rng.uniform(0.05, 0.3) + (0.5 * strength if kind in ("smile", "laugh") else 0.0)),
        smile=float(smile + rng.normal(0.0, 0.08)),
        pucker=float(0.45 + 0.5 * strength) if kind == "pucker" else 0.0,
        eye_open_left=float(left),
        eye_open_right=float(right),
        brow_left=float(raised + rng.normal(0, 0.1)),
        brow_right=float(raised + rng.normal(0, 0.1)),
        frown=float(np.clip(rng.normal(0.0, 0.3), 0.0, 1.0)),
        gaze_x=float(np.clip(rng.normal(0, 0.4), -1, 1)),
        gaze_y=float(np.clip(rng.normal(0, 0.4), -1, 1)),
    )


def _pose(rng: np.random.Generator) -> Pose:
    return Pose(
        yaw_deg=float(np.clip(rng.normal(0, 25), -72, 72)),
        pitch_deg=float(np.clip(rng.normal(0, 10), -32, 32)),
        roll_deg=float(np.clip(rng.normal(0, 9), -40, 40)),
        distance_hu=float(rng.uniform(8, 20)),
        margin=float(rng.uniform(1.6, 2.0)),
        shift_x=float(rng.uniform(-1, 1)),
        shift_y=float(rng.uniform(-1, 1)),
    )


_SKINS = (
    (245, 214, 192),
    (236, 196, 170),
    (222, 176, 146),
    (198, 148, 116),
    (164, 114, 84),
    (126, 84, 60),
    (90, 58, 42),
)
_HAIRS = (
    (24, 20, 20),
    (44, 30, 24),
    (78, 52, 34),
    (112, 76, 46),
    (170, 130, 80),
    (206, 174, 118),
    (130, 62, 34),
    (168, 164, 160),
)
_IRISES = ((62, 40, 26), (78, 54, 34), (104, 84, 52), (92, 116, 132), (96, 112, 84))


def _colours(rng: np.random.Generator, feminine: float) -> Colours:
    tone = rng.uniform(0, len(_SKINS) - 1.001)
    low = int(tone)
    skin = np.array(_SKINS[low]) * (1 - tone + low) + np.array(_SKINS[low + 1]) * (tone - low)
    skin = np.clip(skin * rng.uniform(0.94, 1.04) * (1 + rng.normal(0, 0.02, 3)), 30, 250)
    dark = tone / len(_SKINS)
    hair_weights = np.array([3, 3, 2.5, 2, 1.2, 1, 0.5, 0.8]) * np.where(np.arange(8) > 1, 1 - 0.9 * dark, 1 + 3 * dark)
    hair = np.array(_pick(rng, _HAIRS, tuple(hair_weights))) * rng.uniform(0.8, 1.15)
    iris = np.array(_pick(rng, _IRISES, (7, 5, 3, 3, 2) if dark < 0.4 else (14, 5, 1, 0, 0)))
    lips = skin * [0.86, 0.60, 0.60] + [10, 2, 4]
    made_up = feminine > 0.5 and rng.uniform() < 0.24
    hairy = feminine < 0.5 and rng.uniform() < 0.40
    lipstick = np.array(((176, 24, 40), (200, 60, 90), (120, 20, 50), (214, 84, 70))[rng.integers(4)])
    strength = rng.uniform(0.55, 0.95) if made_up else 0.0
    return Colours(
        skin=tuple(skin), lips=tuple(lips * (1 - strength) + lipstick * strength), hair=tuple(np.clip(hair, 8, 240)),
        iris=tuple(iris), clothes=tuple(rng.uniform(15, 235, 3)),
        beard=float(rng.uniform(0.25, 1.0)) if hairy else 0.0,
        moustache=float(rng.uniform(0.3, 1.0)) if hairy and rng.uniform() < 0.8 else 0.0,
        freckles=float(rng.uniform(0.3, 1.0)) if rng.uniform() < 0.12 else 0.0,
        wrinkles=float(np.clip(rng.normal(0.3, 0.3), 0, 1)),
        lipstick=float(strength), eyeshadow=float(rng.uniform(0.5, 0.95)) if made_up else 0.0,
        eyeliner=float(strength) if made_up else 0.25 * feminine,
        blush=float(rng.uniform(0.1, 0.7)) if made_up else 0.12,
        eyeshadow_colour=tuple(rng.uniform(30, 150, 3)),
    )  # fmt: skip


def _hair(rng: np.random.Generator, feminine: float) -> Hair:
    weights = (0.02, 0.10, 0.23, 0.42, 0.17, 0.06) if feminine else (0.12, 0.55, 0.18, 0.06, 0.02, 0.07)
    style = _pick(rng, HAIR_STYLES, weights)
    fringe = style in ("medium", "long", "short") and rng.uniform() < 0.3
    return Hair(
        style=style,
        line_y=float(rng.uniform(-0.56, -0.38) if fringe else rng.uniform(-0.86, -0.64)),
        volume=float({"afro": 0.42, "tied": 0.07}.get(style, 0.12) * rng.uniform(0.7, 1.5)),
        wave=float(rng.uniform(0, 1)),
        part=float(rng.normal(0, 0.6)),
        length=float(rng.uniform(1.1, 2.4) if style == "long" else rng.uniform(0.5, 1.0)),
    )


def _light(rng: np.random.Generator) -> Light:
    hard = rng.uniform() < 0.13
    kind = int(rng.integers(3)) if hard else -1
    return Light(
        azimuth_deg=float(_pick(rng, (-1, 1), (1, 1)) * rng.uniform(55, 100) if kind == 0 else rng.normal(0, 35)),
        elevation_deg=float(rng.uniform(-10, 40) if kind == 0 else rng.uniform(15, 60)),
        key=float(rng.uniform(0.75, 1.1) if kind == 0 else rng.uniform(0.4, 0.75)),
        ambient=float(rng.uniform(0.08, 0.24) if kind == 0 else rng.uniform(0.34, 0.6)),
        tint=tuple(1 + rng.normal(0, 0.12 if hard else 0.05, 3)),
        exposure=float(
            rng.uniform(0.3, 0.54) if kind == 1 else rng.uniform(1.52, 1.85) if kind == 2 else rng.uniform(0.8, 1.2)
        ),
        gloss=float(rng.uniform(0.02, 0.22)),
    )


def _extras(rng: np.random.Generator) -> Extras:
    blurred = rng.uniform() < 0.12
    moving = blurred and rng.uniform() < 0.4
    occluder = _pick(rng, OCCLUDERS[1:], (1,) * 6) if rng.uniform() < 0.12 else "none"
    glasses = _pick(rng, ("none", "thin", "thick", "sun"), (0.82, 0.075, 0.075, 0.03))
    return Extras(
        glasses=glasses,
        occluder=occluder,
        hat=bool(rng.uniform() < 0.05),
        blur_hu=float(rng.uniform(0.035, 0.09)) if blurred and not moving else float(rng.uniform(0, 0.012)),
        motion_hu=float(rng.uniform(0.10, 0.28)) if moving else 0.0,
        motion_deg=float(rng.uniform(0, 180)),
        noise=float(np.abs(rng.normal(0, 0.014)) + 0.003),
        jpeg_quality=int(rng.integers(45, 96)),
    )
