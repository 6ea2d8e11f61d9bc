"""Synthetic faces, drawn by code: a seeded stand-in for real photographs with LFW's size, geometry and file layout.

A face is an identity part, fixed per identity (shape, features, colours, hair), and a nuisance part, drawn anew per
image (pose, expression, light, background, sensor). Telling two people apart means recovering the identity part under
the nuisance: the verification problem in miniature.
"""

import math
from types import SimpleNamespace

import cv2
import numpy as np

from facelib.synthetic.canvas import OVER, SIZE, Canvas, between, oval, smooth

# RGB colours 0..255; an identity lies anywhere on the line through its palette
SKINS = np.array([[250, 222, 200], [238, 196, 164], [214, 164, 126], [166, 114, 80], [104, 70, 52]])
HAIRS = np.array([[28, 24, 24], [58, 38, 28], [104, 66, 40], [150, 74, 40], [204, 164, 100], [176, 174, 172]])
IRISES = np.array([[52, 32, 22], [104, 66, 36], [112, 124, 62], [78, 124, 160], [128, 142, 150]])
# name: (probability, length below the eyes, volume, hairline rise, fall to the temples, its power, curl), in face px
HAIRCUTS = {
    "bald": (0.10, 0, 0, 0, 0, 1, 0),
    "buzz": (0.12, 0, 3, 2, 26, 8, 0),
    "short": (0.20, 0, 9, 2, 28, 5, 1.0),
    "quiff": (0.12, 0, 15, 5, 32, 3, 0.5),
    "fringe": (0.12, 48, 10, -14, 14, 4, 0),
    "parted": (0.14, 62, 9, 8, 46, 1.2, 0.5),
    "long": (0.10, 95, 11, 5, 42, 2, 1.5),
    "curls": (0.10, 34, 19, 1, 28, 5, 4.0),
}
BEARDS = {"none": 0.60, "stubble": 0.10, "moustache": 0.10, "goatee": 0.10, "full": 0.10}


def palette(colours: np.ndarray, where: float) -> np.ndarray:
    """The RGB colour (3,) at `where` in [0, 1] along the palette (n, 3)."""
    return np.array([np.interp(where * (len(colours) - 1), range(len(colours)), channel) for channel in colours.T])


def dull_colour(rng: np.random.Generator) -> np.ndarray:
    """A random RGB colour (3,), seldom vivid, for what surrounds the face."""
    return np.clip(rng.uniform(30, 225) + rng.normal(0, 28, 3), 10, 245)


def sample_person(rng: np.random.Generator) -> SimpleNamespace:
    """What belongs to an identity. Lengths in face pixels: the image's, from its centre, x to the right and y down."""
    normal, uniform = rng.normal, rng.uniform
    cuts = list(HAIRCUTS)
    return SimpleNamespace(
        skin=palette(SKINS, uniform()) + normal(0, 5, 3), hair=palette(HAIRS, uniform()) + normal(0, 8, 3),
        iris=palette(IRISES, uniform()), blush=uniform(0, 0.25), age=uniform() ** 2,
        width=normal(48, 3), jaw=uniform(0.70, 0.96), chin=uniform(0.25, 0.56), chin_y=normal(58, 3.5),
        ears=normal(9, 1.8), eye_x=normal(21, 1.3), eye_y=normal(-12, 1.5),
        eye_width=normal(8.6, 0.9), eye_height=normal(4.4, 0.8), eye_tilt=normal(0, 1.3),
        lid=uniform(0, 0.5), lashes=uniform(0.5, 2.2), iris_size=normal(4.3, 0.35),
        brow_y=normal(11.5, 1.8), brow_width=normal(12, 1.4), brow_thick=uniform(1.2, 5), brow_arch=uniform(-0.5, 4.5),
        brow_tilt=normal(0, 1.6), brow_gap=normal(0, 1.3), brow_dark=uniform(0.45, 1),
        nose_y=normal(11, 2.2), nose_width=normal(9, 1.7), nose_bridge=uniform(2, 5), nose_dark=uniform(0.15, 0.45),
        mouth_y=normal(32.5, 2), mouth_width=normal(16.4, 1.8), upper_lip=uniform(1.2, 4.6), lower_lip=uniform(2, 6.2),
        lip=uniform(0, 1) ** 2, lip_hue=uniform(-25, 25), bow=uniform(0, 1.6),
        haircut=cuts[rng.choice(len(cuts), p=[HAIRCUTS[cut][0] for cut in cuts])], hairline=normal(-46, 4),
        volume=uniform(0.7, 1.3), part=uniform(-0.6, 0.6), curl_phase=uniform(0, 6),
        beard=rng.choice(list(BEARDS), p=list(BEARDS.values())),
        glasses=rng.choice([0, 0.5, 1], p=[0.7, 0.15, 0.15]), frame=uniform(0, 110, 3), frame_width=uniform(11.5, 15),
        frame_height=uniform(7.5, 12), frame_power=uniform(2, 5), frame_line=int(rng.integers(2, 6)),
        moles=uniform([-30, -30], [30, 36], (rng.poisson(1.2), 2)),
        freckles=normal([0, 6], [20, 6], (40 if uniform() < 0.15 else 0, 2)),
    )  # fmt: skip


def sample_shot(rng: np.random.Generator) -> SimpleNamespace:
    """What belongs to one image of an identity: angles in radians, lengths in pixels, light as factors around 1."""
    normal, uniform = rng.normal, rng.uniform
    warmth = uniform(-0.16, 0.16)
    exposure = uniform(0.12, 0.5) if uniform() < 0.3 else uniform(0.55, 1.2)  # three in ten are taken in poor light
    return SimpleNamespace(
        roll=math.radians(uniform(-12, 12)), yaw=math.radians(uniform(-20, 20)), pitch=math.radians(uniform(-8, 8)),
        scale=uniform(0.92, 1.08), shift=uniform(-6, 6, 2),  # the shift in x and y
        smile=uniform(-0.4, 1), opening=max(0.0, uniform(-6, 7)), brow_raise=uniform(-2, 3), squint=uniform(0.75, 1.1),
        gaze=uniform(-1.6, 1.6), glasses=uniform(), hair_noise=normal(0, 1.2, 64),
        tones=exposure * np.array([1 + warmth, uniform(0.95, 1.05), 1 - warmth]),
        shade=uniform(0, 0.5), shade_angle=uniform(0, 2 * math.pi), blur=uniform(0.3, 1.6), noise=uniform(1, 9),
        shirt=dull_colour(rng), occluded=uniform() < 0.12,
    )  # fmt: skip


def outline(person: SimpleNamespace) -> np.ndarray:
    """The face's outline (n, 2) in face pixels, clockwise from the crown."""
    half = np.array([[0.5, -69], [0.84, -56], [1.0, -32], [1.02, -6], [0.98, 15], [person.jaw, 37],
                     [person.chin, person.chin_y], [0.1, person.chin_y + 1]])  # fmt: skip
    half *= [person.width, 1]
    return smooth(np.concatenate([half, half[::-1] * [-1, 1]]))


def draw_background(canvas: Canvas, rng: np.random.Generator) -> None:
    """A random colour gradient with a few discs and bars: nothing in it belongs to the identity."""
    corners = np.array([dull_colour(rng) for _ in range(4)]).reshape(2, 2, 3).astype(np.uint8)
    canvas.image = cv2.resize(corners, (OVER * SIZE, OVER * SIZE), interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(0, 6)):
        x, y = rng.uniform(-130, 130, 2)
        shape = oval(x, y, *rng.uniform(8, 60, 2), power=rng.choice([2, 8]))
        canvas.draw(shape, dull_colour(rng), alpha=rng.uniform(0.3, 1))


def draw_hair(canvas: Canvas, person: SimpleNamespace, behind: bool) -> None:
    """The hair behind the head (drawn before the face), or the cap of hair and the locks beside it (drawn after)."""
    _, length, volume, rise, fall, power, curl = HAIRCUTS[person.haircut]
    if person.haircut == "bald":
        return
    volume *= person.volume
    width, wide = person.width, person.width + volume * (0.8 if length else 0.35)
    if behind:
        if length:
            half = np.array([[0.5, -66], [1, -46], [1.05, 0], [1.1, 0.5 * length], [1.08, length], [0.5, length + 4]])
            canvas.draw(smooth(np.concatenate([half, half[::-1] * [-1, 1]]) * [wide, 1]), 0.72 * person.hair, -12)
        return
    x = np.linspace(-1, 1, 64)
    wave = 0.4 * curl * canvas.shot.hair_noise + curl * np.sin(14 * x * math.pi + person.curl_phase)
    crown = -14 - (56 + volume) * (1 - abs(x) ** 2.6) ** (1 / 2.6) + wave * (1 - x**8)
    part = person.part if person.haircut in ("parted", "quiff", "short") else 0
    reach = np.where(x > part, (x - part) / (1 - part), (part - x) / (1 + part))  # 0 at the parting, 1 at the temples
    hairline = person.hairline - rise + fall * reach**power + 0.5 * wave
    hairline = np.maximum(crown, hairline + 14 * np.clip((abs(x) - 0.86) / 0.1, 0, 1))  # and down to the sideburns
    canvas.draw(between(x * wide, crown, hairline), person.hair, 2)
    for side in (-1, 1):
        if length:
            lock = np.array([[width * 0.86, -50], [wide, -44], [wide * 1.06, 0.5 * length], [wide, length],
                             [width * 0.92, length - 4], [width * 0.98, 0]])  # fmt: skip
            canvas.draw(smooth(lock) * [side, 1], person.hair, 4)
    apex = np.array([part * wide, crown[int(32 + 31 * part)] + 3])
    along = np.linspace(0, 1, 8)[:, None]
    for k in range(10, 56, 6):  # strands from the crown to the hairline, as quadratic Bezier curves
        tip, pull = np.array([x[k] * wide, hairline[k]]), np.array([x[k] * wide, 0.9 * crown[k] + 0.1 * hairline[k]])
        strand = (1 - along) ** 2 * apex + 2 * along * (1 - along) * pull + along**2 * tip
        canvas.draw(strand, person.hair + (22 if k % 12 == 10 else -14), 2, 0.5, line=2)


def draw_head(canvas: Canvas, person: SimpleNamespace) -> None:
    """Neck, shirt, ears, the face's outline, and what lies on the skin: blush, freckles, moles, wrinkles."""
    skin, width, shade = person.skin, person.width, 0.8 * person.skin
    neck = np.array([[0.62, 20], [0.62, 82], [1.0, 92], [1, 150]]) * [width, 1]
    canvas.draw(np.concatenate([neck, neck[::-1] * [-1, 1]]), shade, -14)
    shirt = np.array([[0.5, 92], [0.9, 86], [2.1, 100], [2.9, 150]]) * [width, 1]
    canvas.draw(np.concatenate([shirt, shirt[::-1] * [-1, 1]]), canvas.shot.shirt, -14)
    for side in (-1, 1):
        canvas.draw(oval(side * (width + 1), -4, 0.55 * person.ears + 2, 1.5 * person.ears), 0.93 * skin, -8)
        canvas.draw(oval(side * (width + 2), -4, 0.25 * person.ears + 1, 0.9 * person.ears), shade, -8)
    face = outline(person)
    canvas.draw(face, 0.86 * skin)
    canvas.draw(face * [0.965, 0.975], skin, 2)
    for side in (-1, 1):
        canvas.draw(oval(side * 27, 14, 11, 9), skin * [1, 0.72, 0.72], 10, person.blush)
    for point in person.freckles:
        canvas.draw(oval(*point, 0.9, 0.9), 0.7 * skin, 8, 0.6)
    for point in person.moles:
        canvas.draw(oval(*point, 1.7, 1.7), 0.38 * skin, 8)
    x = np.linspace(-1, 1, 12)
    for k in range(2):
        canvas.draw(np.array([24 * x, -35 - 6 * k + 2 * x**2]).T, shade, 8, 0.7 * person.age, line=3)


def draw_beard(canvas: Canvas, person: SimpleNamespace, mouth_y: float) -> None:
    """Nothing, or a beard in the colour of the hair; the mouth is drawn over it."""
    colour, x = 0.85 * person.hair, np.linspace(-1, 1, 24)
    if person.beard in ("stubble", "full"):
        face = outline(person)
        face = face[face[:, 1] > 2]
        right = face[face[:, 0] > 0]
        cheek = np.interp(np.linspace(-1, 1, 24), [-1, -0.75, -0.35, 0.35, 0.75, 1], [2, 14, 23, 23, 14, 2])
        top = np.array([x * right[0, 0], cheek]).T
        shape = np.concatenate([right, face[face[:, 0] <= 0], top])
        canvas.draw(shape, colour, 1, 0.9 if person.beard == "full" else 0.28)
    if person.beard == "goatee":
        canvas.draw(oval(0, person.chin_y - 9, 13, 13, 3), colour, 12, 0.9)
    if person.beard in ("moustache", "goatee", "full"):
        arch = mouth_y - 2 + 5 * x**2
        canvas.draw(between(x * (person.mouth_width + 2), arch - 7 * (1 - x**4) - 1, arch), colour, 19, 0.92)


def draw_nose(canvas: Canvas, person: SimpleNamespace) -> np.ndarray:
    """Draw the nose; returns its tip (1, 2) in image pixels."""
    dark, tip, width = 0.62 * person.skin, person.nose_y, person.nose_width
    half = np.array([[person.nose_bridge, person.eye_y + 2], [person.nose_bridge + 1, tip - 8], [width, tip + 3]])
    bridge = np.concatenate([half, [[0, tip + 7]], half[::-1] * [-1, 1]])
    canvas.draw(smooth(bridge), 0.88 * person.skin, 17, person.nose_dark)
    canvas.draw(oval(0, tip - 1, 0.42 * width, 4), 1.09 * person.skin, 24, 0.6)
    x = np.linspace(-1, 1, 24)
    base = tip + 6 - 3 * x**2 + 1.2 * np.cos(3 * math.pi * x)
    canvas.draw(np.array([width * x, base]).T, dark, 20, 0.8, line=3)
    for side in (-1, 1):
        canvas.draw(oval(side * 0.45 * width, tip + 4.2, 0.2 * width, 1.4), 0.4 * person.skin, 20, 0.8)
        wing = np.array([[1.0, 3], [1.12, 0], [0.95, -3.5]]) * [side * width, 1] + [0, tip]
        canvas.draw(wing, dark, 18, 0.7, line=3)
    return canvas.place(np.array([[0, tip]]), 26)


def draw_mouth(canvas: Canvas, person: SimpleNamespace, mouth_y: float) -> np.ndarray:
    """Draw the mouth with its smile and opening; returns the left and right corner (2, 2) in image pixels."""
    shot, skin, x = canvas.shot, person.skin, np.linspace(-1, 1, 32)
    width = person.mouth_width + 2.2 * shot.smile
    corner = mouth_y - 3 * shot.smile
    middle = corner + 4 * shot.smile * (1 - x**2)  # the closed mouth's line
    lip = (1 - person.lip) * skin * [0.86, 0.66, 0.64] + person.lip * np.array([190, 50, 70 + person.lip_hue])
    swell, bow = 1 - x**2, person.bow * np.exp(-((x / 0.18) ** 2))
    upper, lower = middle - 0.25 * shot.opening * swell, middle + shot.opening * swell
    canvas.draw(between(x * width, upper, lower), np.array([70, 24, 28]), 18)
    if shot.opening:
        teeth = between(x * 0.85 * width, upper, np.minimum(lower, upper + 3.2 * swell))
        canvas.draw(teeth, np.array([240, 236, 226]), 18)
    canvas.draw(between(x * width, upper - person.upper_lip * swell + bow, upper), lip * 0.92, 18)
    canvas.draw(between(x * width, lower, lower + person.lower_lip * swell**0.7), lip, 18)
    if not shot.opening:
        canvas.draw(np.array([x * width, middle]).T, 0.45 * lip, 18, line=2)
    for side in (-1, 1):  # the fold from nose to mouth: deeper with age and smile
        fold = np.array([[person.nose_width + 3, person.nose_y + 4], [width + 4, corner - 8], [width + 5, corner - 1]])
        canvas.draw(fold * [side, 1], 0.7 * skin, 14, min(max(0.6 * person.age + 0.5 * shot.smile, 0), 0.9), line=3)
    return canvas.place(np.array([[-width, corner], [width, corner]]), 18)


def draw_eye(canvas: Canvas, person: SimpleNamespace, side: int) -> np.ndarray:
    """Draw the eye and brow on one `side` (-1 left, 1 right in the image); returns the eye's centre (1, 2)."""
    shot, x = canvas.shot, np.linspace(-1, 1, 24)
    height = person.eye_height * shot.squint
    along = side * person.eye_x + person.eye_width * x
    tilt = person.eye_y - person.eye_tilt * x * side
    upper = tilt - height * (1 - x**2) ** 0.8
    lower = tilt + height * (0.75 - 0.15 * max(shot.smile, 0)) * (1 - x**2)
    centre = np.array([[side * person.eye_x, person.eye_y]])
    lid = person.skin * (1 - 0.28 * person.lid)
    canvas.draw(oval(*centre[0], person.eye_width + 3, height + 4), lid, 13, 0.7)
    canvas.draw(between(along, upper, lower), np.array([244, 242, 238]), 14)
    iris_x, iris_y, radius = centre[0, 0] + shot.gaze, centre[0, 1] - 0.3, person.iris_size
    canvas.draw(oval(iris_x, iris_y, radius, radius), 0.6 * person.iris, 14)
    canvas.draw(oval(iris_x, iris_y, 0.8 * radius, 0.8 * radius), person.iris, 14)
    canvas.draw(oval(iris_x, iris_y, 0.42 * radius, 0.42 * radius), np.array([12, 10, 10]), 14)
    canvas.draw(oval(iris_x + 1.3, iris_y - 1.3, 0.8, 0.8), np.array([255, 255, 255]), 14)
    # the lids cover what of the iris lies outside the eye
    canvas.draw(between(along, upper - 3.5 * (1 - x**2) ** 0.5, upper), lid, 14)
    canvas.draw(between(along, lower, lower + 3.5 * (1 - x**2) ** 0.5), lid, 14)
    canvas.draw(between(along, upper - person.lashes * (1 - x**4), upper + 0.3), np.array([34, 24, 22]), 14)
    canvas.draw(np.array([along, lower]).T, 0.6 * person.skin, 14, 0.6, line=2)
    brow_y = person.eye_y - person.brow_y - shot.brow_raise
    arch = brow_y - person.brow_arch * (1 - x**2) - person.brow_tilt * x * side + 0.8
    thick = person.brow_thick * (1 - 0.5 * (x * side + 1) / 2) * (1 - x**4) ** 0.5
    brow_x = side * (person.eye_x + person.brow_gap) + person.brow_width * x
    canvas.draw(between(brow_x, arch - thick / 2, arch + thick / 2), person.hair * 0.75, 14, person.brow_dark)
    return canvas.place(centre, 14)


def draw_glasses(canvas: Canvas, person: SimpleNamespace) -> None:
    """Spectacles: two rims, a bridge and the two temples."""
    centre_x = person.frame_width + 4.5
    for side in (-1, 1):
        rim = oval(side * centre_x, person.eye_y + 1, person.frame_width, person.frame_height, person.frame_power)
        canvas.draw(rim, np.array([225, 235, 245]), 18, 0.12)
        canvas.draw(rim, person.frame, 18, line=person.frame_line)
        temple = np.array([[centre_x + person.frame_width, person.eye_y - 2], [person.width - 1, person.eye_y - 3]])
        canvas.draw(temple * [side, 1], person.frame, 6, line=person.frame_line)
    bridge = np.array([[-5, 1], [-2, -1], [2, -1], [5, 1]]) + [0, person.eye_y]
    canvas.draw(bridge, person.frame, 18, line=person.frame_line)


def photograph(image: np.ndarray, shot: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Light and sensor: (OVER * SIZE, OVER * SIZE, 3) uint8 -> (SIZE, SIZE, 3) uint8."""
    image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), shot.blur).astype(np.float32)
    ramp = np.linspace(-2.2, 2.2, 25)  # about 1 at the face's edge
    light = np.tanh(math.cos(shot.shade_angle) * ramp + math.sin(shot.shade_angle) * ramp[:, None])
    light = ((1 + shot.shade * light)[:, :, None] * shot.tones).astype(np.float32)  # smooth, so few pixels do
    image *= cv2.resize(light, (SIZE, SIZE))
    noise = cv2.cvtColor(shot.noise * rng.standard_normal((SIZE, SIZE), np.float32), cv2.COLOR_GRAY2RGB)
    return cv2.add(image, noise, dtype=cv2.CV_8U)  # rounded and clipped to 0..255


def draw_face(identity: int, image: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image number `image` (0, 1, ...) of `identity` (0, 1, ...), the same for the same three numbers.

    Returns (250, 250, 3) uint8 RGB and the landmarks (5, 2) float32 in pixels (x, y): left eye centre, right eye
    centre, nose tip, left mouth corner, right mouth corner, left being the image's left.
    """
    person = sample_person(np.random.default_rng((seed, identity)))
    # + 1 because numpy pads seeds with zeros: (seed, identity, 0) would repeat the numbers of (seed, identity)
    rng = np.random.default_rng((seed, identity, image + 1))
    shot = sample_shot(rng)
    canvas = Canvas(shot)
    draw_background(canvas, rng)
    draw_hair(canvas, person, behind=True)
    draw_head(canvas, person)
    mouth_y = person.mouth_y + 0.25 * shot.opening
    draw_beard(canvas, person, mouth_y)
    nose = draw_nose(canvas, person)
    mouth = draw_mouth(canvas, person, mouth_y)
    eyes = [draw_eye(canvas, person, side) for side in (-1, 1)]
    draw_hair(canvas, person, behind=False)
    if shot.glasses < person.glasses:
        draw_glasses(canvas, person)
    if shot.occluded:  # something in front of the lower face or its side
        angle = rng.uniform(-0.3, math.pi + 0.3)
        hand = oval(48 * math.cos(angle), 10 + 48 * math.sin(angle), *rng.uniform(14, 30, 2), power=rng.uniform(2, 6))
        canvas.draw(hand, dull_colour(rng), 30)
    return photograph(canvas.image, shot, rng), np.concatenate([*eyes, nose, mouth]).astype(np.float32)
