"""Scenes of coloured shapes and questions about them: what the demo model that sees has learned.

python examples/coloured_shapes.py scenes --count 4
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (217, 54, 54),
    "green": (52, 160, 84),
    "blue": (58, 96, 214),
    "yellow": (238, 200, 50),
    "purple": (146, 70, 178),
    "orange": (240, 136, 40),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
# A scene has a shape in some of these places, row by row.
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
SIZE, SMALLEST, LARGEST = 128, 12, 16
# Shapes are drawn this many times larger and shrunk, which makes their edges smooth.
FINER = 4


class Thing(NamedTuple):
    """A shape of a scene, and how much of each pixel it covers, from 0 to 1, axes ``(SIZE, SIZE)``."""

    shape: str
    colour: str
    place: str
    cover: np.ndarray

    def measure_patches(self, patch: int) -> np.ndarray:
        """Return the share that it covers of each patch of `patch` × `patch` pixels, row by row."""
        side = SIZE // patch
        return self.cover.reshape(side, patch, side, patch).mean((1, 3)).ravel()


def draw_cover(shape: str, radius: float, turn: float) -> Image.Image:
    """Return a shape in white on black, `radius` in pixels from the centre to the edge, turned by `turn` degrees."""
    side = 2 * round(1.25 * radius)
    cover = Image.new("L", (side * FINER, side * FINER))
    centre, radius = side * FINER / 2, radius * FINER
    pen = ImageDraw.Draw(cover)
    if shape == "circle":
        pen.ellipse((centre - radius, centre - radius, centre + radius, centre + radius), fill=255)
    else:
        pen.polygon([(centre + radius * x, centre + radius * y) for x, y in find_corners(shape, turn)], fill=255)
    return cover.resize((side, side), Image.Resampling.BOX)


def find_corners(shape: str, turn: float) -> list[tuple[float, float]]:
    """Return the corners of a shape around the origin, y downwards, in units of its radius."""
    if shape == "cross":
        arm = 0.34
        corner = [(arm, -1.05), (arm, -arm), (1.05, -arm), (1.05, arm)]
        points = [complex(x, y) * 1j**quarter for quarter in range(4) for x, y in corner]
    else:
        n_points, distances = {"square": (4, [1.2]), "triangle": (3, [1.2]), "star": (10, [1.2, 0.52])}[shape]
        first = 45 if shape == "square" else -90
        angles = np.radians(first + 360 / n_points * np.arange(n_points))
        points = [distances[i % len(distances)] * np.exp(1j * angle) for i, angle in enumerate(angles)]
    turned = np.array(points) * np.exp(1j * np.radians(turn))
    return list(zip(turned.real.tolist(), turned.imag.tolist(), strict=True))


def draw_scene(rng: np.random.Generator | int, count: int = 3) -> tuple[Image.Image, list[Thing]]:
    """Draw shapes that differ in shape, colour and place on a pale ground.

    Parameters
    ----------
    rng
        Of numpy, or a seed: the same seed draws the same scene.
    count
        How many shapes, from 1 to 5.

    Returns
    -------
    image
        RGB, `SIZE` × `SIZE` pixels.
    things
        Its shapes, in the order of `PLACES`.
    """
    rng = np.random.default_rng(rng)
    pale, light = rng.uniform(222, 248, (2, 3))
    image = Image.fromarray(np.linspace(pale, light, SIZE).astype(np.uint8)[:, None].repeat(SIZE, 1))
    shapes, colours = rng.permutation(SHAPES)[:count].tolist(), rng.permutation(list(COLOURS))[:count].tolist()
    things = []
    for shape, colour, place in zip(shapes, colours, sorted(rng.permutation(len(PLACES))[:count]), strict=True):
        small = draw_cover(shape, rng.uniform(SMALLEST, LARGEST), rng.uniform(-12, 12))
        middles = (np.array(divmod(int(place), 3)) + 0.5) * SIZE / 3 + rng.uniform(-3, 3, 2)
        top, left = (round(middle - small.width / 2) for middle in middles)
        cover = Image.new("L", image.size)
        cover.paste(small, (left, top))
        shade = np.clip(np.array(COLOURS[colour]) + rng.uniform(-12, 12, 3), 0, 255).astype(int)
        image.paste(tuple(shade.tolist()), (0, 0), cover)
        things.append(Thing(shape, colour, PLACES[place], np.asarray(cover) / np.float32(255)))
    return image, things


def list_questions(things: list[Thing]) -> Iterator[tuple[str, str, int | None]]:
    """Yield all questions about a scene: ``(question, answer, number of the thing that is meant)``, None for all."""
    for number, thing in enumerate(things):
        yield f"what colour is the {thing.shape}?", thing.colour, number
        yield f"what shape is {thing.colour}?", thing.shape, number
        yield f"where is the {thing.shape}?", thing.place, number
    for question in ("what is this?", "what is in the picture?"):
        yield question, " and ".join(f"{thing.colour} {thing.shape}" for thing in things), None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--count", type=int, default=4, metavar="N", help="pictures (%(default)s)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(args.count):
        image, things = draw_scene(seed, 2 + seed % 3)
        path = args.folder / f"scene_{seed}.png"
        image.save(path, optimize=True)
        print(path, "; ".join(f"{thing.colour} {thing.shape}, {thing.place}" for thing in things))


if __name__ == "__main__":
    main()
