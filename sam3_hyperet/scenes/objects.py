"""The things of `scenes`, one function per kind.

Coordinates are a sprite's own: the origin at the middle of the thing's foot, x forwards, y upwards. Every kind varies
in proportions, colour and details; its parts stay about ten units wide or more.
"""

import numpy as np

from sam3_hyperet.scenes.concepts import THINGS
from sam3_hyperet.scenes.shapes import COLORS, Points, Rgb, Sprite, blob, box, choice, ellipse, jitter, polygon, tint

_GLASS: Rgb = (176, 216, 236)
_LAMPLIGHT: Rgb = (252, 222, 128)
_RUBBER: Rgb = (44, 44, 50)
_SKINS: tuple[Rgb, ...] = ((246, 208, 172), (214, 160, 116), (146, 98, 66))
_HAIRS: tuple[Rgb, ...] = ((56, 40, 30), (120, 72, 34), (206, 160, 84), (40, 40, 46))
_PETALS: tuple[Rgb, ...] = ((244, 120, 168), (250, 246, 240), (176, 110, 220), (248, 150, 60))


def _pick(rng: np.random.Generator, *names: str) -> tuple[str, Rgb]:
    name = names[int(rng.integers(len(names)))]
    return name, jitter(rng, COLORS[name])


def _wheels(sprite: Sprite, rear: float, front: float, radius: float) -> None:
    for x in (rear, front):
        part = sprite.part("wheel")
        sprite.add(ellipse(x, radius, radius, radius), _RUBBER, part=part)
        sprite.add(ellipse(x, radius, radius * 0.48, radius * 0.48), (196, 198, 204), part=part)


def _window(sprite: Sprite, points: Points) -> None:
    part = sprite.part("window")
    sprite.add(points, _GLASS, part=part)
    glint = np.array([(-0.55, 0.25), (-0.2, 0.6), (0.25, 0.6), (-0.55, -0.2)])
    half = (points.max(axis=0) - points.min(axis=0)) / 2
    sprite.add(points.mean(axis=0) + glint * half * 0.9, tint(_GLASS, 1.5), part=part, outlined=False)


def _pane_window(sprite: Sprite, x: float, y: float, half: float, glass: Rgb, arched: bool = False) -> None:
    part = sprite.part("window")
    sprite.add(box(x - half, y - half, x + half, y + half, half * 0.7 if arched else 0.0), glass, part=part)
    frame = tint(glass, 0.5)
    sprite.add(box(x - 0.6, y - half, x + 0.6, y + half), frame, part=part, outlined=False)
    sprite.add(box(x - half, y - 0.6, x + half, y + 0.6), frame, part=part, outlined=False)


def _door(sprite: Sprite, x: float, width: float, height: float, color: Rgb, arched: bool = False) -> None:
    part = sprite.part("door")
    half = width / 2
    sprite.add(box(x - half, 0, x + half, height), color, "plank", part)
    if arched:
        sprite.add(ellipse(x, height, half, half * 0.8, 0, 180), color, part=part)
    sprite.add(ellipse(x + half * 0.5, height * 0.5, 1.1, 1.1), (240, 214, 110), part=part, outlined=False)


def _car(rng: np.random.Generator) -> Sprite:
    name, color = _pick(rng, "red", "blue", "yellow", "white", "green")
    sprite = Sprite("car", name)
    half, deck, top = rng.uniform(25, 29), rng.uniform(18, 20), rng.uniform(31, 34)
    rear, front = -rng.uniform(0.62, 0.78) * half, rng.uniform(0.4, 0.56) * half
    sprite.add(polygon((rear - 2, deck - 1), (front + 6, deck - 1), (front - 2, top), (rear + 4, top)), color)
    sprite.add(box(-half, 5, half, deck, 4.5), color, "grain")
    sprite.add(box(-half + 1, 6, half - 1, 9), tint(color, 0.7), outlined=False)
    sprite.add(ellipse(half - 3, deck - 5, 2.2, 2.2), (255, 240, 170))
    middle, sill, lintel = (rear + front) / 2 + 1, deck + 0.5, top - 2
    _window(sprite, polygon((rear + 1, sill), (middle - 1, sill), (middle - 1, lintel), (rear + 5, lintel)))
    _window(sprite, polygon((middle + 1.5, sill), (front + 3.5, sill), (front - 3, lintel), (middle + 1.5, lintel)))
    _wheels(sprite, -half * 0.56, half * 0.56, rng.uniform(6.6, 7.8))
    return sprite


def _bus(rng: np.random.Generator) -> Sprite:
    name, color = _pick(rng, "yellow", "red", "blue")
    sprite = Sprite("bus", name)
    half, top = rng.uniform(34, 38), rng.uniform(35, 40)
    sprite.add(box(-half, 5, half, top, 3.5), color, "grain")
    sprite.add(box(-half, 11.5, half, 15.5), tint(color, 1.6), outlined=False)
    sprite.add(box(-half + 1, 5.5, half - 1, 8.5), tint(color, 0.65), outlined=False)
    count = int(rng.integers(3, 5))
    pitch = (2 * half - 5) / count
    for left in (-half + 2.5 + k * pitch for k in range(count)):
        _window(sprite, box(left + 1.5, top - 16, left + pitch - 1.5, top - 4, 1.5))
    _wheels(sprite, -half * 0.58, half * 0.62, rng.uniform(6.4, 7.4))
    return sprite


def _house(rng: np.random.Generator) -> Sprite:
    name, color = _pick(rng, "white", "yellow", "white", "blue")
    color = tint(color, 1.5) if name != "white" else color
    sprite = Sprite("house", name)
    half, eaves, rise = rng.uniform(23, 28), rng.uniform(24, 29), rng.uniform(16, 22)
    sprite.add(box(-half, 0, half, eaves), color, "plank" if rng.random() < 0.5 else "grain")
    ridge = rng.choice([0.0, 0.35, 0.6]) * half
    roof = _pick(rng, "red", "brown", "blue", "gray")[1]
    edge = half + 3.5
    gable = polygon((-edge, eaves - 1), (edge, eaves - 1), (ridge, eaves + rise), (-ridge, eaves + rise))
    sprite.add(gable, tint(roof, 0.9), "tile", sprite.part("roof"))
    glass = _LAMPLIGHT if rng.random() < 0.35 else _GLASS
    timber = _pick(rng, "brown", "red", "green", "blue")[1]
    y = eaves * 0.56
    if rng.random() < 0.55:
        _door(sprite, 0.0, 11, 16.5, timber)
        _pane_window(sprite, -half * 0.62, y, 5.4, glass)
        _pane_window(sprite, half * 0.62, y, 5.4, glass)
    else:
        _door(sprite, -half * 0.48, 11.5, 17, timber)
        _pane_window(sprite, half * 0.4, y, 6.4, glass)
    return sprite


def _tower(rng: np.random.Generator) -> Sprite:
    name, color = _pick(rng, "gray", "gray", "brown", "white")
    sprite = Sprite("tower", name)
    half, top = rng.uniform(12.5, 15.5), rng.uniform(64, 74)
    sprite.add(box(-half, 0, half, top), color, "brick")
    sprite.add(box(-half - 2.5, top - 3, half + 2.5, top + 1), tint(color, 0.85), "brick")
    pitch = (2 * half + 5) / 5
    for left in (-half - 2.5 + k * pitch for k in (0, 2, 4)):
        sprite.add(box(left, top + 1, left + pitch, top + 6), color, "brick")
    glass = _LAMPLIGHT if rng.random() < 0.4 else (96, 124, 158)
    for y in (top - 13, top - 31):
        _pane_window(sprite, 0.0, y, rng.uniform(5.4, 6.4), glass, arched=True)
    _door(sprite, 0.0, 12, 11, _pick(rng, "brown", "red", "green")[1], arched=True)
    return sprite


def _tree(rng: np.random.Generator) -> Sprite:
    autumn = rng.random() < 0.15
    name, color = _pick(rng, "yellow", "red") if autumn else _pick(rng, "green")
    sprite = Sprite("tree", name)
    half, foot = rng.uniform(4.2, 5.4), rng.uniform(18, 24)
    stem = polygon((-half - 1.5, 0), (half + 1.5, 0), (half, foot + 6), (-half, foot + 6))
    sprite.add(stem, tint(jitter(rng, COLORS["brown"]), 0.85), "plank", sprite.part("trunk"))
    crown = sprite.part("crown")
    if rng.random() < 0.35 and not autumn:
        width, color = rng.uniform(19, 22), tint(color, 0.72)
        for tier in range(3):
            base, reach = foot - 2 + 12.5 * tier, width * (1 - 0.24 * tier)
            sprite.add(polygon((-reach, base), (reach, base), (0.0, base + 22)), color, "leaf", crown)
    else:
        width, height = rng.uniform(19, 24), rng.uniform(18, 22)
        sprite.add(blob(rng, 0, foot + height - 2, width, height, int(rng.integers(7, 10))), color, "leaf", crown)
        light = blob(rng, -width * 0.25, foot + height * 1.2, width * 0.45, height * 0.4, 6)
        sprite.add(light, tint(color, 1.18), "leaf", crown, outlined=False)
    return sprite


def _bush(rng: np.random.Generator) -> Sprite:
    name, color = _pick(rng, "green")
    sprite = Sprite("bush", name)
    half, top = rng.uniform(23, 29), rng.uniform(25, 30)
    outline = blob(rng, 0, top * 0.48, half, top * 0.56, int(rng.integers(8, 11)))
    outline[:, 1] = np.maximum(outline[:, 1], 0.0)
    sprite.add(outline, tint(color, 0.9), "leaf")
    petals = choice(rng, _PETALS, 8)
    shift = rng.uniform(-2, 2)
    for x, y in ((-half * 0.52 + shift, top * 0.42), (shift, top * 0.62), (half * 0.5 + shift, top * 0.38)):
        flower, reach = sprite.part("flower"), rng.uniform(3.0, 3.5)
        for turn in np.arange(5) * 2 * np.pi / 5 + rng.uniform(0, 1):
            sprite.add(ellipse(x + reach * np.cos(turn), y + reach * np.sin(turn), 2.8, 2.8), petals, part=flower)
        sprite.add(ellipse(x, y, 2.7, 2.7), (250, 206, 60), part=flower, outlined=False)
    return sprite


def _person(rng: np.random.Generator) -> Sprite:
    name, shirt = _pick(rng, "red", "blue", "yellow", "white", "green")
    sprite = Sprite("person", name)
    skin, hair = choice(rng, _SKINS, 8), choice(rng, _HAIRS, 8)
    trousers = choice(rng, ((56, 66, 104), (88, 70, 56), (60, 60, 66)))
    stride, hip, shoulder = rng.uniform(0.5, 5.0), rng.uniform(22, 25), rng.uniform(43, 46)
    for side in (-1, 1):
        leg, foot, top = sprite.part("leg"), side * (5.0 + stride), side * 4.6
        sprite.add(polygon((foot - 4, 0), (foot + 4, 0), (top + 4.2, hip), (top - 4.2, hip)), trousers, part=leg)
        sprite.add(box(foot - 4.4, 0, foot + 5.4, 3.6, 1.5), _RUBBER, part=leg)
    swing = rng.uniform(1, 7)
    for side in (-1, 1):
        x, y = side * (12.5 + swing), shoulder - 19 + swing
        arm = polygon((side * 7, shoulder - 1), (side * 10, shoulder - 2), (x + 2, y), (x - 2, y))
        sprite.add(arm, tint(shirt, 0.85))
        sprite.add(ellipse(x, y, 2.7, 2.7), skin)
    hips, neck = ((-9, hip - 2), (9, hip - 2)), ((7, shoulder), (-7, shoulder))
    torso = polygon(*hips, (10.5, shoulder - 2), *neck, (-10.5, shoulder - 2))
    sprite.add(torso, shirt, "stripe" if rng.random() < 0.4 else "grain")
    head, y = sprite.part("head"), shoulder + 6.8
    sprite.add(ellipse(0, y, 7.6, 8.0), skin, part=head)
    sprite.add(ellipse(0, y + 0.8, 8.0, 7.8, 5, 175), hair, part=head)
    for side in (-1, 1):
        sprite.add(ellipse(side * 2.8 + 1, y - 1.4, 0.9, 1.2), (30, 30, 36), part=head, outlined=False)
    return sprite


def _dog(rng: np.random.Generator) -> Sprite:
    name, coat = _pick(rng, "brown", "white", "brown", "yellow")
    coat = tint(coat, 0.9) if name == "yellow" else coat
    sprite = Sprite("dog", name)
    length, lift, tip = rng.uniform(17, 21), rng.uniform(14, 16), rng.uniform(8, 16)
    end = ((-length - 7, lift + tip), (-length - 9.5, lift + tip - 3))
    sprite.add(polygon((-length + 3, lift + 3), *end, (-length, lift - 3)), coat)
    for x in (-length + 6.5, length - 6.5):
        leg = sprite.part("leg")
        sprite.add(box(x - 4.4, 0, x + 4.4, lift + 2, 2.5), tint(coat, 0.92), part=leg)
        sprite.add(box(x - 4.4, 0, x + 5.6, 4.4, 2), tint(coat, 0.75), part=leg)
    sprite.add(ellipse(0, lift + 5, length, 9.2), coat, "grain")
    if rng.random() < 0.5:
        sprite.add(ellipse(-length * 0.3, lift + 7, 5.5, 4.2), tint(coat, 0.7), "grain", outlined=False)
    head, x, y = sprite.part("head"), length + 2.0, lift + 14.5
    sprite.add(box(x + 2, y - 6, x + 13, y + 1.5, 3), tint(coat, 1.15), part=head)
    sprite.add(ellipse(x, y, 9, 8.4), coat, part=head)
    sprite.add(ellipse(x + 12, y - 0.6, 1.9, 1.7), _RUBBER, part=head, outlined=False)
    sprite.add(ellipse(x + 3.2, y + 2, 1.2, 1.4), (30, 26, 26), part=head, outlined=False)
    sprite.add(ellipse(x - 5.5, y - 0.5, 3.6, 7.0), tint(coat, 0.6), part=head)
    return sprite


def sprite(kind: str, rng: np.random.Generator) -> Sprite:
    """A new individual of `kind`, one of `THINGS`."""
    return (_car, _bus, _house, _tower, _tree, _bush, _person, _dog)[THINGS.index(kind)](rng)
