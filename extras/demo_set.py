"""A blood smear drawn by program, in the IML layout: what the script trains on when no data is at hand.

    python extras/demo_set.py [DIR]      write it to a new folder

Every parasite's outline is known (masks.npz), so that a heat map can be scored. Colours, sizes and shapes follow textbook
descriptions of Giemsa-stained thin smears; nothing is copied from a photograph.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

FIELDS, SIZE, ZOOM = 60, (480, 640), 3
SHARES = {
    "red blood cell": 0.87,
    "ring": 0.05,
    "trophozoite": 0.03,
    "schizont": 0.02,
    "gametocyte": 0.03,
}
CHROMATIN, CYTOPLASM, PIGMENT = (96, 28, 110), (128, 106, 168), (112, 78, 40)  # Giemsa colours, RGB


def blob(rng, centre, radius, roughness, points=28):
    """(points, 2) outline of a smooth irregular disc; roughness 0 is a circle."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    waves = sum(
        rng.normal(0, roughness / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4, 5)
    )
    return np.stack([np.cos(angle), np.sin(angle)], 1) * (radius * (1 + waves))[:, None] + centre


def paint_parasite(fill, rng, stage, radius):
    """Paint one parasite around (0, 0) of a cell of `radius` with fill(outline, colour)."""

    def dots(spots, r, colour):
        for spot in spots:
            fill(blob(rng, spot, r * radius, 0.12), colour)

    at, turn = rng.uniform(-0.3, 0.3, 2) * radius, rng.uniform(0, 2 * np.pi)
    way = np.array([np.cos(turn), np.sin(turn)]) * radius
    if (
        stage == "ring"
    ):  # signet ring: a thin blue circle around a vacuole, with one or two chromatin dots on it
        size = rng.uniform(0.24, 0.32)
        fill(blob(rng, at, (size + 0.05) * radius, 0.04), CYTOPLASM)
        dots([at], size - 0.05, (224, 176, 190))
        dots([at + size * way, at + size * way[::-1]][: rng.integers(1, 3)], 0.12, CHROMATIN)
    elif (
        stage == "trophozoite"
    ):  # amoeboid cytoplasm with a vacuole, a larger chromatin mass and a little pigment
        fill(blob(rng, at / 2, 0.5 * radius, 0.28), CYTOPLASM)
        dots([at], 0.17, (214, 172, 196))
        dots([at / 2 + 0.36 * way], 0.18, CHROMATIN)
        dots(rng.normal(0, 0.22 * radius, (5, 2)), 0.045, PIGMENT)
    elif stage == "schizont":  # full of merozoites around a clump of pigment
        fill(blob(rng, (0, 0), 0.9 * radius, 0.03), (188, 152, 196))
        for distance, n in ((0.68, rng.integers(9, 13)), (0.36, rng.integers(4, 7))):
            angle = turn + np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.normal(0, 0.12, n)
            dots(distance * radius * np.stack([np.cos(angle), np.sin(angle)], 1), 0.12, CHROMATIN)
        dots(rng.normal(0, 0.07 * radius, (12, 2)), 0.045, PIGMENT)
    elif (
        stage == "gametocyte"
    ):  # fills the cell: even cytoplasm, one eccentric nucleus, pigment scattered all over
        fill(blob(rng, (0, 0), 0.88 * radius, 0.03), (146, 118, 170))
        dots([1.3 * at], 0.27, (134, 50, 130))
        dots(rng.uniform(-0.58, 0.58, (26, 2)) * radius, 0.045, PIGMENT)


def paint_cell(image, mask, x, y, radius, stage, seed):
    """Paint one cell at (x, y) pixels into image and parasite mask, both ZOOM times larger than the field."""
    rng = np.random.default_rng(seed)
    tone = np.array([206, 140, 158]) + rng.normal(0, 5, 3)

    def fill(outline, colour, parasite=255):
        points = [np.round((outline + (x, y)) * ZOOM * 16).astype(np.int32)]
        for canvas, c in ((image, np.clip(colour, 0, 255).tolist()), (mask, parasite)):
            cv2.fillPoly(canvas, points, c, cv2.LINE_AA, 4)

    body, pale = (
        blob(rng, (0, 0), radius, 0.04),
        rng.uniform(10, 60) * (stage in ("red blood cell", "ring")),
    )
    fill(body, tone - 22, parasite=0)
    for part in np.linspace(0, 1, 12):  # from the dark rim to the pale centre
        fill(body * (0.95 - 0.8 * part), tone + pale * part**1.5, parasite=0)
    paint_parasite(
        lambda outline, colour: fill(outline, colour + rng.normal(0, 6, 3)), rng, stage, radius
    )


def render_field(cells, left, rng):
    """The window of a strip that starts at `left`: uint8 RGB image, parasite mask (bool) and IML objects."""
    height, width = SIZE
    image = np.full((height * ZOOM, width * ZOOM, 3), (238, 240, 228), np.uint8)
    mask, objects = np.zeros(image.shape[:2], np.uint8), []
    for x, y, radius, stage, seed in cells:
        if abs(x - left - width / 2) < width / 2 + 40:
            paint_cell(image, mask, x - left, y, radius, stage, seed)
        if 0 < x - left < width:  # of a cell that is cut off by the border at least half is in view
            box = zip("xywh", (x - left - radius, y - radius, 2 * radius, 2 * radius))
            objects.append({"type": stage, "bbox": {k: str(round(v)) for k, v in box}})
    image, mask = (
        cv2.resize(a, (width, height), interpolation=cv2.INTER_AREA) for a in (image, mask)
    )
    yy, xx = np.mgrid[:height, :width].astype(np.float32) / width - 0.5
    tilt, stain = rng.normal(0, 0.12, 2), rng.uniform(0.85, 1.6) * (1 + rng.normal(0, 0.05, 3))
    light = rng.uniform(0.86, 1.02) * (1 + tilt[0] * xx + tilt[1] * yy - 0.12 * (xx**2 + yy**2))
    image = cv2.GaussianBlur(
        255 * (image / 255) ** stain * light[..., None], (0, 0), rng.uniform(0.4, 0.9)
    )
    return (
        np.clip(image + rng.normal(0, 2.5, image.shape), 0, 255).astype(np.uint8),
        mask > 127,
        objects,
    )


def scatter_cells(rng, width, height):
    """Cells of a smear strip as (x, y, radius, stage, seed): dense, touching, some overlapping, sorted by x."""
    placed = []
    for x, y in sorted(
        rng.uniform((0, 0), (width, height), (int(width * height / 2400), 2)).tolist()
    ):
        stage = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        radius = rng.uniform(23, 28) * (1.2 if stage in ("schizont", "gametocyte") else 1.0)
        if all(math.hypot(x - p[0], y - p[1]) > 0.88 * (radius + p[2]) for p in placed[-60:]):
            placed.append((x, y, radius, stage, int(rng.integers(1 << 30))))
    return placed


def write_demo_set(folder, seed=0):
    """Draw the demo set into an empty folder: images/, annotations.json as IML has it, and the parasites' masks in masks.npz.

    Fields are windows of one long smear that overlap by an eighth, so that neighbours show the same cells, as real ones do.
    """
    rng, step = np.random.default_rng(seed), SIZE[1] * 7 // 8
    strip, annotations, masks = scatter_cells(rng, step * (FIELDS + 1), SIZE[0]), [], {}
    (folder / "images").mkdir()
    for k in tqdm(range(FIELDS), "drawing the demo set", unit="field", disable=None):
        name = f"demo_{k:03d}"
        image, masks[name], objects = render_field(
            strip, k * step, np.random.default_rng([seed, k])
        )
        (folder / f"images/{name}.png").write_bytes(
            cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
        )
        annotations.append({"image_name": f"{name}.png", "objects": objects})
    np.savez_compressed(folder / "masks.npz", **masks)
    (folder / "annotations.json").write_text(json.dumps(annotations))


if __name__ == "__main__":
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
    target = parser.parse_args().folder
    try:
        target.mkdir(parents=True)
    except OSError as error:
        print(
            f"error: {target} cannot be made; name a new folder ({error.strerror})", file=sys.stderr
        )
        sys.exit(2)
    write_demo_set(target)
