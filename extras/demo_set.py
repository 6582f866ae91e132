"""A blood smear drawn by program, in the IML layout: what is trained on without data at hand.

    python extras/demo_set.py [DIR]      write it to a new folder

Every parasite's outline is known (masks.npz), so that a heat map can be scored. Colours, sizes and
shapes follow textbook descriptions of Giemsa-stained thin smears; nothing is copied from a
photograph.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

FIELDS = 60
HEIGHT = 480  # of a field, pixels
WIDTH = 640
STEP = WIDTH * 7 // 8  # from one field to the next: neighbours overlap by an eighth
ZOOM = 3  # fields are painted larger, then reduced, so that edges are smooth
SHARES = {
    "red blood cell": 0.87,
    "ring": 0.05,
    "trophozoite": 0.03,
    "schizont": 0.02,
    "gametocyte": 0.03,
}
PALE_CENTRED = ("red blood cell", "ring")
SWOLLEN = ("schizont", "gametocyte")

# Giemsa colours, RGB
BACKGROUND = (238, 240, 228)
CHROMATIN = (96, 28, 110)
CYTOPLASM = (128, 106, 168)
PIGMENT = (112, 78, 40)


class DemoCell(NamedTuple):
    """A cell of the smear: centre and radius in pixels, class, and the seed of its looks."""

    x: float
    y: float
    radius: float
    stage: str
    seed: int


class DemoField(NamedTuple):
    """A drawn field: uint8 image (H, W, 3), RGB; parasite mask, bool (H, W); its IML objects."""

    image: np.ndarray
    mask: np.ndarray
    objects: list[dict]


def blob(rng, centre, radius, roughness, points=28):
    """The outline (points, 2) of a smooth irregular disc; roughness 0 is a circle."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    waves = np.zeros(points)
    for frequency in (2, 3, 4, 5):
        amplitude = rng.normal(0, roughness / frequency)
        phase = rng.uniform(0, 6.3)
        waves += amplitude * np.cos(frequency * angle + phase)
    distance = radius * (1 + waves)
    directions = np.stack([np.cos(angle), np.sin(angle)], 1)
    return directions * distance[:, None] + centre


# Parasites, a function a stage, around the centre (0, 0) of their cell


class ParasitePainter:
    """What the stages are painted with.

    fill: a function of an outline (N, 2) and a colour; radius: the cell's, in pixels.
    offset: a place off the centre, (2,). turn: an angle in radians.
    direction: the vector at that angle, as long as the radius.
    """

    def __init__(self, fill, rng, radius):
        self.fill = fill
        self.rng = rng
        self.radius = radius
        self.offset = rng.uniform(-0.3, 0.3, 2) * radius
        self.turn = rng.uniform(0, 2 * np.pi)
        self.direction = np.array([np.cos(self.turn), np.sin(self.turn)]) * radius

    def body(self, centre, size, roughness, colour):
        """Paint an irregular disc; size: its radius as a share of the cell's."""
        self.fill(blob(self.rng, centre, size * self.radius, roughness), colour)

    def dots(self, centres, size, colour):
        """Paint small irregular discs."""
        for centre in centres:
            self.body(centre, size, 0.12, colour)


def paint_ring(painter):
    """A signet ring: a thin blue circle around a vacuole, with one or two chromatin dots on it."""
    rng = painter.rng
    offset = painter.offset
    size = rng.uniform(0.24, 0.32)
    painter.body(offset, size + 0.05, 0.04, CYTOPLASM)
    painter.dots([offset], size - 0.05, (224, 176, 190))
    on_the_ring = [offset + size * painter.direction, offset + size * painter.direction[::-1]]
    number = rng.integers(1, 3)
    painter.dots(on_the_ring[:number], 0.12, CHROMATIN)


def paint_trophozoite(painter):
    """Amoeboid cytoplasm with a vacuole, a larger chromatin mass and a little pigment."""
    middle = painter.offset / 2
    painter.body(middle, 0.5, 0.28, CYTOPLASM)
    painter.dots([painter.offset], 0.17, (214, 172, 196))
    painter.dots([middle + 0.36 * painter.direction], 0.18, CHROMATIN)
    grains = painter.rng.normal(0, 0.22 * painter.radius, (5, 2))
    painter.dots(grains, 0.045, PIGMENT)


def paint_schizont(painter):
    """Full of merozoites, in two circles around a clump of pigment."""
    rng = painter.rng
    painter.body((0, 0), 0.9, 0.03, (188, 152, 196))
    outer = rng.integers(9, 13)
    inner = rng.integers(4, 7)
    for distance, number in ((0.68, outer), (0.36, inner)):
        circle = np.linspace(0, 2 * np.pi, number, endpoint=False)
        angle = painter.turn + circle + rng.normal(0, 0.12, number)
        directions = np.stack([np.cos(angle), np.sin(angle)], 1)
        painter.dots(distance * painter.radius * directions, 0.12, CHROMATIN)
    grains = rng.normal(0, 0.07 * painter.radius, (12, 2))
    painter.dots(grains, 0.045, PIGMENT)


def paint_gametocyte(painter):
    """Fills the cell: even cytoplasm, one eccentric nucleus, pigment scattered all over."""
    painter.body((0, 0), 0.88, 0.03, (146, 118, 170))
    painter.dots([1.3 * painter.offset], 0.27, (134, 50, 130))
    grains = painter.rng.uniform(-0.58, 0.58, (26, 2)) * painter.radius
    painter.dots(grains, 0.045, PIGMENT)


PARASITES = {
    "ring": paint_ring,
    "trophozoite": paint_trophozoite,
    "schizont": paint_schizont,
    "gametocyte": paint_gametocyte,
}

# Cells and fields


def fill_polygon(canvas, outline, colour):
    """Fill an outline (N, 2), in pixels of the field, on a canvas ZOOM times as large."""
    fraction_bits = 4
    points = np.round(outline * ZOOM * 2**fraction_bits).astype(np.int32)
    cv2.fillPoly(canvas, [points], colour, cv2.LINE_AA, fraction_bits)


def paint_cell(image, mask, cell, left):
    """Paint one cell of the smear into image and parasite mask.

    Both are ZOOM times larger than the field, whose left border is at `left` in the smear.
    """
    rng = np.random.default_rng(cell.seed)
    tone = np.array([206, 140, 158]) + rng.normal(0, 5, 3)
    centre = (cell.x - left, cell.y)

    def fill(outline, colour, parasite):
        fill_polygon(image, outline + centre, np.clip(colour, 0, 255).tolist())
        fill_polygon(mask, outline + centre, parasite)

    def fill_parasite(outline, colour):
        fill(outline, colour + rng.normal(0, 6, 3), 255)

    body = blob(rng, (0, 0), cell.radius, 0.04)
    pallor = rng.uniform(10, 60)
    if cell.stage not in PALE_CENTRED:
        pallor = 0
    fill(body, tone - 22, 0)
    for part in np.linspace(0, 1, 12):  # from the dark rim to the pale centre
        fill(body * (0.95 - 0.8 * part), tone + pallor * part**1.5, 0)
    if cell.stage in PARASITES:
        painter = ParasitePainter(fill_parasite, rng, cell.radius)
        PARASITES[cell.stage](painter)


def iml_object(cell, left):
    """The cell's entry in annotations.json: numbers are strings, as in the published set."""
    side = 2 * cell.radius
    box = {"x": cell.x - left - cell.radius, "y": cell.y - cell.radius, "w": side, "h": side}
    return {"type": cell.stage, "bbox": {key: str(round(value)) for key, value in box.items()}}


def render_field(cells, left, rng):
    """The DemoField of the smear that starts at `left`."""
    image = np.full((HEIGHT * ZOOM, WIDTH * ZOOM, 3), BACKGROUND, np.uint8)
    mask = np.zeros((HEIGHT * ZOOM, WIDTH * ZOOM), np.uint8)
    objects = []
    for cell in cells:
        if abs(cell.x - left - WIDTH / 2) < WIDTH / 2 + 40:
            paint_cell(image, mask, cell, left)
        if 0 < cell.x - left < WIDTH:  # a cell cut off by the border: at least half is in view
            objects.append(iml_object(cell, left))
    image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return DemoField(photograph(image, rng), mask > 127, objects)


def photograph(image, rng):
    """A drawn field (H, W, 3) as a camera sees it: stain, uneven light, blur and noise."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32) / WIDTH - 0.5
    tilt = rng.normal(0, 0.12, 2)
    stain = rng.uniform(0.85, 1.6) * (1 + rng.normal(0, 0.05, 3))
    falloff = 0.12 * (columns**2 + rows**2)
    light = rng.uniform(0.86, 1.02) * (1 + tilt[0] * columns + tilt[1] * rows - falloff)
    stained = 255 * (image / 255) ** stain
    blurred = cv2.GaussianBlur(stained * light[..., None], (0, 0), rng.uniform(0.4, 0.9))
    noise = rng.normal(0, 2.5, image.shape)
    return np.clip(blurred + noise, 0, 255).astype(np.uint8)


def scatter_cells(rng, width, height):
    """The DemoCells of a smear, sorted by x: dense, touching, some overlapping."""
    number = int(width * height / 2400)
    places = sorted(rng.uniform((0, 0), (width, height), (number, 2)).tolist())
    placed = []
    for x, y in places:
        stage = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        radius = rng.uniform(23, 28)
        if stage in SWOLLEN:
            radius *= 1.2
        if has_room(x, y, radius, placed[-60:]):
            seed = int(rng.integers(1 << 30))
            placed.append(DemoCell(x, y, radius, stage, seed))
    return placed


def has_room(x, y, radius, cells):
    """Whether a new cell would overlap none of the cells by more than a little."""
    for cell in cells:
        apart = math.hypot(x - cell.x, y - cell.y)
        if apart <= 0.88 * (radius + cell.radius):
            return False
    return True


def write_demo_set(folder, seed=0):
    """Draw the demo set into an empty folder.

    images/, annotations.json as IML has it, and the parasites' masks in masks.npz. Fields are
    windows of one long smear that overlap, so that neighbours show the same cells, as real ones do.
    """
    smear_rng = np.random.default_rng(seed)
    cells = scatter_cells(smear_rng, STEP * (FIELDS + 1), HEIGHT)
    annotations = []
    masks = {}
    (folder / "images").mkdir()
    for number in tqdm(range(FIELDS), "drawing the demo set", unit="field", disable=None):
        name = f"demo_{number:03d}"
        field = render_field(cells, number * STEP, np.random.default_rng([seed, number]))
        _, png = cv2.imencode(".png", cv2.cvtColor(field.image, cv2.COLOR_RGB2BGR))
        (folder / f"images/{name}.png").write_bytes(png.tobytes())
        annotations.append({"image_name": f"{name}.png", "objects": field.objects})
        masks[name] = field.mask
    np.savez_compressed(folder / "masks.npz", **masks)
    (folder / "annotations.json").write_text(json.dumps(annotations))


def main(arguments):
    """Draw the demo set into the folder of a command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("demo_data"),
        help="a new folder (default: demo_data)",
    )
    folder = parser.parse_args(arguments).folder
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        message = f"{folder} cannot be made; name a new folder ({error.strerror})"
        print(f"error: {message}", file=sys.stderr)
        return 2
    write_demo_set(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
