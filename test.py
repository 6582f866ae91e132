"""Run trained weights: noise to images (gan), or images to life stages (mtd).

    python test.py --model gan --weights saved_models/gan.pt [--num_images 16] [--noise z.npy] [--seed 0] [--out DIR]
    python test.py --model gan --weights WEIGHTS.pt --label ring    a class, of a generator that is told it (--conditional)
    python test.py --model mtd --weights saved_models/mtd.pt --image cell.png|folder [--json]
    python test.py --model mtd --weights saved_models/mtd.pt --data_path DIR_OR_ZIP [--split test|val|train|all] [--json]

From Python: test("mtd", "saved_models/mtd.pt", "cell.png") or test("gan", "saved_models/gan.pt", noise).
"""
import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

# The script beside this file, whatever roll number it has been renamed to.
scripts = sorted(Path(__file__).resolve().parent.glob("*_05.py"))
if not scripts:
    print("error: no script called ROLLNUMBER_05.py beside test.py; put them into one folder", file=sys.stderr)
    sys.exit(2)
submission = importlib.import_module(scripts[0].stem)
UsageError = submission.UsageError


def test(architecture, weights, sample):
    """What a trained network makes of a sample.

    architecture: "gan" or "mtd", or a Generator or MultiTaskDiscriminator that the weights are loaded into.
    weights: a checkpoint file of that kind; for a gan also an mtd's, whose generator is taken.
    sample: for a gan noise (latent,) or (N, latent), as an array or .npy file -> uint8 images (S, S, C) or (N, S, S, C);
    where the generator is conditional, the last numbers of the noise are the class, one-hot;
    for an mtd an image file, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), RGB, of uint8, uint16 or floats in
    [0, 1] -> {"label", "probabilities": {class: p}, "real_probability"}; a list of them -> a list.
    Raises UsageError for weights of another kind and for a sample that cannot be read.
    """
    kind = architecture if isinstance(architecture, str) else (
        "gan" if isinstance(architecture, submission.Generator) else "mtd")
    generator, discriminator, state = submission.load_networks(weights, None if kind == "gan" else kind)
    network = generator if kind == "gan" else discriminator
    if not isinstance(architecture, str):
        try:
            architecture.load_state_dict(network.state_dict())
            kinds = [[type(m).__name__ for m in net.modules() if not list(m.children())] for net in (architecture, network)]
            if kinds[0] != kinds[1]:  # a filter has no weights that could be missing
                raise RuntimeError("its layers are of other kinds; a Generator needs the smooth=True or False it was trained with")
        except RuntimeError as error:
            raise UsageError(f"{weights}: does not fit this architecture: {' '.join(str(error).split())[:300]}")
        network = architecture.eval()
    if kind == "gan":
        noise = read_noise(sample, network.latent_dim)
        images = submission.sample(network, noise.view(-1, network.latent_dim))
        return images if noise.ndim == 2 else images[0]
    several = isinstance(sample, (list, tuple))
    if several and not sample:
        return []
    answers = classify(network, state, [read_sample(s, state["config"]) for s in (sample if several else [sample])])
    return answers if several else answers[0]


def read_noise(sample, length):
    """Noise from an array or .npy file as a float tensor (length,) or (N, length)."""
    try:
        values = np.load(sample, allow_pickle=False) if isinstance(sample, (str, Path)) else np.asarray(sample)
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            noise = torch.from_numpy(values.astype(np.float32, casting="same_kind" if values.dtype.kind in "fc" else "unsafe"))
    except Exception as error:  # numpy raises many kinds for files and values that are not numbers
        raise UsageError(f"--noise {sample}: not an array or .npy file of numbers ({error})")
    if noise.ndim not in (1, 2) or noise.shape[-1] != length or not noise.isfinite().all() or not noise.numel():
        raise UsageError(f"--noise: needs finite numbers of shape ({length},) or (N, {length}), got {tuple(noise.shape)}")
    return noise


def read_sample(sample, config):
    """An image file or array of any size and mode as uint8 (S, S, C) of the model's size and channels."""
    if isinstance(sample, (str, Path)):
        return submission.crop_cell(submission.read_image(sample, config["channels"]), None, config["image_size"])
    try:
        image = np.asarray(sample)
    except Exception as error:  # as above
        raise UsageError(f"not an array of numbers ({error})")
    if image.ndim == 2:
        image = image[:, :, None]
    kind = image.dtype.kind
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size or kind not in "uifb" or (
            not np.isfinite(image).all()):
        raise UsageError(f"array {image.shape} of {image.dtype}: needs finite (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    scale = 255 / np.iinfo(image.dtype).max if kind == "u" else 255 if kind in "fb" else 1
    image = np.clip(np.round(image[:, :, :3] * scale), 0, 255).astype(np.uint8)
    if image.shape[2] != config["channels"]:
        grey = np.round(image @ [0.299, 0.587, 0.114])[:, :, None] if image.shape[2] == 3 else image
        image = np.repeat(grey, config["channels"], 2).astype(np.uint8)
    return submission.crop_cell(image, None, config["image_size"])


def classify(model, state, images):
    """Answers of an MTD, mean over the script's views if it was trained with --augment, for uint8 images (S, S, C)."""
    classes, config = state["classes"], state["config"]
    label = 0 if config["view"] == "cell" else [0] * len(classes)
    index = {"classes": classes, "rows": range(len(images)), "labels": [label] * len(images)}
    device = next(model.parameters()).device
    data = submission.MalariaDataset(torch.from_numpy(np.stack(images)), index, range(len(images)), device)
    found = submission.predict(model, data, config["loss"], config["augment"])
    answers = [p > 0.5 if config["view"] == "field" else p.argmax() for p in found["probabilities"]]
    return [{"label": submission.label_text(a, classes), "probabilities": dict(zip(classes, map(float, p))),
             "real_probability": float(r)} for a, p, r in zip(answers, found["probabilities"], found["real"])]


def run_gan(flags):
    """Write a grid and one PNG an image to --out."""
    generator, _, state = submission.load_networks(flags.weights, device=submission.pick_device(flags.device))
    if flags.label and flags.noise:
        raise UsageError("--label: the noise of --noise says which class; give one of the two")
    if flags.label and not (generator.num_classes and flags.label in state["classes"]):
        told = state["classes"] if generator.num_classes else "none: this generator is not told a class"
        raise UsageError(f"--label {flags.label}: not a class of {flags.weights}, which has {told}")
    label = torch.tensor([state["classes"].index(flags.label)]) if flags.label else None
    noise = read_noise(flags.noise, generator.latent_dim).view(-1, generator.latent_dim) if flags.noise else \
        submission.latents(flags.num_images, generator, flags.seed, label)
    out = Path(flags.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {flags.out}: cannot be a folder ({error.strerror})")
    images = submission.sample(generator, noise)
    for i, image in enumerate(images):
        submission.write_image(out / f"{i:04d}.png", image.repeat(3 // image.shape[2], 2))
    submission.write_image(out / "grid.png", submission.tile(images, min(8, len(images))))
    if flags.json:
        print(json.dumps({"grid": str(out / "grid.png"), "images": [str(out / f"{i:04d}.png") for i in range(len(images))]}))
    else:
        print(f"{len(images)} images and grid.png in {out}")


def run_images(flags):
    """Classify an image, or all images in a folder; unreadable ones in a folder are named and passed over."""
    path, several = Path(flags.image), os.path.isdir(flags.image)  # path.is_dir() fails on a name that is too long
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in submission.IMAGE_ENDINGS) if several else [path]
    _, model, state = submission.load_networks(flags.weights, "mtd", submission.pick_device(flags.device))
    images = {}
    for file in files:
        try:
            images[str(file)] = read_sample(file, state["config"])
        except UsageError as error:
            if not several:
                raise
            print(f"passed over: {error}", file=sys.stderr)
    if not images:
        raise UsageError(f"--image {path}: no readable image in this folder")
    predictions = [{"image": name, **answer} for name, answer in zip(images, classify(model, state, list(images.values())))]
    if flags.json:
        print(json.dumps({"predictions": predictions}))
    else:
        head = ["image", "label", *state["classes"], "real"]
        print(submission.text_table([head, *([p["image"], p["label"], *(f"{v:.3f}" for v in p["probabilities"].values()),
                                              f"{p['real_probability']:.3f}"] for p in predictions)]))


def run_data(flags):
    """Score an MTD on one split of a data set, read as it was for training."""
    device = submission.pick_device(flags.device)
    _, model, state = submission.load_networks(flags.weights, "mtd", device)
    kept = {k: state["config"][k] for k in ("view", "microscope", "magnification", "image_size", "channels")}
    asked = ",".join([*state["classes"], ""])  # a comma at the end: some may lack
    config = submission.Config(**kept, data_path=flags.data_path, classes=asked)
    data = submission.load_data(config, device).split(*submission.SPLITS if flags.split == "all" else [flags.split])
    if not len(data):
        raise UsageError(f"--split {flags.split}: no images of {', '.join(data.classes)} in it")
    submission.warn_of_seen(flags.weights, set(state["seen"]), data)
    answers = submission.predict(model, data, state["config"]["loss"], state["config"]["augment"])
    scores = submission.evaluate(data, answers["probabilities"])
    keys = ("n", "accuracy", "balanced_accuracy", "per_class", "confusion_matrix", "classes")
    if flags.json:
        print(json.dumps({"split": flags.split, **{k: scores[k] for k in keys}}))
        return
    rows = [[c, *(f"{v[k]:.3f}" for k in ("precision", "recall", "f1")), v["support"]] for c, v in scores["per_class"].items()]
    print(f"{flags.split}: n {scores['n']}, accuracy {scores['accuracy']:.3f}, balanced {scores['balanced_accuracy']:.3f}")
    print(submission.text_table([["class", "precision", "recall", "f1", "support"], *rows]))


def run(arguments):
    """Do what a command line says."""
    parser = submission.Parser(description=__doc__, allow_abbrev=False,
                               formatter_class=submission.argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, choices=("gan", "mtd"))
    parser.add_argument("--weights", help="checkpoint (default: saved_models/MODEL.pt)")
    parser.add_argument("--num_images", type=int, default=16, help="gan: how many images (default: 16)")
    parser.add_argument("--noise", help="gan: .npy file of noise (N, latent) in place of --num_images and --seed")
    parser.add_argument("--label", type=submission.canonical_class,
                        help="gan: the class to draw, if the weights are of a --conditional mtd (default: all in turn)")
    parser.add_argument("--seed", type=int, default=0, help="gan: seed of the noise (default: 0)")
    parser.add_argument("--out", default="results/test", help="gan: folder for the images (default: results/test)")
    parser.add_argument("--image", help="mtd: an image, or a folder of images")
    parser.add_argument("--data_path", help="mtd: a data set (folder or zip) to be scored on")
    parser.add_argument("--split", default="test", choices=(*submission.SPLITS, "all"), help="default: test")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    flags = parser.parse_args(arguments)
    flags.weights = flags.weights or f"saved_models/{flags.model}.pt"
    for name, low, high in (("num_images", 1, 10000), ("seed", 0, 2 ** 63 - 1)):
        if not low <= getattr(flags, name) <= high:
            raise UsageError(f"--{name} {getattr(flags, name)}: give {low} to {high}")
    if flags.model == "mtd" and bool(flags.image) == bool(flags.data_path):
        raise UsageError("--model mtd needs --image FILE_OR_FOLDER or --data_path DIR_OR_ZIP, one of them")
    if flags.model == "mtd" and flags.label:
        raise UsageError("--label goes with --model gan: it says which class a told generator draws")
    if flags.model == "gan" and (flags.image or flags.data_path):
        raise UsageError("--model gan makes images from noise; --image and --data_path go with --model mtd")
    (run_gan if flags.model == "gan" else run_images if flags.image else run_data)(flags)


if __name__ == "__main__":
    sys.exit(submission.main(run, sys.argv[1:]))
