"""Run trained weights: noise to images (gan), or images to life stages (mtd).

    python test.py --model gan --weights saved_models/gan.pt [--num_images 16] [--out DIR]
    python test.py --model gan --weights saved_models/gan.pt --noise z.npy
    python test.py --model gan --weights WEIGHTS.pt --label ring    a class, of a conditional G
    python test.py --model mtd --weights saved_models/mtd.pt --image cell.png|folder [--json]
    python test.py --model mtd --image cell.png --gradcam OUT.png     heat maps beside the answer
    python test.py --model mtd --weights saved_models/mtd.pt --data_path DIR_OR_ZIP

From Python: test("mtd", WEIGHTS, "cell.png") or test("gan", WEIGHTS, noise).
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

# The script beside this file, whatever roll number it has been renamed to.
scripts = sorted(Path(__file__).resolve().parent.glob("*_05.py"))
if not scripts:
    print("error: no script ROLLNUMBER_05.py beside test.py; put both in a folder", file=sys.stderr)
    sys.exit(2)
malaria = importlib.import_module(scripts[0].stem)
UsageError = malaria.UsageError
MOST_MAPS = 96  # images on a sheet of heat maps


def test(architecture, weights, sample, label=None):
    """What a trained network makes of a sample.

    architecture: "gan" or "mtd", or a Generator or MultiTaskDiscriminator to load the weights into.
    weights: a checkpoint of that kind; for a gan also an mtd's, whose generator is taken.
    sample: for a gan noise (latent_dim,) or (N, latent_dim), an array or .npy file; returns uint8
    images (S, S, C) or (N, S, S, C). For an mtd an image file, or an array (H, W), (H, W, 1),
    (H, W, 3) or (H, W, 4), RGB, of uint8, uint16 or floats in [0, 1]; returns {"label",
    "probabilities": {class: p}, "real_probability", "unlike_training_cells"}. A list of them gives
    a list. real_probability is None of a critic (--loss hinge or wgan-gp), whose answer is no
    probability; the last is there if the weights were delivered by a run.
    label: the class that a conditional generator draws; None: all, one after the other.
    Raises UsageError for weights of another kind and for a sample that cannot be read.
    """
    kind = kind_of(architecture)
    checkpoint = malaria.load_checkpoint(weights, None if kind == "gan" else kind)
    if not isinstance(architecture, str):
        own = checkpoint.generator if kind == "gan" else checkpoint.discriminator
        fill_network(architecture, own, weights)
    if kind == "gan":
        return images_of_noise(checkpoint, weights, sample, label)
    several = isinstance(sample, (list, tuple))
    samples = sample if several else [sample]
    images = [read_sample(one, checkpoint.state["config"]) for one in samples]
    answers = classify(checkpoint, images)
    return answers if several else answers[0]


def kind_of(architecture):
    """The kind, "gan" or "mtd", that test() is about. Raises UsageError for anything else."""
    if architecture == "gan" or isinstance(architecture, malaria.Generator):
        return "gan"
    if architecture == "mtd" or isinstance(architecture, malaria.MultiTaskDiscriminator):
        return "mtd"
    raise UsageError(f"architecture {architecture!r:.80}: give gan, mtd, or a network of these")


def fill_network(network, trained, weights):
    """Load the weights of a trained network into another. Raises UsageError if they do not fit."""
    try:
        network.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{weights}: does not fit this architecture: {reason}") from error
    if layer_kinds(network) != layer_kinds(
        trained
    ):  # a filter has no weights that could be missing
        raise UsageError(
            f"{weights}: does not fit this architecture: its layers are of other kinds; "
            "a Generator needs the smooth=True or False it was trained with"
        )
    if isinstance(network, malaria.Generator):
        network.symmetry = trained.symmetry
    network.eval()


def layer_kinds(network):
    """The kinds of a network's leaf layers, in order."""
    return [type(layer).__name__ for layer in network.modules() if not list(layer.children())]


def images_of_noise(checkpoint, weights, sample, label=None):
    """uint8 images (N, S, S, C) of noise (N, latent_dim), or (S, S, C) of (latent_dim,)."""
    generator = checkpoint.generator
    noise = read_noise(sample, generator.latent_dim)
    labels = None
    if label is not None:
        labels = class_labels(checkpoint, weights, label, noise.view(-1, generator.latent_dim))
    images = malaria.sample(generator, noise.view(-1, generator.latent_dim), labels)
    return images if noise.ndim == 2 else images[0]


def class_labels(checkpoint, weights, label, noise):
    """A class's number for each noise vector (N, latent_dim). Raises UsageError if it is none."""
    classes = checkpoint.state["classes"]
    if not checkpoint.generator.num_classes:
        raise UsageError(f"--label {label}: the generator of {weights} is not conditional")
    canonical_class = malaria.extra("classes").canonical_class
    canonical = [canonical_class(name) for name in classes]
    if canonical_class(label) not in canonical:
        raise UsageError(f"--label {label}: not a class of {weights}, which has {classes}")
    return torch.full((len(noise),), canonical.index(canonical_class(label)))


def read_noise(sample, length):
    """Noise from an array or .npy file as a float tensor (length,) or (N, length)."""
    is_file = isinstance(sample, (str, Path))
    try:
        if is_file:
            malaria.extra("files").require_file(sample)
        values = np.load(sample, allow_pickle=False) if is_file else np.asarray(sample)
        casting = "same_kind" if values.dtype.kind in "fc" else "unsafe"  # complex is no noise
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            noise = torch.from_numpy(values.astype(np.float32, casting=casting))
    except Exception as error:  # numpy raises many kinds for files and values that are not numbers
        name = sample if is_file else type(sample).__name__
        raise UsageError(
            f"--noise {name}: not an array or .npy file of numbers ({error})"
        ) from error
    right_shape = noise.ndim in (1, 2) and noise.shape[-1] == length and noise.numel() > 0
    if not right_shape or not noise.isfinite().all():
        raise UsageError(
            f"--noise: needs finite numbers of shape ({length},) or (N, {length}), "
            f"got {tuple(noise.shape)}"
        )
    return noise


def read_sample(sample, config):
    """An image file or array of any size and mode as uint8 (S, S, C), as the model sees it."""
    crops = malaria.extra("crops")
    if isinstance(sample, (str, Path)):
        try:
            image = crops.read_image(sample, config["channels"])
        except malaria.extra("records").DataError as error:
            raise UsageError(f"{sample}: {error}") from error
    else:
        image = read_array(sample, config["channels"])
    return crops.crop_cell(image, None, config["image_size"])


def read_array(sample, channels):
    """An array of numbers as a uint8 image (H, W, channels). Raises UsageError if it is none."""
    try:
        image = np.asarray(sample)
    except Exception as error:  # as above
        raise UsageError(f"not an array of numbers ({error})") from error
    if image.ndim == 2:
        image = image[:, :, None]
    is_image = image.ndim == 3 and image.shape[2] in (1, 3, 4) and image.size > 0
    if not is_image or image.dtype.kind not in "uifb" or not np.isfinite(image).all():
        raise UsageError(
            f"array {image.shape} of {image.dtype}: needs finite (H, W), (H, W, 1), (H, W, 3) "
            "or (H, W, 4)"
        )
    image = np.clip(np.round(image[:, :, :3] * scale_of(image.dtype)), 0, 255)
    if image.shape[2] == 3 and channels == 1:
        image = np.round(image @ [0.299, 0.587, 0.114])[:, :, None]
    return np.repeat(image, channels // image.shape[2], 2).astype(np.uint8)


def scale_of(dtype):
    """What takes numbers of a type to [0, 255]; signed whole numbers are there already."""
    if dtype.kind == "u":
        return 255 / np.iinfo(dtype).max
    if dtype.kind in "fb":
        return 255
    return 1


def classify(checkpoint, images):
    """The answers of an MTD about uint8 images (S, S, C), as test() returns them."""
    if not images:
        return []
    classes = checkpoint.state["classes"]
    config = checkpoint.state["config"]
    mtd = checkpoint.discriminator
    device = next(mtd.parameters()).device
    data = malaria.unlabelled(images, classes, config["view"], device)
    found = malaria.calibrated_predictions(checkpoint, data)
    labels = data.label_kind.answers(found.probabilities)
    has_probability = malaria.LOSSES[config["loss"]].real_probability is not None
    unlike = malaria.extra("anomaly").unlike_training_cells(checkpoint, np.stack(images))
    answers = []
    for label, probabilities, real in zip(labels, found.probabilities, found.real, strict=True):
        answers.append(
            {
                "label": data.label_kind.name(label, classes),
                "probabilities": dict(zip(classes, map(float, probabilities), strict=True)),
                "real_probability": float(real) if has_probability else None,
            }
        )
    if unlike is not None:
        for answer, is_unlike in zip(answers, unlike, strict=True):
            answer["unlike_training_cells"] = bool(is_unlike)
    return answers


def run_gan(flags):
    """Write a grid and one PNG an image to --out."""
    drawing = malaria.extra("drawing")
    checkpoint = malaria.load_checkpoint(flags.weights, device=malaria.pick_device(flags.device))
    noise = flags.noise
    if noise is None:
        noise = malaria.latents(flags.num_images, checkpoint.generator, flags.seed)
    images = images_of_noise(checkpoint, flags.weights, noise, flags.label)
    images = images.reshape(-1, *images.shape[-3:])
    out = Path(flags.out)
    malaria.extra("files").check_folder("--out", out)
    numbered = out.glob("[0-9][0-9][0-9][0-9].png")
    earlier = [file for file in numbered if int(file.stem) >= len(images)]
    if earlier:
        print(f"{out} also holds {len(earlier)} images of an earlier call", file=sys.stderr)
    files = []
    for number, image in enumerate(images):
        files.append(str(out / f"{number:04d}.png"))
        drawing.write_image(files[-1], image)
    drawing.write_image(out / "grid.png", drawing.grid(images, min(8, len(images))))
    if flags.json:
        print(json.dumps({"grid": str(out / "grid.png"), "images": files}))
    else:
        print(f"{len(images)} images and grid.png in {out}")


def run_images(flags):
    """Classify an image, or all images in a folder; in a folder, unreadable ones are named."""
    checkpoint = malaria.load_checkpoint(flags.weights, "mtd", malaria.pick_device(flags.device))
    config = checkpoint.state["config"]
    images = {}
    for file in image_files(flags.image):
        try:
            images[str(file)] = read_sample(file, config)
        except UsageError as error:
            if str(file) == flags.image:
                raise
            print(f"passed over: {error}", file=sys.stderr)
    if not images:
        raise UsageError(f"--image {flags.image}: no readable image in this folder")
    answers = classify(checkpoint, list(images.values()))
    if flags.gradcam:
        draw_heat_maps(flags.gradcam, checkpoint, images, answers)
    predictions = []
    for name, answer in zip(images, answers, strict=True):
        predictions.append({"image": name, **answer})
    if flags.json:
        print(json.dumps({"predictions": predictions}))
        return
    print(prediction_table(checkpoint.state["classes"], predictions))


def prediction_table(classes, predictions):
    """The answers about images as text."""
    rows = [["image", "label", *classes, "real"]]
    for prediction in predictions:
        numbers = [f"{p:.3f}" for p in prediction["probabilities"].values()]
        real = prediction["real_probability"]
        numbers.append("-" if real is None else f"{real:.3f}")
        label = prediction["label"]
        if prediction.get("unlike_training_cells"):
            label += ", but unlike the training cells"
        rows.append([prediction["image"], label, *numbers])
    return malaria.extra("text").text_table(rows)


def draw_heat_maps(path, checkpoint, images, answers):
    """A sheet of {name: image uint8 (S, S, C)}, each beside heat maps of its likeliest class."""
    drawing = malaria.extra("drawing")
    if len(images) > MOST_MAPS:
        print(f"--gradcam: the first {MOST_MAPS} of {len(images)} images", file=sys.stderr)
    names = list(images)[:MOST_MAPS]
    images = list(images.values())[:MOST_MAPS]
    likeliest = []
    captions = []
    for name, answer in zip(names, answers, strict=False):
        probabilities = list(answer["probabilities"].values())
        likeliest.append(int(np.argmax(probabilities)))
        unlike = "?" if answer.get("unlike_training_cells") else ""
        captions.append(
            f"{Path(name).name[-20:]}\n{answer['label']} {max(probabilities):.2f}{unlike}"
        )
    mtd = checkpoint.discriminator
    device = next(mtd.parameters()).device
    pictures = malaria.cam_pictures(
        mtd,
        malaria.to_images(torch.from_numpy(np.stack(images))).to(device),
        malaria.class_score(torch.tensor(likeliest, device=device)),
        captions,
        malaria.cam_turn_count(checkpoint.state["config"]),
    )
    columns = min(9, len(pictures))
    try:
        drawing.gallery(
            path,
            "what speaks for the likeliest class (?: unlike the training cells)",
            pictures,
            columns,
        )
    except (OSError, ValueError) as error:  # an ending that is no picture's, too
        raise UsageError(f"--gradcam {path}: cannot be written ({error})") from error


def image_files(name):
    """The image itself, or the images in a folder and in the folders below it, by name."""
    path = Path(name)
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError):  # a name that is too long, or with a zero in it
        is_folder = False
    if not is_folder:
        return [name]  # as it was given: a Path would change an address
    endings = malaria.extra("fields").IMAGE_ENDINGS
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in endings)
    return [file for file in files if file.is_file()]


def find_weights(flags):
    """The path of --weights, by default saved_models/MODEL.pt; if not here, then beside test.py."""
    name = flags.weights or f"saved_models/{flags.model}.pt"
    beside = Path(__file__).resolve().parent / name
    try:
        is_only_beside = beside.exists() and not Path(name).exists()
    except (OSError, ValueError):  # a name that is too long, or with a zero in it
        is_only_beside = False
    return str(beside) if is_only_beside else name


def run_data(flags):
    """Score an MTD on one split of a data set, read as it was for training."""
    device = malaria.pick_device(flags.device)
    checkpoint = malaria.load_checkpoint(flags.weights, "mtd", device)
    made_with = checkpoint.state["config"]
    settings = {name: made_with[name] for name in malaria.flags_that_read_data()}
    settings["classes"] = ",".join(checkpoint.state["classes"])
    settings["max_pixels"] = made_with["max_pixels"]
    config = malaria.Config(**settings, data_path=flags.data_path)
    split = flags.split or "test"
    splits = malaria.SPLITS if split == "all" else (split,)
    data = malaria.load_data(config, device, some_may_be_missing=True).split(*splits)
    if not len(data):
        raise UsageError(f"--split {split}: no images of {', '.join(data.classes)} in it")
    malaria.warn_of_trained_on(flags.weights, set(checkpoint.state["trained_on"]), data)
    found = malaria.calibrated_predictions(checkpoint, data)
    scores = malaria.evaluate(data, found.probabilities)
    if flags.json:
        names = ("n", "accuracy", "balanced_accuracy", "per_class", "confusion_matrix", "classes")
        print(json.dumps({"split": split} | {name: scores[name] for name in names}))
        return
    accuracy = f"accuracy {scores['accuracy']:.3f}, balanced {scores['balanced_accuracy']:.3f}"
    print(f"{split}: n {scores['n']}, {accuracy}")
    rows = [["class", "precision", "recall", "f1", "support"]]
    for name, values in scores["per_class"].items():
        numbers = [f"{values[column]:.3f}" for column in rows[0][1:4]]
        rows.append([name, *numbers, values["support"]])
    print(malaria.extra("text").text_table(rows))


def make_parser():
    """The parser of the command line."""
    parser = malaria.extra("flags").Parser(__doc__)
    add = parser.add_argument
    add("--model", required=True, choices=("gan", "mtd"))
    add("--weights", help="checkpoint (default: saved_models/MODEL.pt, here or beside test.py)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add = parser.add_argument_group("gan").add_argument
    add("--num_images", type=int, default=16, help="how many images (default: 16)")
    add("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    add("--noise", help=".npy file of noise (N, latent_dim), not of --num_images and --seed")
    add(
        "--label",
        help="class to draw, of a conditional generator (default: all, one after the other)",
    )
    add("--out", default="results/test", help="folder for the images (default: results/test)")
    add = parser.add_argument_group("mtd").add_argument
    add("--image", help="an image, or a folder of images, or of folders of them")
    add("--gradcam", metavar="OUT.png", help="with --image: a sheet of heat maps")
    add("--data_path", help="a data set (folder or zip) to be scored on")
    add("--split", choices=(*malaria.SPLITS, "all"), help="of --data_path (default: test)")
    return parser


def check_flags(flags):
    """Raise UsageError for flags that do not go together or are out of range."""
    for name, low, high in (("num_images", 1, 10000), ("seed", 0, 2**63 - 1)):
        if not low <= getattr(flags, name) <= high:
            raise UsageError(f"--{name} {getattr(flags, name)}: give {low} to {high}")
    if flags.model == "gan":
        of_mtd = (flags.image, flags.data_path, flags.gradcam, flags.split)
        if any(of_mtd):
            raise UsageError(
                "--model gan needs no --image, --gradcam, --data_path or --split; --model mtd does"
            )
        return
    if flags.label:
        raise UsageError("--label goes with --model gan: which class a conditional G draws")
    if flags.gradcam and not flags.image:
        raise UsageError("--gradcam goes with --image: whose heat maps are drawn")
    if flags.noise:
        raise UsageError("--noise goes with --model gan: what its images are made of")
    if flags.split and not flags.data_path:
        raise UsageError("--split goes with --data_path: which part of the data is scored")
    if bool(flags.image) == bool(flags.data_path):
        raise UsageError(
            "--model mtd needs one of --image FILE_OR_FOLDER and --data_path DIR_OR_ZIP, not both"
        )


def run(arguments):
    """Do what a command line says."""
    flags = make_parser().parse_args(arguments)
    flags.weights = find_weights(flags)
    check_flags(flags)
    if flags.model == "gan":
        run_gan(flags)
    elif flags.image:
        run_images(flags)
    else:
        run_data(flags)


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
