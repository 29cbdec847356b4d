"""Random description of one synthetic head: proportions, colours, expression, accessories.

Head space is in centimetres: x to the image's right for a frontal face, y up, z towards the
viewer; the origin lies midway between the eyes, on the face's surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]
"""A colour as blue, green, red, each in [0, 1], gamma encoded."""

# From very light to very dark skin, as blue, green, red in 0..255.
_SKIN = np.array(
    [
        (205, 222, 250),
        (178, 200, 240),
        (150, 182, 228),
        (122, 158, 210),
        (98, 134, 188),
        (74, 105, 160),
        (56, 80, 126),
        (42, 60, 98),
        (33, 45, 72),
    ],
    dtype=np.float64,
)
_HAIR = (
    (20, 22, 26),
    (24, 32, 44),
    (32, 48, 74),
    (48, 76, 112),
    (88, 132, 182),
    (136, 180, 220),
    (30, 62, 130),
    (150, 152, 156),
    (205, 208, 212),
)
_HAIR_ODDS = (0.28, 0.2, 0.16, 0.1, 0.06, 0.04, 0.04, 0.07, 0.05)
_IRIS = ((30, 50, 80), (20, 34, 54), (120, 96, 60), (160, 120, 70), (70, 110, 80), (90, 130, 130))


@dataclass(frozen=True)
class Identity:
    """One head; lengths in centimetres, angles in degrees, weights in [0, 1]."""

    eye_x: float
    face_width: float
    jaw_width: float
    lower_face: float
    depth: float
    section_power: float
    nose_out: float
    nose_y: float
    nose_width: float
    brow_y: float
    brow_ridge: float
    brow_thick: float
    brow_tilt: float
    cheek: float
    chin: float
    mouth_y: float
    mouth_half: float
    lip_full: float
    eye_open: float
    eye_width: float
    gaze: tuple[float, float]
    mouth_gap: float
    smile: float
    teeth: bool
    age: float
    beard: float
    moustache: float
    beard_length: float
    makeup: float
    freckles: float
    skin: Colour
    hair: Colour
    iris: Colour
    hair_style: str
    hair_length: float
    hair_volume: float
    hairline: float
    fringe: float
    part: float
    headwear: str
    headwear_colour: Colour
    glasses: str
    glasses_colour: Colour
    face_mask: bool
    mask_colour: Colour
    cloth: Colour
    cloth_second: Colour
    cloth_pattern: str


def _unit(values: object) -> Colour:
    b, g, r = (float(min(max(v, 0.0), 255.0)) / 255.0 for v in np.asarray(values).tolist())
    return (b, g, r)


def _vivid(rng: np.random.Generator) -> Colour:
    """A random cloth colour: half of them greyish, as real clothes are."""
    base = rng.uniform(15, 240, 3)
    if rng.random() < 0.5:
        base = base.mean() + (base - base.mean()) * 0.25
    return _unit(base)


def _choice(rng: np.random.Generator, odds: dict[str, float]) -> str:
    names = list(odds)
    weights = np.array([odds[n] for n in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draw one head; every field is independent enough that no two heads look alike."""

    def n(mean: float, spread: float) -> float:
        return float(mean + spread * np.clip(rng.normal(), -2.2, 2.2))

    masculine = rng.random() < 0.5
    tone = rng.uniform(0, len(_SKIN) - 1)
    low = int(tone)
    skin = _SKIN[low] + (tone - low) * (_SKIN[min(low + 1, len(_SKIN) - 1)] - _SKIN[low])
    skin = skin * (1 + rng.normal(0, 0.03, 3))
    age = float(rng.beta(1.3, 1.8))
    odds = np.array(_HAIR_ODDS)
    if tone > 5:
        odds = odds * np.array([3, 2, 1, 0.3, 0.1, 0.05, 0.05, 1, 0.6])
    odds[-2:] *= 0.3 + 3 * age
    hair = np.array(_HAIR[int(rng.choice(len(_HAIR), p=odds / odds.sum()))], dtype=np.float64)
    hair = hair * rng.uniform(0.7, 1.2) * (1 + rng.normal(0, 0.03, 3))
    if masculine:
        style = _choice(
            rng, {"bald": 1 + 1.2 * age, "crop": 2.5, "short": 4, "bob": 0.5, "afro": 0.5}
        )
    else:
        style = _choice(
            rng, {"crop": 0.3, "short": 1.5, "bob": 2.5, "long": 4, "afro": 0.6, "bun": 1.2}
        )
    headwear = _choice(rng, {"none": 8.3, "beanie": 0.6, "cap": 0.6, "hood": 0.25, "scarf": 0.25})
    bearded = masculine and rng.random() < 0.4
    mouth_open = rng.random() < 0.3
    smile = float(rng.beta(1.2, 1.8)) if rng.random() < 0.6 else n(-0.05, 0.1)
    return Identity(
        eye_x=n(3.15, 0.11),
        face_width=n(1.0 if masculine else 0.97, 0.045),
        jaw_width=n(1.03 if masculine else 0.93, 0.06),
        lower_face=n(1.0, 0.04),
        depth=n(1.0, 0.04),
        section_power=n(2.3, 0.12),
        nose_out=n(2.8, 0.3),
        nose_y=n(-3.45, 0.22),
        nose_width=n(1.0, 0.14) * (1.12 if tone > 5 else 1.0),
        brow_y=n(2.05 if masculine else 2.3, 0.22),
        brow_ridge=n(0.6 if masculine else 0.3, 0.15),
        brow_thick=n(0.62 if masculine else 0.42, 0.12),
        brow_tilt=n(0.0, 0.12),
        cheek=n(0.5, 0.18),
        chin=n(0.75 if masculine else 0.55, 0.2),
        mouth_y=n(-6.6, 0.25),
        mouth_half=n(2.5, 0.16) + 0.25 * max(smile, 0.0),
        lip_full=n(1.0, 0.2) * (1.2 if tone > 5 else 1.0),
        eye_open=float(np.clip(n(0.62, 0.14), 0.3, 1.0)) if rng.random() > 0.05 else 0.04,
        eye_width=n(1.5, 0.09),
        gaze=(n(0.0, 0.22), n(0.0, 0.08)),
        mouth_gap=float(rng.gamma(1.6, 0.55)) if mouth_open else 0.0,
        smile=smile,
        teeth=bool(rng.random() < 0.75),
        age=age,
        beard=float(rng.uniform(0.4, 1.0)) if bearded else float(masculine) * rng.uniform(0, 0.25),
        moustache=float(rng.uniform(0.4, 1))
        if bearded or (masculine and rng.random() < 0.1)
        else 0.0,
        beard_length=float(rng.gamma(1.2, 0.5)) if bearded else 0.0,
        makeup=0.0 if masculine else float(rng.beta(0.8, 1.2)),
        freckles=float(rng.random() < 0.12) * float(rng.uniform(0.3, 1)),
        skin=_unit(skin),
        hair=_unit(hair),
        iris=_unit(_IRIS[int(rng.integers(2 if tone > 4 else len(_IRIS)))]),
        hair_style=style,
        hair_length=float(rng.uniform(0, 1)),
        hair_volume=n(1.0, 0.25),
        hairline=n(6.7 + 1.2 * age * masculine, 0.45),
        fringe=float(rng.uniform(0.4, 1)) if rng.random() < (0.15 if masculine else 0.35) else 0.0,
        part=float(rng.uniform(-1, 1)),
        headwear=headwear,
        headwear_colour=_vivid(rng),
        glasses=_choice(rng, {"none": 7.6, "clear": 1.7, "sun": 0.5}),
        glasses_colour=_unit(
            rng.uniform(8, 60, 3) if rng.random() < 0.7 else rng.uniform(40, 190, 3)
        ),
        face_mask=bool(rng.random() < 0.05),
        mask_colour=_unit(((225, 205, 170), (235, 235, 235), (35, 32, 30))[int(rng.integers(3))]),
        cloth=_vivid(rng),
        cloth_second=_vivid(rng),
        cloth_pattern=_choice(rng, {"plain": 5, "stripes": 1.5, "collar": 2, "checks": 1}),
    )
