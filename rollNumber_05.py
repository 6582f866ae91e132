"""DCGAN, multi-task discriminator and Grad-CAM for malaria blood-smear cells, in one script.

    python rollNumber_05.py                                        demo set drawn by the script, every task, minutes
    python rollNumber_05.py --data_path DIR_OR_ZIP --task data     what was found: layout, splits, classes
    python rollNumber_05.py --data_path DIR_OR_ZIP --task gan      train the DCGAN
    python rollNumber_05.py --data_path DIR_OR_ZIP --task mtd      train the multi-task discriminator (MTD)
    python rollNumber_05.py --data_path DIR_OR_ZIP --task gradcam  heat maps of a trained MTD
    python rollNumber_05.py --data_path DIR_OR_ZIP --task all      all of these, and before/after the head was added
    python rollNumber_05.py --resume --task gan ...                go on where a run was stopped
    python rollNumber_05.py --summary                              every layer, its output shape and size formula

Data layouts, found by looking: M5 Pascal-VOC XML (HCM/LCM, 100x/400x/1000x, split folders or lists), IML
annotations.json, BBBC041 training.json/test.json, COCO JSON, YOLO text labels, folders of crops named by class, and a
zip of any of these. Results go to results/<task>/, weights to saved_models/.

Sources: DCGAN (Radford et al. 2016, arXiv 1511.06434), LSGAN (Mao et al. 2017, arXiv 1611.04076), differentiable
augmentation (Zhao et al. 2020, arXiv 2006.10738), Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391).
Measured results of the shipped weights: saved_models/README.txt.
"""
import argparse
import contextlib
import copy
import csv
import dataclasses
import difflib
import functools
import hashlib
import itertools
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

class UsageError(Exception):
    """Unusable input or wrong usage; the message is one line that names the cause and the mend (exit code 2)."""

class RunError(Exception):
    """A run that started and failed; the message says why and what was kept (exit code 1)."""


# ================================================== config ==================================================

TASKS = ("all", "gan", "mtd", "gradcam", "data")
OPTIMIZERS = ("adam", "rmsprop", "sgd")

def flag(default, help, choices=None, low=None, high=None):
    """A dataclass field that is also a command-line flag: default, help text, valid choices or inclusive range."""
    return dataclasses.field(default=default, metadata=dict(help=help, choices=choices, low=low, high=high))

@dataclass(frozen=True)
class Config:
    """Every flag, its default and its help text; the only place where they are written."""
    data_path: str = flag("", "folder or zip with the data; empty: the built-in demo set")
    task: str = flag("all", "what to do", TASKS)
    view: str = flag("cell", "cell: one crop a box, one class; field: whole images, several classes", ("cell", "field"))
    classes: str = flag("auto", "comma-separated class names; auto: the life stages found, or else every class found")
    microscope: str = flag("hcm", "which M5 microscope to read", ("hcm", "lcm", "both"))
    magnification: str = flag("1000x", "which M5 magnification to read", ("1000x", "400x", "100x", "all"))
    image_size: int = flag(64, "side of the square images, pixels", (28, 32, 64, 128))
    channels: int = flag(3, "3 colour, 1 grey", (1, 3))
    latent_dim: int = flag(100, "length of the noise vector", low=1)
    g_width: int = flag(128, "channels of G at 4x4, halved at each upsampling (the paper: 1024)", low=8)
    d_width: int = flag(128, "channels of D at 4x4, halved towards the image (the paper: 512)", low=8)
    head_width: int = flag(128, "units of the first fully connected layer of the MTD's head", low=1)
    upsample: str = flag("transposed", "G's upsampling; resize avoids checkerboards", ("transposed", "resize"))
    loss: str = flag("bce", "adversarial loss: binary cross-entropy on logits or least squares", ("bce", "lsgan"))
    class_weight: float = flag(1.0, "weight of J(C) in the MTD's total loss J(D) + weight * J(C)", low=0)
    label_smoothing: float = flag(0.1, "label smoothing of J(C)", low=0, high=0.5)
    optimizer: str = flag("adam", "optimiser of both networks", OPTIMIZERS)
    optimizer_g: str = flag("", "optimiser of G; empty: as --optimizer", ("", *OPTIMIZERS))
    optimizer_d: str = flag("", "optimiser of D; empty: as --optimizer", ("", *OPTIMIZERS))
    lr_g: float = flag(2e-4, "learning rate of G", low=0)
    lr_d: float = flag(2e-4, "learning rate of D and of the MTD", low=0)
    betas_g: tuple = flag((0.5, 0.999), "Adam's betas of G; rmsprop: the second is alpha; sgd: the first is momentum")
    betas_d: tuple = flag((0.5, 0.999), "the same of D")
    batch_size: int = flag(32, "images a step", low=2)
    epochs: int = flag(0, "passes over the data; 0: 60, on the demo set 8", low=0)
    min_steps: int = flag(100, "an epoch has at least this many steps, so that small sets get useful epochs", low=1)
    ema: float = flag(0.999, "decay of the averaged weights that are sampled and evaluated; 0: none", low=0, high=0.99999)
    augment: bool = flag(True, "rotate, flip, shift and tint real and generated images alike")
    seed: int = flag(0, "seed of weights, batches and noise", low=0)
    device: str = flag("auto", "where to train", ("auto", "cpu", "cuda", "mps"))
    resume: str = flag("", "go on from results/<task>/last.pt, or from the checkpoint named")
    weights: str = flag("", "MTD checkpoint for --task gradcam; empty: results/mtd/best.pt, else saved_models/mtd.pt")
    overwrite: bool = flag(False, "let a finished run replace weights that are already in --save_dir")
    results_dir: str = flag("results", "folder for pictures, numbers, checkpoints and the crop cache")
    save_dir: str = flag("saved_models", "folder for the weights of finished runs")
    json: bool = flag(False, "with --task data: print one JSON object and nothing else")
    summary: bool = flag(False, "print the layers of G, D and MTD, and stop")

    def __post_init__(self):
        for f in dataclasses.fields(self):
            value, meta = getattr(self, f.name), f.metadata
            if meta["choices"] and value not in meta["choices"]:
                raise UsageError(f"--{f.name} {value!r} is not one of {', '.join(map(str, meta['choices']))}")
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"--{f.name} {value} must be a finite number")
            for bound, wrong in (("low", lambda v, b: v < b), ("high", lambda v, b: v > b)):
                if meta[bound] is not None and wrong(value, meta[bound]):
                    raise UsageError(f"--{f.name} {value} is too {bound}: the {bound}est value is {meta[bound]}")
        for name in ("betas_g", "betas_d"):
            betas = getattr(self, name)
            if len(betas) != 2 or not all(0 <= b < 1 for b in betas):
                raise UsageError(f"--{name} {betas} must be two numbers from 0 up to, not including, 1")

    @property
    def num_epochs(self):
        return self.epochs or (60 if self.data_path else 8)


#: Flags that may differ between a stopped run and the run that goes on with it; all others shape the result.
RESUMABLE = {"data_path", "task", "epochs", "device", "resume", "weights", "overwrite", "results_dir", "save_dir", "json"}


# =================================================== data ===================================================

STAGES = ("ring", "trophozoite", "schizont", "gametocyte")
SPLITS = ("train", "val", "test")
CLASS_SPELLINGS = (  # first match wins; names are lower case with spaces between words
    ("ring", r"\bring"), ("trophozoite", r"\btroph"), ("schizont", r"\bschi[sz]"), ("gametocyte", r"\bgamet"),
    ("red blood cell", r"\bred ?blood|\brbc|\buninfected|\bhealthy|\berythrocyte"),
    ("leukocyte", r"\bleu[ck]o|\bwbc|\bwhite ?blood"), ("difficult", r"\bdifficult"))
SPLIT_SPELLINGS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
                   "dev": "val", "test": "test", "testing": "test"}
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
MAGNIFICATIONS, MICROSCOPES = {"100x", "400x", "1000x"}, {"hcm", "lcm"}
CACHE_VERSION = 1

def canonical_class(name):
    """'P_vivax Rings' -> 'ring'; a name that is not known is kept in lower case."""
    words = re.sub(r"[\s_\-.]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(name))).strip().lower()
    return next((known for known, pattern in CLASS_SPELLINGS if re.search(pattern, words)), words)

def stem_key(name):
    """What identifies an image in any annotation: its stem without folders, spaces, ending, case or magnification."""
    name = re.sub(r"\s+", "", PurePosixPath(str(name).replace("\\", "/")).name).lower()
    stem, ending = os.path.splitext(name)
    stem = stem if ending in IMAGE_ENDINGS | {".xml", ".txt", ".json"} else name
    return re.sub(r"[_\-]?(100|400|1000)x$", "", stem)

def path_tags(path):
    """Words of a relative path that say microscope, magnification or split, e.g. {'hcm', '1000x', 'train'}."""
    words = (re.sub(r"\d+$", "", w) for w in re.split(r"[/\\_\-. ]+", str(path).lower()))
    return {SPLIT_SPELLINGS.get(w, w) for w in words} & (MAGNIFICATIONS | MICROSCOPES | set(SPLITS))

def named_split(parts):
    """The split that the last of some folder or file names tells, or None."""
    return next((s for part in reversed(parts) for s in SPLITS if s in path_tags(part)), None)

@dataclass
class SmearField:
    """One microscope image: its file, its (class, box) pairs, the split it was given in (or None), its path's tags.

    A box is (x, y, w, h) in pixels, or in fractions of the image where `relative`, or None for the whole image.
    """
    path: Path
    cells: list
    split: str
    tags: set
    relative: bool

class DataFolder:
    """Every file under a data folder; images are found by stem, split lists (train.txt with stems) are read."""

    def __init__(self, root):
        self.root, self.images, self.stats, self.listed, self.problems = Path(root), {}, [], {}, []
        for folder, names, files in os.walk(self.root):
            names[:] = sorted(n for n in names if not re.match(r"\.|__MACOSX|(?i:masks?$|segmentation)", n))
            for path in (Path(folder, f) for f in sorted(files) if not f.startswith(".")):
                info = path.stat()
                self.stats.append((path.relative_to(self.root).as_posix(), info.st_size, info.st_mtime_ns))
                if path.suffix.lower() in IMAGE_ENDINGS:
                    self.images.setdefault(stem_key(path.name), []).append(path)

    def files(self, *endings):
        return [self.root / name for name, _, _ in self.stats if name.lower().endswith(endings)]

    def read_split_lists(self):
        for path in self.files(".txt"):
            if split := SPLIT_SPELLINGS.get(path.stem.lower()):
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                self.listed.update({stem_key(line.split()[0]): split for line in lines if line.strip()})

    def attempt(self, path, parse, *args):
        """parse(*args), or None for a damaged annotation, which is noted."""
        try:
            return parse(*args)
        except (OSError, ValueError, TypeError, AttributeError, LookupError, ElementTree.ParseError) as error:
            self.problems.append(f"{path} is damaged ({type(error).__name__}: {str(error).splitlines()[0]})")

    @functools.cached_property
    def json(self):
        """[(path, content)] of every JSON file."""
        return [(p, self.attempt(p, lambda: json.loads(p.read_text(encoding="utf-8-sig")))) for p in self.files(".json")]

    def json_items(self, key):
        """(path, item) of every JSON file that is a list of objects with `key`."""
        return [(path, item) for path, content in self.json if isinstance(content, list) and content
                and isinstance(content[0], dict) and key in content[0] for item in content]

    def field(self, annotation, names, cells, relative):
        """The field of an annotation, its image called by one of `names`; None, and noted, if there is no such image."""
        wanted = self.tags(annotation)
        for name in names:
            matches = [p for p in self.images.get(stem_key(name), []) if not conflict(wanted, self.tags(p))]
            if matches:
                path = max(matches, key=lambda p: (p.parent == annotation.parent, len(wanted & self.tags(p))))
                parts, above = path.relative_to(self.root).parts, annotation.relative_to(self.root).parts
                split = self.listed.get(stem_key(annotation.name), self.listed.get(stem_key(path.name))) or named_split(
                    parts[:-1]) or named_split(above if annotation.suffix.lower() == ".json" else above[:-1])
                return SmearField(path, cells, split, wanted | self.tags(path) | path_tags(names[0]), relative)
        self.problems.append(f"{annotation} names {names[0]}, which is not among the images")

    def tags(self, path):
        return path_tags(path.relative_to(self.root))

def conflict(a, b):
    """Whether two tag sets name different microscopes, magnifications or splits."""
    return any(a & kind and b & kind and not a & b & kind for kind in (MICROSCOPES, MAGNIFICATIONS, set(SPLITS)))

# One reader a layout: yields (annotation file, how to parse it); parsing gives (image names, [(class, box), ...]).

def corners(x0, y0, x1, y1):
    """Opposite corners -> (x, y, w, h)."""
    return x0, y0, x1 - x0, y1 - y0

def read_iml(folder):
    """IML: [{image_name, objects: [{type, bbox: {x, y, w, h}}]}], numbers often as strings."""
    for path, item in folder.json_items("image_name"):
        yield path, lambda i=item: ([i["image_name"]], [
            (o["type"], [float(o["bbox"][k]) for k in "xywh"]) for o in i.get("objects", [])])

def read_bbbc041(folder):
    """BBBC041: [{image: {pathname}, objects: [{category, bounding_box: {minimum: {r, c}, maximum: {r, c}}}]}]."""
    for path, item in folder.json_items("image"):
        yield path, lambda i=item: ([i["image"]["pathname"]], [
            (o["category"], corners(*(o["bounding_box"][end][k] for end in ("minimum", "maximum") for k in "cr")))
            for o in i["objects"]])

def read_coco(folder):
    """COCO: {images, annotations: [{image_id, category_id, bbox: [x, y, w, h]}], categories}."""
    for path, content in folder.json:
        if isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content):
            names, cells = {c["id"]: c["name"] for c in content["categories"]}, {}
            for a in content["annotations"]:
                cells.setdefault(a["image_id"], []).append((names.get(a["category_id"], "unnamed"), a["bbox"]))
            for image in content["images"]:
                yield path, lambda i=image: ([i["file_name"]], cells.get(i["id"], []))

def read_voc(folder):
    """Pascal-VOC XML, as in M5; `filename` inside is only a second guess at the image's name, `path` is not used."""
    def parse(path):
        root = ElementTree.parse(path).getroot()
        cells = [(o.findtext("name"), corners(*(float(o.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))))
                 for o in root.iter("object")]
        return [path.name, root.findtext("filename") or path.name], cells
    for path in folder.files(".xml"):
        yield path, lambda p=path: parse(p)

def read_yolo(folder):
    """YOLO text, one file an image: class index, then centre x, centre y, w, h (or a polygon) in fractions."""
    def parse(path):
        cells = []
        for index, *v in (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()):
            xs, ys = np.array(v[0::2], float), np.array(v[1::2], float)
            box = corners(xs.min(), ys.min(), xs.max(), ys.max()) if len(v) > 4 else (
                xs[0] - xs[1] / 2, ys[0] - ys[1] / 2, xs[1], ys[1])
            cells.append((names[int(index)], [float(b) for b in box]))
        return [path.name], cells
    names = yolo_names(folder)
    for path in folder.files(".txt") if names else []:
        if stem_key(path.name) in folder.images:
            yield path, lambda p=path: parse(p)

def yolo_names(folder):
    """{index: class} of a YOLO set, from data.yaml, classes.txt, obj.names or _darknet.labels; {} if there are none."""
    for path in folder.files(".yaml", ".yml"):
        import yaml
        names = folder.attempt(path, lambda: yaml.safe_load(path.read_text(encoding="utf-8"))["names"])
        if names:
            return dict(enumerate(names)) if isinstance(names, list) else {int(k): v for k, v in names.items()}
    for path in folder.files("classes.txt", ".names", "_darknet.labels"):
        return dict(enumerate(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()))
    return {}

def read_class_folders(folder):
    """Folders of crops named by class, with split folders above or below them or none."""
    named = {}
    for path in (p for paths in folder.images.values() for p in paths):
        parts = [p for p in path.relative_to(folder.root).parts[:-1] if not path_tags(p)]
        if parts:
            named[path] = parts[-1]
    for path, name in named.items() if len(set(named.values())) > 1 else ():
        yield path, lambda p=path, c=name: ([p.name], [(c, None)])

READERS = {"IML annotations.json": read_iml, "BBBC041 JSON": read_bbbc041, "COCO JSON": read_coco,
           "Pascal-VOC XML": read_voc, "YOLO text labels": read_yolo, "class folders": read_class_folders}

def read_fields(folder, microscope, magnification):
    """(layout, fields in name order) of a DataFolder, from the first reader that finds any; fills folder.problems.

    Raises UsageError if no layout is recognised, or if every field is of another microscope or magnification.
    """
    damaged, fields = [], []
    folder.read_split_lists()
    for layout, reader in READERS.items():
        folder.problems = []
        parsed = [(path, folder.attempt(path, parse)) for path, parse in reader(folder)]
        fields = [folder.field(path, *found, reader is read_yolo) for path, found in parsed if found and found[0]]
        damaged += folder.problems
        if fields := [f for f in fields if f]:
            break
    else:
        raise UsageError(f"{folder.root}: no data found: {sum(map(len, folder.images.values()))} images, "
                         f"{damaged[0] if damaged else 'no annotations, no class folders'}; layouts: {', '.join(READERS)}")
    unwanted = (MICROSCOPES - {microscope} if microscope != "both" else set()) | (
        MAGNIFICATIONS - {magnification} if magnification != "all" else set())
    kept = [f for f in fields if not f.tags & unwanted]
    if not kept:
        there = sorted(set().union(*(f.tags for f in fields)) - set(SPLITS))
        raise UsageError(f"{folder.root}: --microscope {microscope} --magnification {magnification} leave out "
                         f"all {len(fields)} fields, which are {', '.join(there)}")
    return layout, sorted(kept, key=lambda f: f.path.relative_to(folder.root).as_posix())

def choose_classes(found, asked):
    """The class names to use, of those found: `asked` (comma-separated) or, for 'auto', the stages or else all."""
    if asked == "auto":
        return [s for s in STAGES if s in found] or sorted(set(found) - {"difficult"}) or sorted(found)
    names = list(dict.fromkeys(canonical_class(c) for c in asked.split(",")))
    unknown = [c for c in names if c not in found]
    if unknown:
        raise UsageError(f"--classes: no cell is called {', '.join(unknown)!r}; found {', '.join(sorted(found))}")
    return names

def deal_splits(fields, classes):
    """Give every field a split. Given splits are used; what is missing of val and test is dealt out of train.

    Neighbouring fields can show the same cell, so blocks of up to 8 fields in name order stay together. Blocks with
    the rarest cells go first, each to the split that is least full of what the block has most of (a greedy
    stratification over groups: 15 % for val and for test). There is no seed: it is always the same.
    """
    given = {f.split for f in fields}
    given = given if "train" in given else set()
    for f in fields:
        f.split = f.split if f.split and given else "train"
    missing = [s for s in ("val", "test") if s not in given]
    pool = [f for f in fields if f.split == "train"]
    size = max(1, min(8, len(pool) // 14))
    blocks = [pool[i:i + size] for i in range(0, len(pool), size)]
    if len(blocks) < len(missing) + 1:
        raise UsageError(f"{len(pool)} images are too few to deal out train, {', '.join(missing)}; give more")
    counts = np.array([[len(b), *(sum(c == k for f in b for c, _ in f.cells) for k in classes)] for b in blocks], float)
    counts /= np.maximum(counts.sum(0), 1)
    splits, share = ["train", *missing], np.array([1 - 0.15 * len(missing)] + [0.15] * len(missing))
    filled, dealt = np.zeros((len(splits), counts.shape[1])), [0] * len(blocks)
    for b in np.argsort(-counts.max(1), kind="stable"):
        dealt[b] = int(((filled + counts[b])[:, counts[b].argmax()] / share).argmin())
        filled[dealt[b]] += counts[b]
    for k in set(range(len(splits))) - set(dealt):  # tiny sets: no split stays empty
        dealt[max(b for b in range(len(dealt)) if dealt.count(dealt[b]) > 1)] = k
    for block, k in zip(blocks, dealt):
        for f in block:
            f.split = splits[k]

def read_image(path, channels=3):
    """An image file of any size or mode (grey, RGBA, 16-bit, palette) as uint8 RGB or grey (H, W, channels).

    Raises UsageError for a file that is not a readable image.
    """
    import cv2
    mode = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise UsageError(f"{path}: not a readable image; give a PNG, JPEG, TIFF, BMP or WebP file")
    return image[:, :, None] if channels == 1 else image[:, :, ::-1]

def resize(image, size):
    """uint8 (H, W, C) -> (size, size, C), antialiased when it shrinks."""
    import cv2
    how = cv2.INTER_AREA if max(image.shape[:2]) > size else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=how).reshape(size, size, -1)

def crop_cell(image, box, size):
    """The cell's square: 1.1 times the box's longer side, centred on it, shifted to stay inside; (size, size, C).

    box: (x, y, w, h) in pixels, or None for the whole image. Returns None for a box with no area inside the image.
    """
    if box is None:
        return resize(image, size)
    (height, width), (x, y, w, h) = image.shape[:2], box
    if not (w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0):
        return None
    side = max(1, min(round(1.1 * max(w, h)), height, width))
    left, top = (min(max(round(low + length / 2 - side / 2), 0), limit - side)
                 for low, length, limit in ((x, w, width), (y, h, height)))
    return resize(image[top:top + side, left:left + side], size)

def field_items(field, classes, view):
    """[(box or None, label)] that a field gives: its cells, or itself with a multi-hot label."""
    cells = [(box, classes.index(c)) for c, box in field.cells if c in classes]
    return cells if view == "cell" else [(None, [int(i in [k for _, k in cells]) for i in range(len(classes))])]

def cut_images(fields, items, out, name):
    """Decode every field once, in threads, and write its crops into `out` (N, S, S, C); returns the rows that failed."""
    starts = np.cumsum([0] + [len(i) for i in items])

    def cut(k):
        try:
            image = read_image(fields[k].path, out.shape[3]) if items[k] else None
        except UsageError:
            return range(starts[k], starts[k + 1])
        failed = []
        for row, (box, _) in enumerate(items[k], start=starts[k]):
            if box is not None and fields[k].relative:
                box = np.multiply(box, np.tile(image.shape[1::-1], 2))
            crop = crop_cell(image, box, out.shape[1])
            failed += [row] if crop is None else []
            out[row] = 0 if crop is None else crop
        return failed

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = tqdm(pool.map(cut, range(len(fields))), f"reading {name}", len(fields), unit="image", disable=None)
        return {int(row) for rows in done for row in rows}

def build_cache(folder, target, *, view, classes, microscope, magnification, image_size, channels):
    """Read a data folder and write target/images.npy (uint8, N x S x S x C) and target/index.json, all or nothing."""
    layout, fields = read_fields(folder, microscope, magnification)
    for f in fields:
        f.cells = [(canonical_class(c), box) for c, box in f.cells]
    found = {c for f in fields for c, _ in f.cells}
    if not found:
        raise UsageError(f"{folder.root}: {layout}, {len(fields)} images, but not one annotated cell")
    classes = choose_classes(found, classes)
    deal_splits(fields, classes)
    items = [field_items(f, classes, view) for f in fields]
    flat = [(f, box, label) for f, its in zip(fields, items) for box, label in its]
    with atomic_folder(target) as building:
        images = np.lib.format.open_memmap(building / "images.npy", "w+", np.uint8,
                                           (len(flat), image_size, image_size, channels))
        failed = cut_images(fields, items, images, folder.root.name)
        images.flush()
        keep = [i for i in range(len(flat)) if i not in failed]
        if not keep:
            raise UsageError(f"{folder.root}: none of the {len(flat)} cells could be cut; are images and boxes whole?")
        (building / "index.json").write_text(json.dumps(dict(
            layout=layout, classes=classes, skipped=len(failed) + len(folder.problems), problems=folder.problems[:20],
            images={s: sum(f.split == s for f in fields) for s in SPLITS}, rows=keep,
            labels=[flat[i][2] for i in keep], splits=[flat[i][0].split for i in keep], boxes=[flat[i][1] for i in keep],
            sources=[flat[i][0].path.relative_to(folder.root).as_posix() for i in keep])))

@contextlib.contextmanager
def atomic_folder(target):
    """A folder to write into that takes the name `target` when the block ends well and vanishes otherwise."""
    building = target.with_name(f"{target.name}.{os.getpid()}.part")
    building.mkdir(parents=True, exist_ok=True)
    try:
        yield building
        shutil.rmtree(target, ignore_errors=True)
        building.replace(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)

def open_data_path(data_path, cache):
    """The folder of a data path; a zip is unpacked once into `cache`. Raises UsageError."""
    path = Path(data_path).expanduser()
    if path.is_dir():
        return path
    if not path.exists():
        raise UsageError(f"--data_path {data_path}: no such folder or zip")
    key = hashlib.sha1(f"{path.resolve()}{path.stat().st_size}{path.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    target = cache / f"zip-{key}"
    if not target.exists():
        try:
            with zipfile.ZipFile(path) as archive, atomic_folder(target) as building:
                archive.extractall(building)
        except (zipfile.BadZipFile, RuntimeError, OSError, NotImplementedError) as error:
            raise UsageError(f"--data_path {data_path}: neither a folder nor a zip that can be unpacked ({error})")
    return target

class MalariaDataset(torch.utils.data.Dataset):
    """Images with labels, classes and sources; item i: (float32 image (C, S, S) in [-1, 1], label).

    images: uint8 (M, S, S, C), memory-mapped or on the device; rows: which entries of `index` are in.
    labels: int64 (N,) class indices for view 'cell', float32 (N, n) multi-hot for view 'field'.
    """

    def __init__(self, images, index, rows, device="cpu"):
        self.index, self.rows, self.device = index, list(rows), torch.device(device)
        self.classes, self.layout = index["classes"], index["layout"]
        self.images = images.to(self.device) if images.nbytes < 2 << 30 else images
        self.where = torch.tensor([index["rows"][r] for r in self.rows], dtype=torch.int64, device=self.images.device)
        labels = torch.tensor([index["labels"][r] for r in self.rows], device=self.device)
        self.labels = labels.float() if labels.ndim == 2 else labels.long()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.batch(torch.tensor([i]))[0], self.labels[i]

    def batch(self, indices):
        """float32 images (B, C, S, S) in [-1, 1], channels last, on the training device."""
        images = self.images[self.where[indices.to(self.where.device)]].to(self.device, non_blocking=True)
        return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def uint8(self, indices):
        """Images as numpy (B, S, S, C)."""
        return self.images[self.where[torch.as_tensor(indices, device=self.where.device)]].cpu().numpy()

    def split(self, name="all", limit=None):
        """The part of one split, or of 'all'; with a limit, that many images spread evenly over it."""
        rows = [r for r in self.rows if name in ("all", self.index["splits"][r])]
        return MalariaDataset(self.images, self.index, rows[::math.ceil(len(rows) / limit) if limit and rows else 1], self.device)

    def sampling_weights(self):
        """(N,) weights that make every class equally likely; multi-label images count for their rarest class."""
        hot = F.one_hot(self.labels, len(self.classes)).float() if self.labels.ndim == 1 else self.labels
        return (hot / hot.sum(0).clamp(min=1)).amax(1) + (hot.sum(1) == 0) / len(hot)

    def counts(self):
        """{'train': {'images': fields, 'cells': {class: n}}, ...}, as --task data reports it."""
        hot = F.one_hot(self.labels, len(self.classes)) if self.labels.ndim == 1 else self.labels
        inside = {s: torch.tensor([self.index["splits"][r] == s for r in self.rows], device=hot.device) for s in SPLITS}
        return {s: {"images": self.index["images"][s], "cells": dict(zip(self.classes, hot[inside[s]].sum(0).int().tolist()))}
                for s in SPLITS}

    def table(self):
        """The splits as text: images, cells and each class."""
        rows = [[s, c["images"], sum(c["cells"].values()), *c["cells"].values()] for s, c in self.counts().items()]
        rows.append(["total", *(sum(column) for column in list(zip(*rows))[1:])])
        return "\n".join([f"layout: {self.layout}, skipped: {self.index['skipped']}", *self.index["problems"][:3],
                          text_table([["split", "images", "cells", *self.classes], *rows])])

def text_table(rows):
    """Rows of values as aligned text."""
    width = [max(len(str(v)) for v in column) for column in zip(*rows)]
    return "\n".join("  ".join(str(v).ljust(w) for v, w in zip(r, width)).rstrip() for r in rows)

def load_data(config, device="cpu"):
    """The MalariaDataset of a config: from the crop cache when data and settings are unchanged. Raises UsageError."""
    cache = Path(config.results_dir, "cache")
    root = open_data_path(config.data_path, cache) if config.data_path else write_demo_set(Path(config.results_dir, "demo_data"))
    folder = DataFolder(root)
    settings = {k: getattr(config, k) for k in ("view", "classes", "microscope", "magnification", "image_size", "channels")}
    key = hashlib.sha1(json.dumps([CACHE_VERSION, str(root.resolve()), folder.stats, settings]).encode()).hexdigest()[:16]
    if not (cache / key).exists():
        build_cache(folder, cache / key, **settings)
    index = json.loads((cache / key / "index.json").read_text())
    images = torch.from_numpy(np.load(cache / key / "images.npy", mmap_mode="c"))
    return MalariaDataset(images, index, range(len(index["rows"])), device)

# The demo set

DEMO_FIELDS, DEMO_SIZE, DEMO_VERSION, DEMO_ZOOM = 60, (480, 640), 1, 3
DEMO_SHARES = {"red blood cell": 0.87, "ring": 0.05, "trophozoite": 0.03, "schizont": 0.02, "gametocyte": 0.03}
CHROMATIN, CYTOPLASM, PIGMENT = (96, 28, 110), (128, 106, 168), (112, 78, 40)  # Giemsa colours, RGB

def blob(rng, centre, radius, roughness, points=28):
    """(points, 2) outline of a smooth irregular disc; roughness 0 is a circle."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    waves = sum(rng.normal(0, roughness / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4, 5))
    return np.stack([np.cos(angle), np.sin(angle)], 1) * (radius * (1 + waves))[:, None] + centre

def paint_parasite(fill, rng, stage, radius):
    """Paint one parasite around (0, 0) of a cell of `radius`; fill(outline, colour), a line of `width` if given."""
    def dots(spots, r, colour):
        for spot in spots:
            fill(blob(rng, spot, r * radius, 0.12), colour)

    at, turn = rng.uniform(-0.3, 0.3, 2) * radius, rng.uniform(0, 2 * np.pi)
    way = np.array([np.cos(turn), np.sin(turn)]) * radius
    if stage == "ring":  # signet ring: a thin blue circle around a vacuole, with one or two chromatin dots on it
        size = rng.uniform(0.24, 0.32)
        fill(blob(rng, at, size * radius, 0.06), CYTOPLASM, width=0.09 * radius)
        dots([at + size * way, at + size * way[::-1]][:rng.integers(1, 3)], 0.12, CHROMATIN)
    elif stage == "trophozoite":  # amoeboid cytoplasm with a vacuole, a larger chromatin mass and a little pigment
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
    elif stage == "gametocyte":  # fills the cell: even cytoplasm, one eccentric nucleus, pigment scattered all over
        fill(blob(rng, (0, 0), 0.88 * radius, 0.03), (146, 118, 170))
        dots([1.3 * at], 0.27, (134, 50, 130))
        dots(rng.normal(0, 0.42 * radius, (26, 2)), 0.045, PIGMENT)

def paint_cell(image, mask, x, y, radius, stage, seed):
    """Paint one cell at (x, y) pixels into image and parasite mask, both DEMO_ZOOM times larger than the field."""
    import cv2
    rng = np.random.default_rng(seed)
    tone = np.array([206, 140, 158]) + rng.normal(0, 5, 3)

    def fill(outline, colour, width=0.0, parasite=255):
        points = [np.round((outline + (x, y)) * DEMO_ZOOM * 16).astype(np.int32)]
        for canvas, c in ((image, np.clip(colour, 0, 255).tolist()), (mask, parasite)):
            if width:
                cv2.polylines(canvas, points, True, c, max(1, round(width * DEMO_ZOOM)), cv2.LINE_AA, 4)
            else:
                cv2.fillPoly(canvas, points, c, cv2.LINE_AA, 4)

    body, pale = blob(rng, (0, 0), radius, 0.04), rng.uniform(10, 60) * (stage in ("red blood cell", "ring"))
    fill(body, tone - 22, parasite=0)
    for part in np.linspace(0, 1, 12):  # from the dark rim to the pale centre
        fill(body * (0.95 - 0.8 * part), tone + pale * part ** 1.5, parasite=0)
    paint_parasite(lambda outline, colour, width=0.0: fill(outline, np.array(colour) + rng.normal(0, 6, 3), width), rng, stage, radius)

def render_field(cells, left, rng):
    """The window of a strip that starts at `left`: uint8 RGB image, parasite mask (bool) and IML objects."""
    import cv2
    height, width = DEMO_SIZE
    image = np.full((height * DEMO_ZOOM, width * DEMO_ZOOM, 3), (238, 240, 228), np.uint8)
    mask, objects = np.zeros(image.shape[:2], np.uint8), []
    for x, y, radius, stage, seed in cells:
        if abs(x - left - width / 2) < width / 2 + 40:
            paint_cell(image, mask, x - left, y, radius, stage, seed)
        if 0 < x - left < width:  # of a cell that is cut off by the border at least half is in view
            box = dict(x=x - left - radius, y=y - radius, w=2 * radius, h=2 * radius)
            objects.append({"type": stage, "bbox": {k: str(round(v)) for k, v in box.items()}})
    image, mask = (cv2.resize(a, (width, height), interpolation=cv2.INTER_AREA) for a in (image, mask))
    yy, xx = np.mgrid[:height, :width].astype(np.float32) / width - 0.5
    tilt, stain = rng.normal(0, 0.12, 2), rng.uniform(0.85, 1.6) * (1 + rng.normal(0, 0.05, 3))
    light = rng.uniform(0.86, 1.02) * (1 + tilt[0] * xx + tilt[1] * yy - 0.12 * (xx ** 2 + yy ** 2))
    image = cv2.GaussianBlur(255 * (image / 255) ** stain * light[..., None], (0, 0), rng.uniform(0.4, 0.9))
    return np.clip(image + rng.normal(0, 2.5, image.shape), 0, 255).astype(np.uint8), mask > 127, objects

def scatter_cells(rng, width, height):
    """Cells of a smear strip as (x, y, radius, stage, seed): dense, touching, some overlapping, sorted by x."""
    placed = []
    for x, y in sorted(rng.uniform((0, 0), (width, height), (int(width * height / 2400), 2)).tolist()):
        stage = str(rng.choice(list(DEMO_SHARES), p=list(DEMO_SHARES.values())))
        radius = rng.uniform(23, 28) * (1.2 if stage in ("schizont", "gametocyte") else 1.0)
        if all(math.hypot(x - p[0], y - p[1]) > 0.88 * (radius + p[2]) for p in placed[-60:]):
            placed.append((x, y, radius, stage, int(rng.integers(1 << 30))))
    return placed

def write_demo_set(target, seed=0):
    """Render the demo set into `target` once, in the IML layout, with parasite masks in masks.npz; returns `target`.

    Fields are windows of one smear strip that overlap by an eighth, so neighbours can show the same cell, as in the
    real data; light, stain, focus and noise differ from field to field. The same files for the same seed.
    """
    stamp = f"demo set {DEMO_VERSION}, seed {seed}"
    if (target / "README").exists() and (target / "README").read_text() == stamp:
        return target
    rng, step = np.random.default_rng(seed), DEMO_SIZE[1] * 7 // 8
    strip, annotations, masks = scatter_cells(rng, step * (DEMO_FIELDS + 1), DEMO_SIZE[0]), [], {}
    with atomic_folder(target) as building:
        (building / "images").mkdir()
        for k in tqdm(range(DEMO_FIELDS), "rendering the demo set", unit="field", disable=None):
            image, masks[f"demo_{k:03d}"], objects = render_field(strip, k * step, np.random.default_rng([seed, k]))
            write_image(building / "images" / f"demo_{k:03d}.png", image)
            annotations.append({"image_name": f"demo_{k:03d}.png", "objects": objects})
        np.savez_compressed(building / "masks.npz", **masks)
        (building / "annotations.json").write_text(json.dumps(annotations))
        (building / "README").write_text(stamp)
    return target


# ================================================== models ==================================================

SIDES = {28: (4, 7, 14, 28), 32: (4, 8, 16, 32), 64: (4, 8, 16, 32, 64), 128: (4, 8, 16, 32, 64, 128)}

def layer_plan(image_size, width):
    """[(side, channels)] from 4x4 towards the image: channels halve at each doubling, never below 8."""
    return [(side, max(8, width >> i)) for i, side in enumerate(SIDES[image_size][:-1])]

def kernel_for(small, large):
    """Kernel of a stride-2, padding-1 convolution between two sides, from o = (i - 1)*2 - 2*1 + k."""
    return large - 2 * small + 4

def initialise(module):
    """DCGAN initialisation: weights N(0, 0.02), batch-norm scales N(1, 0.02), biases 0 (Radford et al. 2016, sec. 4)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)):
        nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

class Generator(nn.Module):
    """Noise to image: linear -> width x 4 x 4 -> upsampling convolutions, batch norm, ReLU -> tanh (Radford et al. 2016)."""

    def __init__(self, *, image_size=64, channels=3, latent_dim=100, width=128, upsample="transposed"):
        super().__init__()
        self.latent_dim = latent_dim
        self.project = nn.Sequential(nn.Linear(latent_dim, width * 16), nn.Unflatten(1, (width, 4, 4)),
                                     nn.BatchNorm2d(width), nn.ReLU())
        plan, blocks = layer_plan(image_size, width) + [(image_size, channels)], []
        for (small, c_in), (large, c_out) in zip(plan, plan[1:]):
            last = large == image_size
            if upsample == "transposed":  # (B, c_in, small, small) -> (B, c_out, large, large)
                blocks.append(nn.ConvTranspose2d(c_in, c_out, kernel_for(small, large), 2, 1, bias=last))
            else:  # nearest-neighbour resize, then convolution: no checkerboard (Odena et al. 2016)
                blocks += [nn.Upsample(size=(large, large)), nn.Conv2d(c_in, c_out, 3, 1, 1, bias=last)]
            blocks += [nn.Tanh()] if last else [nn.BatchNorm2d(c_out), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks)
        self.apply(initialise)

    def forward(self, noise):
        """noise (B, latent_dim), standard normal -> images (B, C, S, S) in [-1, 1]."""
        return self.blocks(self.project(noise))

class Discriminator(nn.Module):
    """Image to one logit, high for real: stride-2 convolutions, batch norm except on the first, LeakyReLU 0.2."""

    def __init__(self, *, image_size=64, channels=3, width=128):
        super().__init__()
        plan, blocks = [(image_size, channels)] + layer_plan(image_size, width)[::-1], []
        for (large, c_in), (small, c_out) in zip(plan, plan[1:]):  # (B, c_in, large, large) -> (B, c_out, small, small)
            first = large == image_size
            blocks.append(nn.Conv2d(c_in, c_out, kernel_for(small, large), 2, 1, bias=first))
            blocks += ([] if first else [nn.BatchNorm2d(c_out)]) + [nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*blocks)  # (B, width, 4, 4)
        self.real_fake = nn.Conv2d(width, 1, 4)  # (B, 1, 1, 1)
        self.apply(initialise)

    def forward(self, images):
        """images (B, C, S, S) in [-1, 1] -> real/fake logits (B,)."""
        return self.real_fake(self.features(images)).flatten()

    def explained_layer(self):
        """The last convolution with at least 4x4 outputs, Grad-CAM's target: the 1x1 logit has no map to show."""
        return [m for m in self.features if isinstance(m, nn.Conv2d)][-1]

class MultiTaskDiscriminator(Discriminator):
    """The discriminator with a second head: two fully connected layers on the second-last convolution name the cell."""

    def __init__(self, *, num_classes, head_width=128, image_size=64, channels=3, width=128):
        super().__init__(image_size=image_size, channels=channels, width=width)
        self.embed = nn.Sequential(nn.Flatten(), nn.Linear(width * 16, head_width), nn.LeakyReLU(0.2))
        self.classify = nn.Linear(head_width, num_classes)
        self.embed.apply(initialise)
        initialise(self.classify)

    def forward(self, images):
        """images (B, C, S, S) in [-1, 1] -> real/fake logits (B,), class logits (B, n)."""
        maps = self.features(images)
        return self.real_fake(maps).flatten(), self.classify(self.embed(maps))

    def embedding(self, images):
        """images (B, C, S, S) -> penultimate features (B, head_width)."""
        return self.embed(self.features(images))

def build_models(task, settings, num_classes):
    """(generator, discriminator or MTD) of a task, with the sizes that `settings`, a config as a mapping, gives."""
    shape = dict(image_size=settings["image_size"], channels=settings["channels"])
    d_shape = dict(shape, width=settings["d_width"])
    return (Generator(**shape, latent_dim=settings["latent_dim"], width=settings["g_width"], upsample=settings["upsample"]),
            Discriminator(**d_shape) if task == "gan" else
            MultiTaskDiscriminator(**d_shape, num_classes=num_classes, head_width=settings["head_width"]))

def size_formula(layer, i):
    """How a convolution's output side follows from its input side i, worked out; '' for other layers."""
    if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        return ""
    k, s, p = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    if isinstance(layer, nn.ConvTranspose2d):
        return f"(i - 1)*s - 2*p + k = ({i} - 1)*{s} - 2*{p} + {k} = {(i - 1) * s - 2 * p + k}"
    return f"(i + 2*p - k)/s + 1 = ({i} + 2*{p} - {k})/{s} + 1 = {(i + 2 * p - k) // s + 1}"

def summarise(model, example):
    """Text table of a model's layers: name, kind, output shape, parameters, size formula. example: an input of batch 1."""
    rows, hooks = [("layer", "kind", "output", "parameters", "output side")], []
    for name, layer in model.named_modules():
        if not list(layer.children()):
            hooks.append(layer.register_forward_hook(lambda m, inputs, output, name=name: rows.append((
                name, type(m).__name__, "x".join(map(str, output.shape[1:])), f"{sum(p.numel() for p in m.parameters()):,}",
                size_formula(m, inputs[0].shape[-1])))))
    with evaluating(model), torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    return f"{type(model).__name__}: {sum(p.numel() for p in model.parameters()):,} parameters\n{text_table(rows)}\n"

@contextlib.contextmanager
def evaluating(model):
    """Eval mode inside the block; every submodule's own mode is restored after it."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


# ================================================== losses ==================================================

def discriminator_loss(real_logits, fake_logits, kind):
    """J(D), logits (B,) -> scalar. bce: Goodfellow et al. 2014, eq. 1; lsgan: Mao et al. 2017, eq. 2, a=0, b=1, no 1/2."""
    if kind == "bce":
        return (F.binary_cross_entropy_with_logits(real_logits, torch.ones_like(real_logits))
                + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits)))
    return (real_logits - 1).square().mean() + fake_logits.square().mean()

def generator_loss(fake_logits, kind):
    """J(G), logits (B,) -> scalar: the non-saturating loss (Goodfellow et al. 2014, sec. 3) or least squares with c=1."""
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))
    return (fake_logits - 1).square().mean()

def classification_loss(logits, labels, smoothing=0.0):
    """J(C), logits (B, n) -> scalar: softmax cross-entropy for class indices (B,), sigmoid for multi-hot labels (B, n)."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return F.binary_cross_entropy_with_logits(logits, labels * (1 - smoothing) + smoothing / 2)

def real_probability(logits, kind):
    """How likely D holds an image for real, in [0, 1]: the sigmoid of a bce logit, a least-squares score clamped."""
    return logits.sigmoid() if kind == "bce" else logits.clamp(0, 1)

def class_probabilities(logits, multi_label):
    """What a user reads of class logits (B, n): softmax, or a sigmoid for each class."""
    return logits.sigmoid() if multi_label else logits.softmax(1)


# ============================================= one training step =============================================

def discriminator_step(g, d, optimizer, real, noise, *, loss, view=lambda x: x, labels=None, smoothing=0.0, weight=1.0):
    """One update of D on real images and detached fakes: min J(D), for an MTD with labels min J(D) + weight * J(C).

    real (B, C, S, S), noise (B, latent); `view` augments both alike. Returns detached J(D), J(C) and the two
    logit vectors. Real and fake batches are normalised apart; only real ones feed D's running averages, since what
    D answers in eval mode is about real cells.
    """
    with torch.no_grad():
        fake = g(noise)
    real_out = d(view(real))
    with frozen_statistics(d):
        fake_out = d(view(fake))
    real_logits, fake_logits = (real_out, fake_out) if labels is None else (real_out[0], fake_out[0])
    j_d = discriminator_loss(real_logits, fake_logits, loss)
    j_c = torch.zeros_like(j_d) if labels is None else classification_loss(real_out[1], labels, smoothing)
    optimizer.zero_grad(set_to_none=True)
    (j_d + weight * j_c).backward()
    optimizer.step()
    return j_d.detach(), j_c.detach(), real_logits.detach(), fake_logits.detach()

def generator_step(g, d, optimizer, noise, *, loss, view=lambda x: x):
    """One update of G through a frozen D on fresh noise (B, latent): min J(G). Returns detached J(G)."""
    d.requires_grad_(False)  # its gradients are not needed here
    with frozen_statistics(d):
        out = d(view(g(noise)))
    j_g = generator_loss(out[0] if isinstance(out, tuple) else out, loss)
    optimizer.zero_grad(set_to_none=True)
    j_g.backward()
    optimizer.step()
    d.requires_grad_(True)
    return j_g.detach()

@contextlib.contextmanager
def frozen_statistics(model):
    """Batch norm inside the block normalises by the batch as ever but leaves its running averages alone."""
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in layers]
    for m in layers:
        m.momentum = 0.0
    try:
        yield
    finally:
        for m, momentum in zip(layers, momenta):
            m.momentum = momentum

def augment(images):
    """Random rotation, flip, shift (up to 6 %), zoom (10 %) and tint, (B, C, S, S) -> the same shape; differentiable.

    D sees real and generated images through it alike, so it cannot learn the real ones by heart and G does not learn
    the augmentation (Zhao et al. 2020, sec. 3). One resampling; corners are filled by reflection.
    """
    n, c, device = len(images), images.shape[1], images.device
    angle, zoom = 2 * math.pi * torch.rand(n, device=device), 0.9 + 0.2 * torch.rand(n, device=device)
    mirror = torch.randint(0, 2, (n,), device=device) * 2 - 1
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    shift = 0.12 * torch.rand(2, n, device=device) - 0.06
    theta = torch.stack([cos * mirror, -sin, shift[0], sin * mirror, cos, shift[1]], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain = 0.85 + 0.3 * torch.rand(n, c, 1, 1, device=device)
    return images * gain + (0.2 * torch.rand(n, 1, 1, 1, device=device) - 0.1)

@torch.no_grad()
def update_average(average, model, decay, step):
    """Exponential moving average of weights and batch statistics; a short decay at first, while weights are noise."""
    decay = min(decay, (1 + step) / (10 + step))
    for a, m in zip(average.state_dict().values(), model.state_dict().values()):
        a.lerp_(m, 1 - decay) if a.is_floating_point() else a.copy_(m)


# ============================================== training tasks ===============================================

TRACES = ("loss_d", "loss_c", "d_real", "d_fake", "loss_g")

def make_optimizer(kind, parameters, lr, betas):
    """Adam, RMSprop (alpha = second beta) or SGD (momentum = first beta)."""
    if kind == "adam":
        return torch.optim.Adam(parameters, lr, betas=tuple(betas), fused=True)
    if kind == "rmsprop":
        return torch.optim.RMSprop(parameters, lr, alpha=betas[1])
    return torch.optim.SGD(parameters, lr, momentum=betas[0])

def pick_device(name):
    """torch.device for auto, cpu, cuda or mps. Raises UsageError if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name != "auto" and not there[name]:
        raise UsageError(f"--device {name} is not available here; use --device {' or '.join(d for d in there if there[d])}")
    return torch.device(name if name != "auto" else next(d for d in there if there[d]))

class Trainer:
    """Both networks, their averages and optimisers, and everything a checkpoint holds. task: 'gan' or 'mtd'."""

    def __init__(self, task, config, classes, device):
        self.task, self.config, self.classes, self.device = task, config, list(classes), device
        torch.manual_seed(config.seed)
        self.nets = dict(zip(("generator", "discriminator"), build_models(task, dataclasses.asdict(config), len(classes))))
        for net in self.nets.values():
            net.to(device, memory_format=torch.channels_last)
        self.averages = {k: copy.deepcopy(net).eval().requires_grad_(False) for k, net in self.nets.items()}
        self.optimizers = {k: make_optimizer(getattr(config, f"optimizer_{k[0]}") or config.optimizer, net.parameters(),
                                             getattr(config, f"lr_{k[0]}"), getattr(config, f"betas_{k[0]}"))
                           for k, net in self.nets.items()}
        self.epoch, self.step, self.history, self.traces, self.best = 0, 0, [], torch.zeros(0, len(TRACES)), -math.inf
        torch.manual_seed(config.seed)

    def update(self, real, labels):
        """One D step and one G step; returns the five TRACES as a tensor, without waiting for the device."""
        c, (g, d), (opt_g, opt_d) = self.config, self.nets.values(), self.optimizers.values()
        view = augment if c.augment else lambda x: x
        noise = torch.randn(2, len(real), c.latent_dim, device=self.device)
        j_d, j_c, real_logits, fake_logits = discriminator_step(
            g, d, opt_d, real, noise[0], loss=c.loss, view=view, labels=labels if self.task == "mtd" else None,
            smoothing=c.label_smoothing, weight=c.class_weight)
        j_g = generator_step(g, d, opt_g, noise[1], loss=c.loss, view=view)
        self.step += 1
        for k, average in self.averages.items():
            update_average(average, self.nets[k], c.ema, self.step)
        d_real, d_fake = (real_probability(logits, c.loss).mean() for logits in (real_logits, fake_logits))
        return torch.stack([j_d, j_c, d_real, d_fake, j_g])

    def epoch_steps(self, data):
        return max(self.config.min_steps, math.ceil(len(data) / self.config.batch_size))

    def batches(self, data):
        """Index batches of one epoch: whole shuffled passes for the GAN, class-balanced draws for the MTD."""
        steps, size = self.epoch_steps(data), self.config.batch_size
        if self.task == "mtd":
            order = torch.multinomial(data.sampling_weights().cpu().double(), steps * size, replacement=True)
        else:
            order = torch.cat([torch.randperm(len(data)) for _ in range(math.ceil(steps * size / len(data)))])
        return order[:steps * size].view(steps, size)

    def train_epoch(self, data, bar):
        """One epoch of updates; returns its row of numbers. Raises RunError when a loss is no longer finite."""
        start, traces = time.perf_counter(), []
        for i, indices in enumerate(batches := self.batches(data)):
            traces.append(self.update(data.batch(indices), data.labels[indices.to(data.device)]))
            bar.update(len(indices))
            if i % 20 == 19 or i + 1 == len(batches):  # looking waits for the device, so it is done seldom
                now = torch.stack(traces[-20:])
                if not now.isfinite().all():
                    raise RunError(f"a loss is not finite in epoch {self.epoch + 1}; try a lower --lr_d and --lr_g")
                bar.set_postfix(dict(zip(("D", "C", "G"), (f"{v:.2f}" for v in now.mean(0)[[0, 1, 4]].tolist()))), refresh=False)
        traces = torch.stack(traces).cpu()
        self.traces, self.epoch = torch.cat([self.traces, traces]), self.epoch + 1
        seconds = time.perf_counter() - start
        return {"epoch": self.epoch, "step": self.step, "seconds": round(seconds, 3), "peak_memory_mb": peak_memory_mb(),
                "images_per_second": round(batches.numel() / seconds, 1), **dict(zip(TRACES, traces.mean(0).tolist()))}

    def state(self):
        """The checkpoint: tensors and plain values only."""
        rng = {"cpu": torch.get_rng_state(), **({"cuda": torch.cuda.get_rng_state()} if self.device.type == "cuda" else {})}
        config = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self.config).items()}
        parts = dict(weights=self.nets, ema=self.averages, optimizers=self.optimizers)
        return {"format": CHECKPOINT_FORMAT, "task": self.task, "config": config, "classes": self.classes,
                "normalisation": {"scale": 1 / 127.5, "offset": -1.0}, "epoch": self.epoch, "step": self.step,
                "history": self.history, "traces": self.traces, "best": self.best, "rng": rng,
                **{key: {k: part.state_dict() for k, part in group.items()} for key, group in parts.items()}}

    def load(self, state):
        """Go on from a checkpoint's state."""
        for key, group in (("weights", self.nets), ("ema", self.averages), ("optimizers", self.optimizers)):
            for k, part in group.items():
                part.load_state_dict(state[key][k])
        self.epoch, self.step, self.history = state["epoch"], state["step"], state["history"]
        self.traces, self.best = state["traces"], state["best"]
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"])

def peak_memory_mb():
    """Peak resident memory of this process in MB; 0 where the system does not tell."""
    with contextlib.suppress(ImportError):
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
    return 0

def environment(device):
    """Versions, device and git commit, for config.json."""
    commit = ""
    with contextlib.suppress(OSError):
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True).stdout
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
            "system": platform.platform(), "device": str(device), "threads": torch.get_num_threads(),
            "device_name": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
            "git_commit": commit.strip() or None}

def run_folder(config, task):
    """results/<task>; an earlier run's folder is moved aside unless this run goes on with it."""
    folder = Path(config.results_dir, task)
    if (folder / "last.pt").exists() and not config.resume:
        kept = next(p for i in itertools.count(1) if not (p := folder.with_name(f"{task}.old-{i}")).exists())
        folder.rename(kept)
        print(f"{folder} held an earlier run; it is now {kept}", file=sys.stderr)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    return folder

def train(task, config, data):
    """Train 'gan' or 'mtd', or go on with it: every epoch saved, sampled and logged. Returns the Trainer and its folder."""
    trainer = Trainer(task, config, data.classes, data.device)
    parts = {s: data.split(s) for s in SPLITS}
    if not len(parts["train"]) or (task == "mtd" and len(data.classes) < 2):
        raise UsageError(f"--task {task}: {len(parts['train'])} training images of {data.classes} are not enough; see --task data")
    if resumed := resume_path(config, task):
        state = read_checkpoint(resumed, task)
        if state["classes"] != data.classes:
            raise UsageError(f"{resumed}: trained on {state['classes']}, the data has {data.classes}; give the same data")
        trainer.load(state)
    folder, images = run_folder(config, task), trainer.epoch_steps(parts["train"]) * config.batch_size
    (folder / "config.json").write_text(json.dumps({**dataclasses.asdict(config), **environment(data.device)}, indent=1))
    (folder / "splits.json").write_text(json.dumps({"layout": data.layout, "splits": data.counts()}, indent=1))
    noise = torch.randn(64, config.latent_dim, generator=torch.Generator().manual_seed(config.seed))
    try:
        with tqdm(total=images * config.num_epochs, initial=images * trainer.epoch, unit="img", unit_scale=True,
                  desc=task, disable=None) as bar:
            while trainer.epoch < config.num_epochs:
                finish_epoch(trainer, trainer.train_epoch(parts["train"], bar), parts, folder, noise, bar)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"epoch {trainer.epoch} of {config.num_epochs} is safe in {folder / 'last.pt'}"
                                if trainer.history else "no epoch was finished")
    except RunError as error:
        kept = f"the last good weights, of epoch {trainer.epoch}, are in {folder / 'last.pt'}" if trainer.epoch else "none was kept"
        raise RunError(f"{task}: {error}; {kept}")
    return trainer, folder

def finish_epoch(trainer, row, parts, folder, noise, bar):
    """After an epoch: validate an MTD, save the state, then the numbers and the sample grid."""
    text, score = f"J(D) {row['loss_d']:.3f}  J(G) {row['loss_g']:.3f}", trainer.epoch
    if trainer.task == "mtd":
        for name in ("train", "val"):
            scores = evaluate(trainer.averages["discriminator"], parts[name].split(limit=2000), trainer.config.loss)
            row |= {f"{name}_{k}": scores[k] for k in ("loss", "accuracy", "balanced_accuracy")}
        text += f"  J(C) {row['loss_c']:.3f}  val accuracy {row['val_accuracy']:.3f}, balanced {row['val_balanced_accuracy']:.3f}"
        score = row["val_balanced_accuracy"] - 1e-3 * row["val_loss"]  # the loss only settles ties
    better, trainer.best = score > trainer.best, max(score, trainer.best)
    trainer.history.append(row)
    write_checkpoint(trainer.state(), folder / "last.pt")
    if better:
        shutil.copyfile(folder / "last.pt", folder / "best.pt.part")
        (folder / "best.pt.part").replace(folder / "best.pt")
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows(trainer.history)
    write_image(folder / "samples" / f"epoch_{trainer.epoch:04d}.png", tile(sample(trainer.averages["generator"], noise)),
                f"epoch {trainer.epoch}, averaged G, the same noise every epoch")
    if trainer.epoch % 10 == 0:
        plot_training(trainer, folder)
    bar.write(f"{trainer.task} epoch {row['epoch']}: {text}  {row['images_per_second']:.0f} images/s", file=sys.stderr)


# ================================================ checkpoints ================================================

CHECKPOINT_FORMAT = 1
CHECKPOINT_KEYS = {"format", "task", "config", "classes", "normalisation", "epoch", "step", "weights", "ema", "optimizers",
                   "history", "traces", "best", "rng"}

def write_checkpoint(state, path):
    """Write a state so that a kill at any moment leaves the old file or the new one, never half of one."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

def read_checkpoint(path, task=None):
    """The state in a checkpoint, on the CPU; code in the file cannot run (weights_only). Raises UsageError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file")
    except Exception as error:  # torch raises many kinds for files that are damaged, foreign or unsafe
        raise UsageError(f"{path}: not a checkpoint of this script, or damaged ({type(error).__name__})")
    if not isinstance(state, dict) or not CHECKPOINT_KEYS <= set(state):
        raise UsageError(f"{path}: not a checkpoint of this script; --task gan and --task mtd write them")
    if state["format"] != CHECKPOINT_FORMAT:
        raise UsageError(f"{path}: checkpoint format {state['format']}, this script reads {CHECKPOINT_FORMAT}; train again")
    if task and state["task"] != task:
        raise UsageError(f"{path}: weights of a {state['task']}, not of a {task}")
    return state

def load_networks(path, task=None, device="cpu"):
    """(averaged generator, averaged discriminator or MTD, state) of a checkpoint, in eval mode, from the file alone."""
    state = read_checkpoint(path, task)
    try:
        networks = build_models(state["task"], state["config"], len(state["classes"]))
        for network, name in zip(networks, ("generator", "discriminator")):
            network.load_state_dict(state["ema"][name])
    except (LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise UsageError(f"{path}: its weights do not fit its own config ({str(error).splitlines()[0]})")
    return *(n.to(device).eval().requires_grad_(False) for n in networks), state

def resume_path(config, task):
    """The checkpoint that a task goes on with, or None to start anew."""
    path = Path(config.results_dir, task, "last.pt") if config.resume == "auto" else Path(config.resume)
    return path if config.resume and (path.exists() or config.resume != "auto") else None

def resumed_config(given):
    """The config of the run to go on with, under the flags `given` now, of which only RESUMABLE ones may differ."""
    config = Config(**given)
    path = next((p for t in (("gan", "mtd") if config.task == "all" else (config.task,)) if (p := resume_path(config, t))), None)
    if not path:
        raise UsageError(f"--resume: no run of --task {config.task} to go on with in {config.results_dir}; leave --resume out")
    old = {k: tuple(v) if isinstance(v, list) else v for k, v in read_checkpoint(path)["config"].items()}
    changed = [k for k, v in given.items() if k not in RESUMABLE and v != old.get(k)]
    if changed:
        raise UsageError(f"--resume: --{changed[0]} was {old.get(changed[0])!r} in {path} and cannot change; leave it out")
    return Config(**{**old, "resume": config.resume, "task": config.task, "json": False, "overwrite": False, **given})


# ================================================ evaluation =================================================

@torch.no_grad()
def predict(model, data, loss, turns=1, batch_size=256):
    """An MTD's answers for a MalariaDataset as numpy arrays: probabilities (N, n), real (N,), features (N, head_width).

    turns: average over that many of the 8 flips and quarter turns of each image (a cell has no up or down).
    """
    out = {"probabilities": [], "real": [], "features": []}
    with evaluating(model):
        for indices in torch.arange(len(data)).split(batch_size):
            images = data.batch(indices)
            answers = [model(torch.rot90(images if t < 4 else images.flip(3), t % 4, (2, 3))) for t in range(turns)]
            out["probabilities"].append(sum(class_probabilities(c, data.labels.ndim == 2) for _, c in answers) / turns)
            out["real"].append(sum(real_probability(r, loss) for r, _ in answers) / turns)
            out["features"].append(model.embedding(images))
    return {k: torch.cat(v).cpu().numpy() for k, v in out.items()}

def classification_scores(labels, probabilities, classes):
    """Accuracy, balanced accuracy (mean recall of the classes present), per-class table and confusion matrix.

    labels (N,) indices or (N, n) multi-hot. Multi-label: accuracy over all yes/no answers at 0.5, balanced accuracy the
    mean of (sensitivity + specificity)/2, one 2x2 matrix [[tn, fp], [fn, tp]] a class.
    """
    from sklearn import metrics
    multi, names = labels.ndim == 2, list(range(len(classes)))
    answers = (probabilities > 0.5).astype(int) if multi else probabilities.argmax(1)
    columns = metrics.precision_recall_fscore_support(labels, answers, labels=names, zero_division=0)
    if multi:
        matrix = metrics.multilabel_confusion_matrix(labels, answers)
        rates = [np.mean([m[i, i] / m[i].sum() for i in (0, 1) if m[i].sum()]) for m in matrix]
    else:
        matrix = metrics.confusion_matrix(labels, answers, labels=names)
        rates = [recall for recall, support in zip(columns[1], columns[3]) if support]
    table = {c: dict(zip(("precision", "recall", "f1"), (float(v[i]) for v in columns[:3])), support=int(columns[3][i]))
             for i, c in enumerate(classes)}
    return {"n": len(labels), "accuracy": float((answers == labels).mean()), "balanced_accuracy": float(np.mean(rates)),
            "per_class": table, "confusion_matrix": matrix.tolist(), "classes": list(classes)}

def evaluate(model, data, loss, turns=1):
    """classification_scores of a model on a dataset that is not empty, with its mean loss (nats)."""
    labels = data.labels.cpu()
    probabilities = predict(model, data, loss, turns)["probabilities"]
    chances = torch.from_numpy(probabilities).double().clamp(1e-7, 1 - 1e-7)
    mean_loss = F.nll_loss(chances.log(), labels) if labels.ndim == 1 else F.binary_cross_entropy(chances, labels.double())
    return {**classification_scores(labels.numpy(), probabilities, data.classes), "loss": mean_loss.item()}

@torch.no_grad()
def sample(generator, noise, batch_size=64):
    """Images for noise (N, latent): uint8 numpy (N, S, S, C)."""
    device = next(generator.parameters()).device
    with evaluating(generator):
        return np.concatenate([to_uint8(generator(z.to(device))) for z in noise.split(batch_size)])

def to_uint8(images):
    """Float images (N, C, S, S) in [-1, 1] -> uint8 numpy (N, S, S, C)."""
    return ((images.detach().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


# ================================================= Grad-CAM ==================================================

def grad_cam(model, images, score, layer=None):
    """Raw Grad-CAM maps (N, h, w), never negative, of score(model(images)) -> (N,) logits (Selvaraju et al. 2017, eq. 1-2).

    layer: the convolution to explain, the model's `explained_layer()` if None. Eval mode inside; modes, flags and
    gradients of the model are left as they were.
    """
    kept = {}
    hook = (layer or model.explained_layer()).register_forward_hook(lambda _, inputs, output: kept.update(maps=output))
    try:
        with evaluating(model), torch.enable_grad():
            logits = score(model(images.detach().clone().requires_grad_(True)))
            (gradients,) = torch.autograd.grad(logits.sum(), kept["maps"])
    finally:
        hook.remove()
    return F.relu((gradients.mean((2, 3), keepdim=True) * kept["maps"]).sum(1)).detach()

def heat_maps(raw, size):
    """Raw maps (N, h, w) -> bilinear (N, size, size) scaled to [0, 1], and (N,) whether there is any positive evidence.

    A map without positive evidence stays zero.
    """
    maps = F.interpolate(raw[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12), raw.amax((1, 2)) > 0


# =================================================== plots ===================================================

def pyplot():
    """matplotlib.pyplot without a screen; imported only when something is drawn."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"figure.dpi": 110, "font.size": 9, "figure.constrained_layout.use": True})
    return plt

def save_figure(figure, path):
    """Write a figure and free it."""
    figure.savefig(path)
    pyplot().close(figure)

def tile(images, columns=8, gap=2):
    """uint8 (N, S, S, C) -> one RGB image with the images in rows, small ones enlarged to at least 64 pixels."""
    zoom = max(1, 64 // images.shape[1])
    images = images.repeat(zoom, 1).repeat(zoom, 2).repeat(3 // images.shape[3], 3)
    side, rows = images.shape[1] + gap, math.ceil(len(images) / columns)
    out = np.full((rows * side + gap, columns * side + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * side + gap, i % columns * side + gap
        out[top:top + side - gap, left:left + side - gap] = image
    return out

def write_image(path, image, caption=""):
    """Write an RGB image as PNG, with a line of text above it if there is a caption."""
    import cv2
    if caption:
        band = np.full((22, image.shape[1], 3), 255, np.uint8)
        cv2.putText(band, caption, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        image = np.vstack([band, image])
    Path(path).write_bytes(cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes())

def animate(folder):
    """samples.gif of all sample grids of a run, about 12 seconds long."""
    from PIL import Image
    frames = [Image.open(p).quantize(128) for p in sorted((folder / "samples").glob("*.png"))]
    if frames:
        frames[0].save(folder / "samples.gif", save_all=True, append_images=frames[1:], loop=0,
                       duration=min(500, max(60, 12000 // len(frames))))

def draw_trace(axis, values, colour, label):
    """Raw values in a light line under their moving average over 1/50 of the run."""
    width = max(1, len(values) // 50)
    smooth = np.convolve(np.pad(values, (width // 2, width - 1 - width // 2), "edge"), np.ones(width) / width, "valid")
    iterations = np.arange(1, len(values) + 1)
    axis.plot(iterations, values, color=colour, alpha=0.2, linewidth=0.6)
    axis.plot(iterations, smooth, color=colour, label=f"{label}, mean of {width}")
    axis.grid(alpha=0.3)
    axis.legend(loc="upper right")

def plot_training(trainer, folder):
    """losses.png, scores.png and, for an MTD, classifier_curves.png."""
    plt, traces = pyplot(), dict(zip(TRACES, trainer.traces.numpy().T))
    kind = {"bce": "binary cross-entropy, nats", "lsgan": "squared error"}[trainer.config.loss]
    figure, axes = plt.subplots(2, 1, figsize=(9, 6), sharex=True)
    for axis, name, who, colour in ((axes[0], "G", "generator", "tab:blue"), (axes[1], "D", "discriminator", "tab:red")):
        draw_trace(axis, traces[f"loss_{name.lower()}"], colour, f"J({name})")
        axis.set(ylabel=f"J({name}) ({kind})", xlabel="iteration", title=f"{trainer.task}: loss of the {who}")
    save_figure(figure, folder / "losses.png")
    figure, axis = plt.subplots(figsize=(9, 3.6))
    draw_trace(axis, traces["d_real"], "tab:green", "D(x), real")
    draw_trace(axis, traces["d_fake"], "tab:orange", "D(G(z)), generated")
    axis.set(xlabel="iteration", ylabel="probability of real", ylim=(0, 1), title=f"{trainer.task}: D on real and generated images")
    save_figure(figure, folder / "scores.png")
    if trainer.task == "mtd":
        figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
        units = {"loss": "loss (nats)", "accuracy": "accuracy (share)", "balanced_accuracy": "balanced accuracy (mean recall)"}
        for axis, (key, text) in zip(axes, units.items()):
            for split in ("train", "val"):
                axis.plot([r["epoch"] for r in trainer.history], [r[f"{split}_{key}"] for r in trainer.history], label=split)
            axis.set(xlabel="epoch", ylabel=text, title=f"classification head: {key.replace('_', ' ')}")
            axis.grid(alpha=0.3)
            axis.legend()
        save_figure(figure, folder / "classifier_curves.png")

def plot_weights(model, path):
    """The kernels of every convolution as tiles, up to 12 x 16 a layer: blue negative, red positive."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    figure, axes = pyplot().subplots(1, len(layers), figsize=(3.6 * len(layers), 3.8), squeeze=False)
    for axis, (name, layer) in zip(axes[0], layers):
        kernels = layer.weight.detach().cpu().numpy()[:12, :16]
        rows, columns, k, _ = kernels.shape
        framed = np.pad(kernels, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
        limit = np.abs(kernels).max()
        shown = axis.imshow(framed.transpose(0, 2, 1, 3).reshape(rows * (k + 1), columns * (k + 1))[:-1, :-1],
                            cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        first, second = ("input", "output") if isinstance(layer, nn.ConvTranspose2d) else ("output", "input")
        axis.set(title=f"{name}: {'x'.join(map(str, layer.weight.shape))}", xticks=[], yticks=[],
                 ylabel=f"{first} channels 1-{rows}", xlabel=f"{second} channels 1-{columns}")
        figure.colorbar(shown, ax=axis, shrink=0.7, label="weight")
    save_figure(figure, path)

def gallery(path, title, pictures, columns=8):
    """Pictures [(RGB or grey image, caption)] in rows under one title, which says so if there are none."""
    rows = max(1, math.ceil(len(pictures) / columns))
    figure, axes = pyplot().subplots(rows, columns, figsize=(1.6 * columns, 1.95 * rows + 0.5), squeeze=False)
    figure.suptitle(title if pictures else f"{title}: none")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (image, caption) in zip(axes.flat, pictures):
        axis.imshow(image.repeat(3 // image.shape[2], 2))
        axis.set_title(caption, fontsize=7)
    save_figure(figure, path)

def label_text(label, classes):
    """The name of a class index, or the names in a multi-hot vector joined by '+'."""
    return classes[int(label)] if np.ndim(label) == 0 else "+".join(c for c, hot in zip(classes, label) if hot) or "none"

def judge(data, probabilities):
    """Answers (N,) or multi-hot (N, n), whether each is right (N,), its probability (N,; multi-label: the least sure)."""
    labels = data.labels.cpu().numpy()
    if labels.ndim == 1:
        return (answers := probabilities.argmax(1)), answers == labels, probabilities.max(1)
    answers = (probabilities > 0.5).astype(int)
    return answers, (answers == labels).all(1), np.where(answers, probabilities, 1 - probabilities).min(1)

def captions(data, answers, sure, indices):
    """'true label / answer and its probability' for some images."""
    return [f"true {label_text(data.labels[i].cpu().numpy(), data.classes)}\n{label_text(answers[i], data.classes)} {sure[i]:.2f}"
            for i in indices]

def plot_predictions(folder, data, probabilities):
    """predictions_right.png and predictions_wrong.png of a dataset: true label, answer and its probability."""
    answers, right, sure = judge(data, probabilities)
    for name, chosen in (("right", np.flatnonzero(right)), ("wrong", np.flatnonzero(~right))):
        shown = chosen[np.argsort(-sure[chosen])][:: max(1, len(chosen) // 40) if name == "right" else 1][:40]
        gallery(folder / f"predictions_{name}.png", f"{len(chosen)} of {len(data)} test images answered {name}, surest first "
                "(true label, then answer and its probability)",
                list(zip(data.uint8(shown), captions(data, answers, sure, shown))))

def plot_scores(folder, scores):
    """confusion_matrix.png (not for multi-label) and per_class.png of {split: classification_scores}."""
    plt, classes = pyplot(), next(iter(scores.values()))["classes"]
    matrices = {s: np.array(v["confusion_matrix"]) for s, v in scores.items()}
    figure, axes = plt.subplots(1, len(matrices), figsize=(5 * len(matrices), 4.4), squeeze=False)
    for axis, (split, matrix) in zip(axes[0], (i for i in matrices.items() if i[1].ndim == 2)):
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        shown = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (r, c), n in np.ndenumerate(matrix):
            axis.text(c, r, n, ha="center", va="center", color="white" if share[r, c] > 0.5 else "black")
        axis.set(title=f"{split}, n = {matrix.sum()}", xlabel="answer", ylabel="true class")
        axis.set_yticks(range(len(classes)), classes)
        axis.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
        figure.colorbar(shown, ax=axis, label="share of the true class", shrink=0.8)
        figure.savefig(folder / "confusion_matrix.png")
    plt.close(figure)
    head = ["split", "class", "precision", "recall", "f1", "support"]
    rows = [[s, c, *(f"{v[k]:.3f}" for k in head[2:5]), v["support"]] for s, t in scores.items() for c, v in t["per_class"].items()]
    rows += [[s, "all", "accuracy", f"{v['accuracy']:.3f}", "balanced", f"{v['balanced_accuracy']:.3f}"] for s, v in scores.items()]
    figure, axis = plt.subplots(figsize=(7, 0.3 * len(rows) + 0.6))
    axis.axis("off")
    axis.table(rows, colLabels=head, loc="center", cellLoc="center").scale(1, 1.3)
    save_figure(figure, folder / "per_class.png")

def plot_tsne(path, data, features):
    """t-SNE (van der Maaten and Hinton 2008) of the head's penultimate features, a colour a class."""
    from sklearn.manifold import TSNE
    if len(features) < 5:
        return
    spots = TSNE(perplexity=min(30, (len(features) - 1) / 3), random_state=0, init="pca").fit_transform(features)
    figure, axis = pyplot().subplots(figsize=(6.5, 5.5))
    names, splits = (np.array(v) for v in ([label_text(v, data.classes) for v in data.labels.cpu().numpy()],
                                           [data.index["splits"][r] for r in data.rows]))
    for i, name in enumerate(sorted(set(names))):
        for split, marker in (("train", "."), ("val", "o"), ("test", "^")):
            chosen = (names == name) & (splits == split)
            axis.scatter(*spots[chosen].T, s=22, marker=marker, color=f"C{i % 10}", label=f"{name}, {split} ({chosen.sum()})")
    axis.set(title=f"t-SNE of the penultimate features, {len(features)} images", xlabel="t-SNE axis 1", ylabel="t-SNE axis 2")
    axis.legend(fontsize=7)
    save_figure(figure, path)

def cam_pictures(model, images, score, texts):
    """[(image, text), (overlay, note), ...] for images (N, C, S, S) in [-1, 1]; overlays run from blue, none, to red, most."""
    heat, evidence = heat_maps(grad_cam(model, images, score), images.shape[-1])
    pictures = []
    for image, h, some, text in zip(to_uint8(images), heat.cpu().numpy(), evidence.tolist(), texts):
        shown = 0.55 * image + 0.45 * 255 * pyplot().get_cmap("jet")(h)[..., :3] if some else image.repeat(3 // image.shape[2], 2)
        pictures += [(image, text), (shown.astype(np.uint8), "Grad-CAM" if some else "no positive\nevidence")]
    return pictures


# ============================================== tasks, end to end ==============================================

def run_training(task, config, data):
    """Train a task to its end, draw everything about it, evaluate an MTD and hand the weights to --save_dir."""
    trainer, folder = train(task, config, data)
    plot_training(trainer, folder)
    animate(folder)
    for name, net in trainer.averages.items():
        plot_weights(net, folder / f"weights_{name}.png")
    real = data.split("train")
    noise = torch.randn(32, config.latent_dim, generator=torch.Generator().manual_seed(config.seed + 1))
    pair = [tile(real.uint8(np.random.default_rng(0).permutation(len(real))[:32]), 4),
            tile(sample(trainer.averages["generator"], noise), 4)]
    height = max(map(len, pair))
    pair = [np.pad(p, ((0, height - len(p)), (8, 8), (0, 0)), constant_values=255) for p in pair]
    write_image(folder / "real_vs_generated.png", np.hstack(pair), "left: real training images, right: generated")
    if task == "mtd":
        report_mtd(folder, config, data)
    source, target = folder / ("best.pt" if task == "mtd" else "last.pt"), Path(config.save_dir, f"{task}.pt")
    if target.exists() and not config.overwrite:
        print(f"{task}: {target} stays as it was; this run's weights are {source} (--overwrite replaces)")
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target.with_suffix(".part"))
        target.with_suffix(".part").replace(target)
        print(f"{task}: weights in {target}")
    print(f"{task}: pictures and numbers in {folder}")

def report_mtd(folder, config, data):
    """Validation and, once, test scores of the best epoch's weights, with the pictures about them."""
    _, model, state = load_networks(folder / "best.pt", "mtd", data.device)
    parts = {s: part for s in ("val", "test") if len(part := data.split(s))}
    scores = {s: evaluate(model, part, config.loss, turns=8) for s, part in parts.items()}
    (folder / "scores.json").write_text(json.dumps({"best_epoch": state["epoch"], **scores}, indent=1))
    for split, s in scores.items():
        print(f"mtd: {split} n {s['n']}, accuracy {s['accuracy']:.3f}, balanced accuracy {s['balanced_accuracy']:.3f}, "
              f"epoch {state['epoch']}, mean over 8 flips and turns")
    plot_scores(folder, scores)
    plot_predictions(folder, data.split("test"), predict(model, data.split("test"), config.loss, turns=8)["probabilities"])
    shown = data.split(limit=1000)
    plot_tsne(folder / "tsne.png", shown, predict(model, shown, config.loss)["features"])

def run_gradcam(config, data):
    """Grad-CAM of an MTD: right and wrong answers about test images, and real against fake for real and generated ones."""
    choices = [config.weights] if config.weights else [Path(config.results_dir, "mtd", "best.pt"), Path(config.save_dir, "mtd.pt")]
    weights = next((p for p in choices if Path(p).exists()), None)
    if not weights:
        raise UsageError(f"--task gradcam: no weights at {choices[0]}; train with --task mtd first, or give --weights FILE")
    generator, model, state = load_networks(weights, "mtd", data.device)
    if state["classes"] != data.classes or any(state["config"][k] != getattr(config, k) for k in ("view", "image_size", "channels")):
        raise UsageError(f"{weights}: made for other classes, view, size or channels than this data; give the flags it was trained with")
    folder, loss, test = Path(config.results_dir, "gradcam"), state["config"]["loss"], data.split("test")
    folder.mkdir(parents=True, exist_ok=True)
    probabilities = predict(model, test, loss)["probabilities"]
    answers, right, sure = judge(test, probabilities)
    for name, chosen in (("right", np.flatnonzero(right)), ("wrong", np.flatnonzero(~right))):
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:24])
        top = torch.from_numpy(probabilities[chosen].argmax(1)).to(data.device)[:, None]
        gallery(folder / f"gradcam_{name}.png", f"Grad-CAM of the class answered, {name} answers about test images", cam_pictures(
            model, test.batch(torch.from_numpy(chosen)), lambda out: out[1].gather(1, top)[:, 0],
            captions(test, answers, sure, chosen)) if len(chosen) else [])
    noise = torch.randn(8, generator.latent_dim, generator=torch.Generator().manual_seed(config.seed))
    pictures = []
    for kind, images in (("real", test.batch(torch.arange(min(8, len(test))))), ("generated", generator(noise.to(data.device)))):
        chance = real_probability(model(images)[0], loss)
        for sign, meaning in ((1, "real"), (-1, "fake")):
            pictures += cam_pictures(model, images, lambda out: sign * out[0],
                                     [f"{kind}, D {p:.2f}\nwhat speaks for {meaning}" for p in chance])
    gallery(folder / "gradcam_real_fake.png", "Grad-CAM of the real/fake answer (D: probability of real)", pictures)
    print(f"gradcam: pictures in {folder}, of {weights}")

def compare(config):
    """results/all/before_after.png: samples and curves of the GAN (before) and of the GAN with the head (after)."""
    folder, summary = Path(config.results_dir, "all"), {}
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot().subplots(2, 3, figsize=(15, 9.5))
    noise = torch.randn(64, config.latent_dim, generator=torch.Generator().manual_seed(config.seed))
    curves = {"loss_g": "J(G)", "loss_d": "J(D)", "d_real": "D(x), probability of real", "d_fake": "D(G(z)), probability of real"}
    for task, axis, colour, name in (("gan", axes[0, 0], "tab:blue", "before: DCGAN"), ("mtd", axes[0, 1], "tab:red", "after: with the head")):
        generator, _, state = load_networks(Path(config.results_dir, task, "last.pt"), task)
        axis.imshow(tile(sample(generator, noise)))
        axis.set(title=f"{name}, epoch {state['epoch']}, the same noise", xticks=[], yticks=[])
        for curve, (key, text) in zip((axes[0, 2], *axes[1]), curves.items()):
            draw_trace(curve, state["traces"][:, TRACES.index(key)].numpy(), colour, name)
            curve.set(xlabel="iteration", ylabel=text, title=text)
        last = state["traces"][-config.min_steps:].mean(0).tolist()
        summary[task] = {"epochs": state["epoch"], "steps": state["step"], f"mean_of_last_{config.min_steps}_steps": dict(zip(TRACES, last))}
    save_figure(figure, folder / "before_after.png")
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    print(f"all: before and after the head in {folder}")


# ================================================ command line ================================================

class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line and name the nearest flag."""

    def error(self, message):
        raise UsageError(f"{message}; see --help")

    def parse(self, arguments):
        """The flags that were given, as a dict."""
        values, unknown = self.parse_known_args(arguments)
        if unknown:
            near = difflib.get_close_matches(unknown[0].split("=")[0], self._option_string_actions, 1)
            self.error(f"unknown argument {unknown[0]}" + (f", did you mean {near[0]}?" if near else ""))
        return vars(values)

def parse_flags(arguments):
    """The Config flags in a command line, only those that were given."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
                    argument_default=argparse.SUPPRESS)
    for f in dataclasses.fields(Config):
        default = " ".join(map(str, f.default)) if f.type is tuple else f.default
        kind = {bool: dict(action=argparse.BooleanOptionalAction), tuple: dict(nargs=2, type=float, metavar=("B1", "B2"))}.get(
            f.type, dict(type=f.type, choices=f.metadata["choices"]))
        if f.name == "resume":
            kind = dict(nargs="?", const="auto", metavar="FILE")
        parser.add_argument(f"--{f.name}", help=f.metadata["help"] + (f" (default: {default})" if default != "" else ""), **kind)
    return {k: tuple(v) if isinstance(v, list) else v for k, v in parser.parse(arguments).items()}

def print_summary(config):
    """Print the layers of the networks that a config describes."""
    count = len(config.classes.split(",")) if config.classes != "auto" else len(STAGES)
    (generator, discriminator), (_, mtd) = (build_models(task, dataclasses.asdict(config), count) for task in ("gan", "mtd"))
    image = torch.zeros(1, config.channels, config.image_size, config.image_size)
    for model, example in ((generator, torch.zeros(1, config.latent_dim)), (discriminator, image), (mtd, image)):
        print(summarise(model, example))

def run(arguments):
    """Do what a command line says."""
    given = parse_flags(arguments)
    config = resumed_config(given) if given.get("resume") else Config(**given)
    if config.summary:
        return print_summary(config)
    data = load_data(config, pick_device(config.device))
    if config.task == "data":
        report = {"layout": data.layout, "classes": data.classes, "splits": data.counts(), "skipped": data.index["skipped"]}
        return print(json.dumps(report) if config.json else data.table())
    print(data.table())
    for task in ("gan", "mtd"):
        if config.task in (task, "all"):
            run_training(task, config, data)
    if config.task in ("gradcam", "all"):
        run_gradcam(config, data)
    if config.task == "all":
        compare(config)

def main(work, arguments):
    """Run work(arguments) and return the exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped with Ctrl-C."""
    try:
        work(arguments)
        return 0
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunError, OSError, MemoryError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print(f"\nstopped: {stopped or 'before training'}; go on with the same command and --resume", file=sys.stderr)
        return 130

if __name__ == "__main__":
    sys.exit(main(run, sys.argv[1:]))
