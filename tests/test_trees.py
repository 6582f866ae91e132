"""Random trees of folders: no crop ever has another's label, and what is not used is counted.

Every cell is a square in its class's colour, so that the middle of a crop tells whether image, box
and label belong together. Names repeat across the folders of patients, sites or microscopes.
"""

import json
import random
import unicodedata

import numpy as np
import pytest
from PIL import Image

import rollNumber_05 as malaria

COLOURS = {"ring": (200, 40, 90), "trophozoite": (40, 90, 200), "schizont": (30, 160, 60)}
SIZE = (72, 60)
PLACES = [
    ("patient1", "patient2", "patient3"),
    ("Olympus", "China"),
    ("site A", "site B", "Site C"),
    ("Köln", "Zürich"),
    ("2019-05-03", "2019-05-04"),
    ("HCM", "LCM"),
    ("",),
]
IMAGE_FOLDERS = ("images", "Images", "JPEGImages", "img", "raw images", "")
LABEL_FOLDERS = ("labels", "Annotations", "xml", "annots", "gt", "")
NAMES = ("{:03d}", "IMG_{}", "smear {}", "Größe{}", "field-{}.v2")
ARRANGEMENTS = ("place first", "kind first")
FORMATS = ("voc", "yolo", "labelme", "coco", "coco by place", "iml by place", "csv", "csv by place")


class Tree:
    """A random tree on disk, and what was written: {(place, name): [(class, box), ...]}."""

    def __init__(self, root, seed):
        self.root = root
        self.random = random.Random(seed)
        self.format = self.random.choice(FORMATS)
        self.places = self.random.choice(PLACES)
        self.name = self.random.choice(NAMES)
        self.arrangement = self.random.choice(ARRANGEMENTS)
        self.image_folder = self.random.choice(IMAGE_FOLDERS)
        self.label_folder = self.random.choice(LABEL_FOLDERS)
        self.unicode_form = self.random.choice(("NFC", "NFD"))
        self.names_have_paths = self.random.random() < 0.5
        self.missing_share = self.random.choice((0, 0, 0.2))
        self.cells = {}
        self.write_images()
        self.write_labels()

    def path(self, kind_folder, place, name):
        """Where a file goes."""
        parts = [place, kind_folder] if self.arrangement == "place first" else [kind_folder, place]
        path = self.root.joinpath(*(part for part in parts if part), name)
        path = type(path)(unicodedata.normalize(self.unicode_form, str(path)))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_images(self):
        """Images with one or two cells each; some of them are lost."""
        for place in self.places:
            for number in range(self.random.randint(4, 6)):
                name = self.name.format(number)
                image = np.full((SIZE[1], SIZE[0], 3), 235, np.uint8)
                cells = []
                for left in self.random.sample((4, 26, 48), self.random.randint(1, 2)):
                    label = self.random.choice(list(COLOURS))
                    top = self.random.randint(2, 36)
                    image[top : top + 20, left : left + 20] = COLOURS[label]
                    cells.append((label, (left, top, 20, 20)))
                self.cells[place, name] = cells
                if self.random.random() >= self.missing_share:
                    Image.fromarray(image).save(self.path(self.image_folder, place, f"{name}.png"))

    def image_name(self, place, name):
        """The name of an image as an annotation tells it, perhaps with its path."""
        if self.names_have_paths:
            path = self.path(self.image_folder, place, f"{name}.png")
            return path.relative_to(self.root).as_posix()
        return f"{name}.png"

    def write_labels(self):
        """The annotations in the format of this tree."""
        if self.format in ("voc", "yolo", "labelme"):
            for (place, name), cells in self.cells.items():
                getattr(self, f"write_{self.format}")(place, name, cells)
            if self.format == "yolo":
                (self.root / "classes.txt").write_text("\n".join(COLOURS))
            return
        kind, _, by_place = self.format.partition(" by ")
        for place in self.places if by_place else (None,):
            chosen = {key: cells for key, cells in self.cells.items() if place in (None, key[0])}
            folder = self.path(self.label_folder, place or "", "x").parent
            getattr(self, f"write_{kind}")(folder, chosen)

    def write_voc(self, place, name, cells):
        """A Pascal-VOC file."""
        objects = ""
        for label, (x, y, w, h) in cells:
            edges = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
            objects += f"<object><name>{label}</name><bndbox>{edges}</bndbox></object>"
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
        text = f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"
        self.path(self.label_folder, place, f"{name}.xml").write_text(text, encoding="utf-8")

    def write_yolo(self, place, name, cells):
        """A YOLO file."""
        lines = []
        for label, (x, y, w, h) in cells:
            box = ((x + w / 2) / SIZE[0], (y + h / 2) / SIZE[1], w / SIZE[0], h / SIZE[1])
            lines.append(" ".join(map(str, [list(COLOURS).index(label), *box])))
        self.path(self.label_folder, place, f"{name}.txt").write_text("\n".join(lines))

    def write_labelme(self, place, name, cells):
        """A LabelMe file."""
        shapes = []
        for label, (x, y, w, h) in cells:
            shapes.append({"label": label, "points": [[x, y], [x + w, y + h]]})
        content = {"shapes": shapes, "imagePath": f"{name}.png"}
        content |= {"imageWidth": SIZE[0], "imageHeight": SIZE[1]}
        self.path(self.label_folder, place, f"{name}.json").write_text(json.dumps(content))

    def write_coco(self, folder, cells_by_image):
        """A COCO file."""
        content = {"images": [], "annotations": []}
        content["categories"] = [{"id": i, "name": name} for i, name in enumerate(COLOURS)]
        for number, ((place, name), cells) in enumerate(cells_by_image.items()):
            image = {"id": number, "file_name": self.image_name(place, name)}
            content["images"].append(image | {"width": SIZE[0], "height": SIZE[1]})
            for label, box in cells:
                category = list(COLOURS).index(label)
                entry = {"image_id": number, "category_id": category, "bbox": box}
                content["annotations"].append(entry)
        (folder / "annotations.json").write_text(json.dumps(content))

    def write_iml(self, folder, cells_by_image):
        """An IML file."""
        content = []
        for (place, name), cells in cells_by_image.items():
            objects = []
            for label, box in cells:
                objects.append(
                    {"type": label, "bbox": dict(zip("xywh", map(str, box), strict=True))}
                )
            content.append({"image_name": self.image_name(place, name), "objects": objects})
        (folder / "annotations.json").write_text(json.dumps(content))

    def write_csv(self, folder, cells_by_image):
        """A table with a row a box."""
        lines = ["xmax,label,ymin,xmin,ymax,filename"]
        for (place, name), cells in cells_by_image.items():
            for label, (x, y, w, h) in cells:
                row = (x + w, label, y, x, y + h, self.image_name(place, name))
                lines.append(",".join(map(str, row)))
        (folder / "boxes.csv").write_text("\n".join(lines), encoding="utf-8")


def check_tree(root, seed):
    """Read a random tree; every crop has its label's colour, every annotation is accounted for."""
    tree = Tree(root / "data", seed)
    about = f"seed {seed}: {vars(tree)}"
    config = malaria.Config(
        data_path=str(tree.root),
        results_dir=str(root / "results"),
        image_size=28,
        microscope="both",
        magnification="all",
    )
    try:
        data = malaria.load_data(config)
    except malaria.UsageError:
        return 0  # nothing is used, and it is said
    for crop, label in zip(data.uint8(), data.labels.tolist(), strict=True):
        difference = np.abs(crop[14, 14].astype(int) - COLOURS[data.classes[label]]).max()
        assert difference < 12, about
    unused = {file for file, _ in data.index.problems}
    used = len(set(data.index.sources))
    assert used + len(data.index.problems) >= len(tree.cells), (used, len(unused), about)
    return used


@pytest.mark.parametrize("start", range(0, 100, 20))
def test_no_crop_has_another_ones_label(tmp_path, start):
    """A hundred random trees."""
    used = [check_tree(tmp_path / str(seed), seed) for seed in range(start, start + 20)]
    assert np.mean([count > 0 for count in used]) > 0.5  # they are read, not only refused


@pytest.mark.long
def test_no_crop_has_another_ones_label_in_many_trees(tmp_path):
    """A thousand more."""
    for seed in range(1000, 2000):
        check_tree(tmp_path / str(seed), seed)
