"""Draws every figure of the report, in the size and type that it has on the page.

Curves and diagrams are SVG; what shows images is JPEG, which is a quarter of a PNG's size.
"""

import json
import math
import shutil

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter
from PIL import Image
from torch import nn

import rollNumber_05 as malaria
from benchmarks import heatmaps, sweep
from extras import crops, drawing, more_plots
from extras import scores as scoring
from extras.layers import trace_layers
from report import numbers

matplotlib.use("Agg")
pyplot.rcParams.update(drawing.STYLE)

PAGE_WIDTH = 6.6  # inches of the text
FONT_SIZE = 8
JPEG_QUALITY = 87
PANELS = (  # they show cells, so the committed ones are of the demo set
    "predictions_right",
    "predictions_wrong",
    "gradcam_right",
    "gradcam_wrong",
    "gradcam_real_fake",
)
HEAD_PANELS = (
    malaria.Panel("loss (nats)", {"train_loss": "train", "val_loss": "val"}),
    malaria.Panel("accuracy", {"train_accuracy": "train", "val_accuracy": "val"}, top=1),
    malaria.Panel(
        "balanced accuracy",
        {"train_balanced_accuracy": "train", "val_balanced_accuracy": "val"},
        top=1,
    ),
)
TRACE_TITLES = {
    "loss_g": "J(G)",
    "loss_d": "J(D)",
    "d_real": "D(x): 0 fake, 1 real",
    "d_fake": "D(G(z)): 0 fake, 1 real",
}
CELLS_A_ROW = 9  # of a panel
SWEEP_ROWS = 12  # of a picture of the sweep, at most
HEAT_MAPS = {  # {name in numbers.HEAT_MAPS: (its name in the figures, colour)}
    "Grad-CAM": ("Grad-CAM, 4×4", "tab:blue"),
    "finer": ("finer map", "tab:red"),
    "centre": ("hottest in the middle", "tab:green"),
    "random": ("random", "tab:gray"),
}
HEAT_SCORES = {  # {score of benchmarks/heatmaps.py: title}
    "hit": "pointing game: share of cells",
    "energy over chance": "energy on the parasite, over chance",
}
GENERATORS = {  # {model of benchmarks/generators.py: its name in the report}
    "script": "this DCGAN",
    "assignment": "plain recipe",
    "tutorial": "tutorial's",
    "torchgan": "torchgan's",
}


def draw_figures(results, weights, panels, benchmarks, conditional, out):
    """Write every figure of the report into the folder `out`.

    results: what experiments.collect left; weights: the folder of gan.pt and mtd.pt; panels: the
    folder of the PANELS; benchmarks: the folder with the results of benchmarks/; conditional: the
    file of a conditional MTD.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    dcgan = malaria.load_checkpoint(weights / "gan.pt", "gan")
    mtd = malaria.load_checkpoint(weights / "mtd.pt", "mtd")
    draw_networks(out / "networks.svg", dcgan.generator, mtd.discriminator)
    draw_curves(out, results)
    draw_confusion(out / "confusion_matrix.svg", results / "mtd" / "scores.json")
    draw_epochs(out / "epochs.jpg", results / "gan" / "samples")
    draw_samples(out / "samples_gan.jpg", dcgan.generator)
    draw_samples(out / "samples_mtd.jpg", mtd.generator)
    draw_conditional(out / "conditional.jpg", conditional)
    draw_generators(out / "generators.jpg", benchmarks)
    draw_weights(out, dcgan)
    draw_sweep(out, benchmarks / "sweep")
    committed = numbers.COMMITTED
    draw_pointing(out / "pointing.svg", committed / "heatmaps_demo.jsonl")
    draw_faithfulness(out / "faithfulness.svg", benchmarks / "heatmaps_faithfulness.jsonl")
    draw_digits(out, committed)
    for name in PANELS:
        panel = crops.read_image(panels / f"{name}.png")
        save_jpeg(panel, out / f"{name}.jpg")


def fit_to_page(figure, path, height, width=PAGE_WIDTH, font_size=FONT_SIZE):
    """Save a figure in the size it has on the page, in inches."""
    figure.set_size_inches(width, height)
    for text in figure.findobj(Text):
        text.set_fontsize(font_size)
    save_figure(figure, path)


def save_figure(figure, path):
    """Save a figure as what its file name ends in."""
    if path.suffix == ".jpg":
        figure.savefig(path, dpi=200, pil_kwargs={"quality": JPEG_QUALITY})
    else:
        figure.savefig(path, dpi=200)


def save_jpeg(image, path):
    """Save an RGB image (H, W, 3)."""
    Image.fromarray(image).save(path, quality=JPEG_QUALITY)


# Networks


def draw_networks(path, generator, mtd):
    """Both networks as rows of blocks: height by side, width by channels, kind and kernel below."""
    noise = malaria.latents(1, generator, 0)
    with torch.no_grad():
        image = generator(noise)
    rows = {
        "Generator": trace_layers(generator, noise),
        "Multi-task discriminator": trace_layers(mtd, image),
    }
    figure, axes = pyplot.subplots(len(rows), 1, figsize=(PAGE_WIDTH, 3.4))
    for axis, (title, layers) in zip(axes, rows.items(), strict=True):
        draw_blocks(axis, layers)
        axis.set_title(title, loc="left", fontweight="bold", fontsize=FONT_SIZE + 1)
    save_figure(figure, path)


def draw_blocks(axis, layers):
    """Blocks from left to right: the input, then every convolution and linear layer.

    layers: as trace_layers gives them. A block of maps (C, S, S) is as high as log S and as wide as
    log C; a vector (n,) counts as a map of side 1.
    """
    _, _, input_shape, _ = layers[0]
    x = draw_block(axis, 0, input_shape, "input", "0.7")
    for name, layer, _, output_shape in layers:
        if isinstance(layer, nn.ConvTranspose2d):
            text = f"transposed conv\n{kernel_text(layer)}"
            x = draw_block(axis, x, output_shape, text, "tab:green")
        elif isinstance(layer, nn.Conv2d):
            text = f"conv\n{kernel_text(layer)}"
            if name == "real_fake":
                text += "\nreal or fake"
            x = draw_block(axis, x, output_shape, text, "tab:blue")
        elif isinstance(layer, nn.Linear):
            text = "linear"
            if name.startswith(("embed", "classify")):
                text += "\nclass head"
            x = draw_block(axis, x, output_shape, text, "tab:orange")
    axis.set(xlim=(-0.5, x - 0.4), ylim=(-2.6, 2.0), xticks=[], yticks=[], frame_on=False)


def draw_block(axis, x, shape, text, colour):
    """One block from x on, its shape above and a text below; returns where the next begins."""
    side = shape[-1] if len(shape) == 3 else 1
    height = 0.35 + 0.35 * np.log2(side + 1)
    width = 0.25 + 0.09 * np.log2(shape[0] + 1)
    middle = x + width / 2
    block = Rectangle(
        (x, -height / 2), width, height, facecolor=colour, edgecolor="black", alpha=0.55
    )
    axis.add_patch(block)
    shape_text = "×".join(map(str, shape))
    fonts = {"ha": "center", "fontsize": 7}
    axis.text(middle, height / 2 + 0.1, shape_text, va="bottom", **fonts)
    axis.text(middle, -1.45, text, va="top", **fonts)
    return x + width + 0.7


def kernel_text(layer):
    """Kernel and stride of a convolution."""
    height, width = layer.kernel_size
    return f"{height}×{width}, stride {layer.stride[0]}"


# Curves


def draw_curves(out, results):
    """Losses, quality, the head's scores, and the curves before and after the head was added."""
    history = {}
    traces = {}
    configs = {}
    for task in ("gan", "mtd"):
        history[task] = json.loads((results / task / "history.json").read_text())["rows"]
        traces[task] = np.load(results / task / "traces.npz")
        configs[task] = json.loads((results / task / "config.json").read_text())["config"]
    quality = out / "quality.svg"
    figure = malaria.plot_history(history["gan"], quality, malaria.QUALITY_PANELS)
    fit_to_page(figure, quality, height=2.6)
    head = out / "head.svg"
    figure = malaria.plot_history(history["mtd"], head, HEAD_PANELS)
    fit_to_page(figure, head, height=2.2)
    unit = malaria.LOSSES[configs["gan"]["loss"]].unit
    draw_losses(out / "losses.svg", traces["gan"], unit)
    on_dcgan = configs["mtd"]["weights"] != ""
    draw_before_after(out / "before_after.svg", traces["gan"], traces["mtd"], on_dcgan)


def draw_losses(path, traces, unit):
    """J(G) and J(D) of the DCGAN beside each other."""
    figure, axes = pyplot.subplots(1, 2, figsize=(PAGE_WIDTH, 2.4))
    for axis, colour, name in zip(axes, drawing.COLOURS, ("loss_g", "loss_d"), strict=True):
        drawing.draw_trace(axis, traces[name].astype(np.float32), colour, TRACE_TITLES[name])
        axis.set(title=f"{TRACE_TITLES[name]} of the DCGAN", xlabel="iteration", ylabel=unit)
    save_traces(figure, path)


def draw_before_after(path, dcgan, mtd, on_dcgan):
    """Losses and answers of D without and with the head.

    on_dcgan: the MTD started from the DCGAN, so the DCGAN's last iterations stand before it;
    otherwise both start at 0.
    """
    length = len(mtd["loss_g"])
    figure, axes = pyplot.subplots(2, 2, figsize=(PAGE_WIDTH, 3.5))
    for axis, (name, title) in zip(axes.flat, TRACE_TITLES.items(), strict=True):
        before = dcgan[name].astype(np.float32)
        after = mtd[name].astype(np.float32)
        start = 0
        unit = "iteration"
        if on_dcgan:
            before = before[-length:]
            start = -len(before)
            unit = "iterations since the head was added"
        drawing.draw_trace(axis, before, drawing.COLOURS[0], "DCGAN", start)
        drawing.draw_trace(axis, after, drawing.COLOURS[1], "with the head")
        axis.set(title=title, xlabel=unit)
        if name == "loss_g":
            axis.legend(loc="upper left")  # for all four
        else:
            axis.get_legend().remove()
    save_traces(figure, path)


def draw_sweep(out, folder):
    """sweep_1.jpg and so on: the picture of benchmarks/sweep.py, SWEEP_ROWS settings each.

    They have room for their labels in the size of the page, and the same axes.
    """
    runs = sweep.measured_runs(numbers.read_table(folder / "runs.jsonl"))
    settings = [name for name, _ in numbers.in_order(runs)]
    for number, names in enumerate(numbers.parts_of(settings, SWEEP_ROWS), 1):
        is_shown = runs["setting"].isin(names)
        shown = in_rows(runs[is_shown], names)
        draw_sweep_part(out / f"sweep_{number}.jpg", shown, folder, sweep.limits(runs))


def in_rows(runs, settings):
    """Runs in the order of their settings, and of their seeds."""
    places = {name: place for place, name in enumerate(settings)}
    return runs.assign(place=runs["setting"].map(places)).sort_values(["place", "seed"])


def draw_sweep_part(path, runs, folder, limits):
    """The rows of some settings; limits: the upper ends of the axes of J(G), J(D) and KID."""
    figure = sweep.picture(runs, folder, path)
    axes = np.reshape(figure.axes, (-1, 4))
    for row, name in zip(axes, runs["setting"].unique(), strict=True):
        row[2].set_ylim(0, limits[2])
        if not name.startswith(sweep.CRITIC):
            for axis, upper in zip(row[:2], limits, strict=False):
                axis.set_ylim(min(0, axis.dataLim.ymin), upper)
        row[0].yaxis.label.set_text(name.replace(", ", ",\n"))
    axes[0, 0].get_legend().remove()  # the caption says which line is which
    for axis in axes[:, :3].flat:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    fit_to_page(figure, path, height=0.36 * len(axes) + 0.4, font_size=7)


def draw_pointing(path, results):
    """Where heat maps point on the demo set: a dot for each seed, hollow where J(D) is seldom."""
    rows = heatmaps.one_row_a_class(numbers.read_table(results))
    sizes = sorted(rows["image_size"].unique(), reverse=True)
    figure, axes = pyplot.subplots(len(sizes), 2, figsize=(PAGE_WIDTH, 3.3), sharex="col")
    for line, size in zip(axes, sizes, strict=True):
        of_size = rows[rows["image_size"] == size]
        for axis, (score, title) in zip(line, HEAT_SCORES.items(), strict=True):
            draw_seeds(axis, of_size, score)
            axis.set_title(f"{title}, {size} px")
    axes[0, 1].legend(*legend_of_seeds(), loc="upper right")
    fit_to_page(figure, path, height=3.3, font_size=7)


def draw_seeds(axis, rows, score):
    """One score of every class and map: a dot for each seed, a line at the score of chance."""
    classes = list(rows["class"].unique())
    for place, (name, kind) in enumerate(numbers.HEAT_MAPS.items()):
        _, colour = HEAT_MAPS[name]
        of_kind = rows[(rows[list(kind._fields)] == list(kind)).all(axis=1)]
        for every, part in of_kind.groupby("adversarial_every"):
            x = part["class"].map(classes.index) + 0.22 * (place - 1)
            face = colour if every == 1 else "none"
            axis.scatter(x, part[score], s=14, facecolors=face, edgecolors=colour, linewidths=0.8)
    for number, name in enumerate(classes):
        chance = rows[rows["class"] == name]["hit_chance"].mean() if score == "hit" else 1
        axis.plot([number - 0.4, number + 0.4], [chance, chance], "k--", linewidth=0.8)
    axis.set_xticks(range(len(classes)), classes)
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", alpha=0.3)


def legend_of_seeds():
    """Handles and labels of draw_seeds."""
    handles = []
    labels = []
    for name in numbers.HEAT_MAPS:
        label, colour = HEAT_MAPS[name]
        handles.append(Line2D([], [], color=colour, marker="o", linestyle="none", markersize=4))
        labels.append(label)
    handles.append(Line2D([], [], color="black", linestyle="--", linewidth=0.8))
    labels.append("chance")
    return handles, labels


def draw_faithfulness(path, results):
    """Mean deletion and insertion curves of heat maps and of random ones."""
    curves = numbers.read_table(results).set_index("map")["curves"]
    names = {name: str(kind) for name, kind in numbers.HEAT_MAPS.items()}
    names |= {heatmaps.CENTRE: heatmaps.CENTRE, "random": heatmaps.RANDOM}
    figure, axes = pyplot.subplots(1, 2, figsize=(PAGE_WIDTH, 2.2), sharey=True)
    for axis, curve in zip(axes, ("deletion", "insertion"), strict=True):
        for name, row in names.items():
            label, colour = HEAT_MAPS[name]
            values = curves[row][curve]
            axis.plot(np.linspace(0, 1, len(values)), values, color=colour, label=label)
        axis.set(title=curve, xlabel="share of the pixels", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("probability of the answer")
    axes[0].legend()
    fit_to_page(figure, path, height=2.2, font_size=7.5)


def draw_digits(out, folder):
    """digits_gan.jpg and digits_conditional.jpg: the upper half of what benchmarks/digits.py drew.

    Of the first seed, and only what is there.
    """
    for name in ("gan", "conditional"):
        files = sorted(folder.glob(f"digits_{name}_*.png"))
        if files:
            sheet = crops.read_image(files[0])
            save_jpeg(sheet[: len(sheet) // 2], out / f"digits_{name}.jpg")


def save_traces(figure, path):
    """Save a figure of traces; the lines as pixels, for they have tens of thousands of points."""
    for axis in figure.axes:
        for line in axis.lines:
            line.set_rasterized(True)
    fit_to_page(figure, path, height=figure.get_figheight())


def draw_confusion(path, scores_file):
    """Confusion matrices of validation and test."""
    scores = json.loads(scores_file.read_text())
    matrices = {split: scores[split] for split in ("val", "test")}
    figure = more_plots.plot_confusion(path, matrices)
    fit_to_page(figure, path, height=2.4, width=5.2)


# Generated images


def draw_epochs(path, samples):
    """Samples from the same noise over the epochs, a row each."""
    rows = {}
    for file in sorted(samples.glob("epoch_*.png")):
        epoch = int(file.stem.removeprefix("epoch_"))
        rows[f"epoch {epoch}"] = crops.read_image(file)
    draw_strips(path, rows)


def draw_generators(path, benchmarks):
    """Eight cells of each generator of benchmarks/generators.py, of its first seed."""
    rows = {}
    for model, label in GENERATORS.items():
        files = sorted(benchmarks.glob(f"generators_{model}_*.png"))
        if files:
            sheet = crops.read_image(files[0])
            row_height = 2 + sheet.shape[1] // 8  # tiles are square, with a border above and below
            rows[label] = sheet[:row_height]
    draw_strips(path, rows)


def draw_strips(path, rows):
    """{label: RGB image} below each other."""
    figure, axes = pyplot.subplots(len(rows), 1, figsize=(4.4, 0.52 * len(rows)), squeeze=False)
    for axis, (label, image) in zip(axes.flat, rows.items(), strict=True):
        axis.imshow(image)
        axis.set(xticks=[], yticks=[], frame_on=False)
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=FONT_SIZE)
    save_figure(figure, path)


def draw_samples(path, generator):
    """A grid of 40 samples, from the same noise for every generator."""
    images = malaria.sample(generator, malaria.latents(40, generator, 0))
    save_jpeg(drawing.grid(images), path)


def draw_conditional(path, weights):
    """Eight samples of each class of a conditional generator, a row each."""
    checkpoint = malaria.load_checkpoint(weights, "mtd")
    labels = torch.arange(len(checkpoint.state["classes"])).repeat_interleave(8)
    noise = malaria.latents(len(labels), checkpoint.generator, 0)
    save_jpeg(drawing.grid(malaria.sample(checkpoint.generator, noise, labels)), path)


# Weights


def draw_weights(out, dcgan):
    """weights_{generator,discriminator}_{before,after}.png: the DCGAN's kernels.

    Before: as the run's seed initialises them.
    """
    config = dcgan.state["config"]
    torch.manual_seed(config["seed"])
    untrained = malaria.build_networks("gan", config, len(dcgan.state["classes"]))
    trained = (dcgan.generator, dcgan.discriminator)
    for when, networks in (("before", untrained), ("after", trained)):
        for name, network in zip(("generator", "discriminator"), networks, strict=True):
            path = out / f"weights_{name}_{when}.png"
            figure = malaria.plot_weights(network, path)
            for axis in figure.axes:
                axis.set_xlabel("")  # how many kernels there are is in the caption
            fit_to_page(figure, path, height=1.25, font_size=6.5)


# Panels


def draw_panels(data, weights, out, kinds=("right", "wrong", "real_fake")):
    """PANELS as the script's pictures of answers and of Grad-CAM, with labels to read on a page.

    They show test cells of `data`. kinds: the endings of those that are to be drawn.
    """
    checkpoint = malaria.load_checkpoint(weights, "mtd", data.device)
    mtd = checkpoint.discriminator
    test = data.split("test")
    probabilities = malaria.calibrated_predictions(checkpoint, test).probabilities
    judgement = scoring.judge(test, probabilities)
    for name, is_chosen in (("right", judgement.is_right), ("wrong", ~judgement.is_right)):
        if name not in kinds:
            continue
        chosen = np.flatnonzero(is_chosen)
        chosen = chosen[np.argsort(-judgement.confidence[chosen])]  # the surest first
        shown = evenly(chosen, 2 * CELLS_A_ROW)
        captions = [judgement.captions[i] for i in shown]
        pictures = list(map(drawing.Picture, test.uint8(shown), captions))
        draw_panel(out / f"predictions_{name}.png", pictures)

        by_class = chosen[np.argsort(test.labels.cpu().numpy()[chosen], kind="stable")]
        shown = evenly(by_class, CELLS_A_ROW)
        captions = [judgement.captions[i] for i in shown]
        score = malaria.class_score(torch.from_numpy(probabilities[shown].argmax(1)))
        images = test.__getitems__(shown).images
        pictures = malaria.cam_pictures(mtd, images, score, captions)
        draw_panel(out / f"gradcam_{name}.png", pictures)
    if "real_fake" in kinds:
        pictures = malaria.real_fake_pictures(checkpoint, test, seed=0, count=3)
        draw_panel(out / "gradcam_real_fake.png", pictures)


def evenly(values, limit):
    """At most `limit` of an array (N,), evenly spread."""
    places = np.linspace(0, len(values) - 1, min(limit, len(values)))
    return values[places.round().astype(int)]


def draw_panel(path, pictures):
    """Pictures in rows of CELLS_A_ROW, as wide as the page; a line of text if there are none."""
    rows = max(1, math.ceil(len(pictures) / CELLS_A_ROW))
    size = (PAGE_WIDTH, 0.98 * rows)
    empty = {"xticks": [], "yticks": [], "frame_on": False}
    settings = {"dpi": 220, "subplot_kw": empty}
    with drawing.figure(path, rows, CELLS_A_ROW, size, **settings) as (sheet, axes):
        sheet.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
        if not pictures:
            sheet.suptitle("none", fontsize=FONT_SIZE)
        for axis, picture in zip(axes.flat, pictures, strict=False):
            axis.imshow(picture.image.repeat(3 // picture.image.shape[2], 2))
            caption = picture.caption.replace("what speaks", "speaks")  # as wide as an image
            axis.set_title(caption, fontsize=5.5, pad=2)
