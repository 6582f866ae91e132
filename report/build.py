"""Build Report.pdf: figures and numbers from files of results, the text from report.typ.

    pip install -r report/requirements.txt
    python report/build.py                                 Report.pdf from the committed results, under a minute
    python report/build.py --demo                          the same, with the panels of demo cells drawn anew (4 minutes)
    python report/build.py --data_path DIR_OR_ZIP          run every experiment on your data first (hours; resumable)
    python report/build.py --data_path DIR_OR_ZIP --quick  your runs (trained if there are none); benchmarks as committed

With --data_path results and Report.pdf go to results/report/ and the panels that show cells are of your data; without it they
show the demo set and generated cells. report.typ reads figures/ and numbers.json, which this program writes, and built_from.json
keeps the fingerprints of all that they were made from.
"""
import argparse
import hashlib
import importlib.util
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import classifiers  # noqa: E402
import numpy as np  # noqa: E402
import sweep  # noqa: E402
from peers import read_runs  # noqa: E402

import rollNumber_05 as s  # noqa: E402

SHOWN_EPOCHS, TEXT = 7, ("report.typ", "references.bib")
DATA_FLAGS = ("view", "classes", "microscope", "magnification", "image_size", "channels")
PANELS = ("predictions_right", "predictions_wrong", "gradcam_right", "gradcam_wrong", "gradcam_real_fake")


# ---------------------------------------------------------------- experiments
def run_experiments(data_path, out, quick):
    """Train, explain and benchmark on a data set; what is done, in `out` or in results/, is not done again.

    quick: no benchmarks, and only the DCGAN and the MTD are trained where there are none.
    """
    yours = [ROOT / "results" / task for task in ("gan", "mtd")]
    own = all(finished(run, data_path, told=quick) for run in yours)
    if quick and not own and any((config := config_of(run)) and same_data(config, data_path) for run in yours):
        raise s.UsageError(f"{ROOT / 'results'}: gan and mtd are not both finished runs on this data; finish them, with --task "
                           "gan|mtd --resume, or move them away")
    runs, weights = ROOT / "results" if own else out / "runs", out / "weights"
    s.open_data_path(data_path, runs / "cache")  # says what is wrong with it, before anything is trained
    weights.mkdir(parents=True, exist_ok=True)
    for task in ("gan", "mtd"):
        train(task, data_path, runs, *(["--weights", runs / "gan/last.pt"] if task == "mtd" else []))
        best = runs / task / "best.pt"
        shutil.copy(best if best.exists() else best.with_name("last.pt"), weights / f"{task}.pt")
    config, dcgan = config_of(runs / "mtd"), config_of(runs / "gan")
    if other := [k for k in DATA_FLAGS if config[k] != dcgan[k]]:
        raise s.UsageError(f"{runs}: gan was made with --{other[0]} {dcgan[other[0]]}, mtd with {config[other[0]]}; the report "
                           "needs them alike")
    given = {k: config[k] for k in DATA_FLAGS if config[k] != getattr(s.Config(), k)}
    if config["view"] == "field":
        raise s.UsageError(f"{runs / 'mtd'} was made with --view field; the report is about --view cell: move the runs away")
    if given and not quick:
        raise s.UsageError(f"{runs / 'mtd'} was made with --{next(iter(given))}; the benchmarks are about the default flags: give "
                           "--quick, or move the runs away")
    data = s.load_data(s.Config(**given, data_path=data_path, results_dir=str(runs)))
    collect(data, runs, out)
    draw_panels(data, weights / "mtd.pt", out / "panels")
    if not quick:
        benchmark(data_path, out, weights)


def benchmark(data_path, out, weights):
    """A conditional MTD and every benchmark on a data set."""
    dcgan = s.read_checkpoint(weights / "gan.pt")["config"]
    sizes = [v for key in ("latent_dim", "g_width", "d_width") for v in (f"--{key}", dcgan[key])]
    train("mtd", data_path, out / "conditional", "--conditional", "--weights", weights / "gan.pt", *sizes,
          "--smooth" if dcgan["smooth"] else "--no-smooth")
    shutil.copy(out / "conditional/mtd/last.pt", weights / "conditional.pt")  # its generator counts, not the head's best epoch
    for name in ("sweep", "classifiers", "generators", "conditional"):
        call([sys.executable, ROOT / f"benchmarks/{name}.py", "--data_path", data_path, "--out",
              out / (name if name == "sweep" else f"{name}.jsonl"),
              *(["--weights", weights / "conditional.pt"] if name == "conditional" else [])])
    call([sys.executable, ROOT / "benchmarks/classifiers.py", "--data_path", data_path, "--out", out / "classifiers.jsonl",
          "--time"])


def config_of(run):
    """The flags of a run's folder, over today's defaults; None if there is no run. Raises UsageError if its file is damaged."""
    path = run / "config.json"
    try:
        return {**vars(s.Config()), **json.loads(path.read_text())["config"]} if path.exists() else None
    except (ValueError, LookupError, TypeError):
        raise s.UsageError(f"{path}: damaged; move {run} away")


def finished(run, data_path, told):
    """Whether a folder holds a finished run on this data; told: also one whose generator is told the class."""
    config = config_of(run)
    done = bool(config) and same_data(config, data_path) and (run / "quality.json").exists()
    return done and (told or not config["conditional"])


def same_data(config, data_path):
    """Whether a run's config names this data."""
    return Path(config["data_path"]).resolve() == Path(data_path).resolve()


def train(task, data_path, folder, *flags):
    """Train a task into folder/task, go on with it, or leave it if it is finished. Raises UsageError if it is of other data."""
    config = config_of(folder / task)
    if config and not same_data(config, data_path):
        raise s.UsageError(f"{folder / task} is a run of {config['data_path']}; move it away")
    if (folder / task / "quality.json").exists():
        return
    resume = ["--resume"] if (folder / task / "last.pt").exists() else []
    call([sys.executable, ROOT / "rollNumber_05.py", "--data_path", data_path, "--task", task, "--results_dir", folder,
          "--save_dir", folder, "--overwrite", *flags, *resume])


def call(command):
    """Run a command, its output on the terminal. Raises UsageError or RuntimeError if it ends badly, with its exit code."""
    if code := subprocess.run(list(map(str, command))).returncode:
        kind = s.UsageError if code == 2 else RuntimeError
        raise kind(f"{' '.join(map(str, command[1:]))} ended with exit code {code}; the same command goes on from there")


def collect(data, runs, out):
    """From the runs' folders what the report needs and what may be shared: numbers and generated images, no cell."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "data.json").write_text(json.dumps({
        "layout": data.index["layout"], "classes": data.classes, "splits": data.counts(), "leak": leak(data)}, indent=1))
    for task, files in (("gan", ["quality.json", "config.json"]), ("mtd", ["quality.json", "scores.json", "config.json"])):
        (out / task).mkdir(exist_ok=True)
        for file in files:
            shutil.copy(runs / task / file, out / task / file)
        state = s.read_checkpoint(runs / task / "last.pt", task)  # the best epoch's history would end there
        history = {"strength": float(state.get("strength", 0)), "game_every": state.get("game_every", 1), "rows": state["history"]}
        (out / task / "history.json").write_text(json.dumps(history))
        np.savez_compressed(out / task / "traces.npz", **dict(zip(s.TRACES, state["traces"].numpy().astype(np.float16).T)))
    samples = sorted((runs / "gan/samples").glob("*.png"))
    shutil.rmtree(out / "gan/samples", ignore_errors=True)
    (out / "gan/samples").mkdir()
    side = math.ceil(64 / data.images.shape[1]) * data.images.shape[1]
    for i in sorted({*np.geomspace(1, len(samples), SHOWN_EPOCHS).round().astype(int) - 1}):
        row = s.read_image(samples[i])[22:22 + side + 4]  # under the caption, the first of eight rows
        s.write_image(out / "gan/samples" / samples[i].name, row)


def draw_panels(data, weights, out, kinds=("right", "wrong", "real_fake")):
    """The script's pictures of answers and of Grad-CAM in the size of a page; they show cells of `data`."""
    generator, model, state = s.load_networks(weights, "mtd", data.device)
    test, made = data.split("test"), state["config"]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as drawn:
        answers = s.predict(model, test, made["loss"], made["augment"])["probabilities"]
        s.plot_predictions(Path(drawn), test, answers, limit=12, columns=6)
        s.plot_gradcam(Path(drawn), generator, model, test, made, seed=0, limit=9, columns=6)
        for path in Path(drawn).glob("*.png"):
            if path.stem.endswith(kinds):
                shutil.copy(path, out / path.name)


def leak(data, threshold=0.93, rows=1000):
    """How many pairs of cells in different images are near copies, and how many of them each way of splitting parts.

    Near: correlation of the crops over `threshold`. Parted: in different splits; at random: the mean over all ways to deal the
    cells into splits of these sizes.
    """
    images = data.uint8(range(len(data))).reshape(len(data), -1).astype(np.float32)
    images -= images.mean(1, keepdims=True)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    sources = [data.index["sources"][r] for r in data.rows]
    field, labels = np.unique(sources, return_inverse=True)[1], data.labels.cpu().numpy()
    found = (np.add(np.where(np.triu(images[i:i + rows] @ images[i:].T, 1) > threshold), i) for i in range(0, len(images), rows))
    a, b = np.concatenate(list(found), 1)
    a, b = (i[field[a] != field[b]] for i in (a, b))
    split, sizes = np.unique([data.index["splits"][r] for r in data.rows], return_inverse=True, return_counts=True)[1:]
    together = (sizes * (sizes - 1)).sum() / (len(split) * (len(split) - 1))
    return {"threshold": threshold, "pairs": len(a), "neighbours": int((abs(field[a] - field[b]) == 1).sum()),
            "other_label": int((labels[a] != labels[b]).sum()),
            "parted_by_blocks": int((split[a] != split[b]).sum()),
            "parted_at_random": float(len(a) * (1 - together))}


# -------------------------------------------------------------------- numbers
def numbers(results, weights, benchmarks):
    """Everything that report.typ prints, as one nested dict; `benchmarks` is the folder with the results of benchmarks/."""
    found = {name: json.loads((results / f"{name}.json").read_text()) for name in
             ("data", "gan/quality", "gan/config", "mtd/quality", "mtd/scores", "mtd/config")}
    networks = {**dict(zip(("generator", "discriminator"), s.load_networks(weights / "gan.pt"))),
                "mtd": s.load_networks(weights / "mtd.pt")[1]}
    out = {key.replace("/", "_"): value for key, value in found.items()}
    out["parameters"] = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    histories = {task: json.loads((results / task / "history.json").read_text()) for task in ("gan", "mtd")}
    out["training"] = {task: training(history) for task, history in histories.items()}
    out["layers"] = {name: layers(network, found["gan/config"]["config"]) for name, network in networks.items()}
    runs = classifiers.known_runs(benchmarks / "classifiers.jsonl")
    for model in ("mtd", "head", "head_scratch", "effnet"):
        if not classifiers.complete_seeds(runs, model):
            raise s.UsageError(f"{benchmarks / 'classifiers.jsonl'} lacks folds of {model}: benchmarks/classifiers.py")
    first = classifiers.complete_seeds(runs, "mtd")[0]
    out["benchmarks"] = {"cells": sum(r["n"] for r in first), "classes": first[0]["classes"], "views": first[0]["views"]}
    times = json.loads((benchmarks / "classifier_times.json").read_text())
    out["classifiers"] = classifier_numbers(runs, times)
    again = classifiers.known_runs(benchmarks / "classifiers_intel.jsonl")  # the fine-tuned network, trained once more elsewhere
    out["again"] = classifier_numbers({**{k: r for k, r in runs.items() if k[0] == "mtd"}, **again}, times) if again else None
    out["conditional"] = conditional_numbers(read_runs(benchmarks / "conditional.jsonl"))
    out["generators"] = generator_numbers(benchmarks / "generators.jsonl")
    out["sweep"] = sweep_numbers(read_runs(benchmarks / "sweep/runs.jsonl"))
    out["trials"] = json.loads((HERE / "results/trials.json").read_text())
    return out


def training(history):
    """What a run took and how it ended."""
    rows, ends = history["rows"], max(1, min(10, len(history["rows"]) // 4))
    return {"epochs": len(rows), "ends": ends, "steps": rows[-1]["step"], "minutes": sum(r["seconds"] for r in rows) / 60,
            "last": tail(rows[-ends:]), "strength": history["strength"], "game_every": history["game_every"]}


def tail(rows):
    """Mean of every number over some epochs."""
    return {k: statistics.mean(r[k] for r in rows) for k in rows[-1] if all(isinstance(r.get(k), float) for r in rows)}


def layers(network, config):
    """[[layer, kind, output, parameters, size formula], ...] of a network, as --summary prints them."""
    side = config["image_size"]
    example = s.latents(1, network, 0) if isinstance(network, s.Generator) else s.torch.zeros(1, config["channels"], side, side)
    return [re.split(r"\s{2,}", line.strip()) for line in s.summarise(network, example).strip().splitlines()[2:]]


def classifier_numbers(runs, times):
    """{"models": {model: {score: {mean, low, high}, ...}}, "gains": {"a-b": {mean, low, high}}, "dcgan_seconds": s} of the
    cross-validation; times: {model, or the DCGAN under some: processor seconds of a fold}."""
    models = {}
    for model in (m for m in classifiers.MODELS if classifiers.complete_seeds(runs, m)):
        seeds = classifiers.complete_seeds(runs, model)
        mine, found = sum(seeds, []), list(map(classifiers.scores, seeds))
        models[model] = {"runs": len(mine), "seeds": len(seeds), "parameters": mine[0]["parameters"], "seconds": times[model],
                         "intervals": {k: list(map(float, v)) for k, v in classifiers.intervals(seeds).items()}, **{
            k: spread([f[k] for f in found]) for k in found[0]}}
    gains = {f"{a}-{b}": dict(zip(("runs", "mean", "low", "high"), map(float, gain)))
             for a, b in classifiers.COMPARED if (gain := classifiers.gain(runs, a, b))}
    return {"models": models, "gains": gains, "dcgan_seconds": times["dcgan"]}


def conditional_numbers(runs):
    """Means and ranges over the seeds of benchmarks/conditional.py."""
    out = {}
    for kind in dict.fromkeys(r["cells"] for r in runs):
        mine = [r for r in runs if r["cells"] == kind]
        out[kind] = {"trained_on": mine[0]["trained_on"], "n": mine[0]["n"], "seeds": len(mine), **{
            k: spread([r[k] for r in mine]) for k in ("accuracy", "balanced_accuracy", "recognised") if k in mine[0]}}
        if "recognised_per_class" in mine[0]:
            out["per_class"] = {c: statistics.mean(r["recognised_per_class"][c] for r in mine)
                                for c in mine[0]["recognised_per_class"]}
    return out


def generator_numbers(path):
    """{"models": [a row for each generator that benchmarks/generators.py trained], "floor": the same numbers of real cells}."""
    keys, trained = ("kid_train", "kid_unseen", "frechet", "precision", "recall"), [r for r in read_runs(path) if r["minutes"]]
    if not {"script", "assignment", "tutorial"} <= {r["model"] for r in trained}:
        raise s.UsageError(f"{path} lacks the script's, the assignment's or the tutorial's generator: benchmarks/generators.py")
    mine = {name: [r for r in trained if r["model"] == name] for name in dict.fromkeys(r["model"] for r in trained)}
    models = [{"model": name, "seeds": len(rows), "minutes": rows[0]["minutes"], "parameters": rows[0]["generator_parameters"],
               **{k: spread([r[k] for r in rows]) for k in ("steps", *keys)}} for name, rows in mine.items()]
    return {"models": models, "floor": {k: trained[-1]["floor"][k] for k in keys}, "n": trained[-1]["n"],
            "threads": trained[-1]["threads"]}


def spread(values):
    """Mean and range."""
    return {"mean": statistics.mean(values), "low": min(values), "high": max(values)}


def sweep_numbers(runs):
    """A row for each setting of benchmarks/sweep.py."""
    rows = []
    for name in dict.fromkeys(r["setting"] for r in runs):
        mine = [r for r in runs if r["setting"] == name and "failed" not in r]
        rows.append({"setting": name, "seeds": len(mine)} | ({"steps": mine[0]["steps"], **{
            k: spread([r[k] for r in mine]) if k in mine[0] else dict.fromkeys(("mean", "low", "high"), "–")
            for k in ("kid_train", "kid_val", "precision", "recall")}} if mine else {}))
    return rows


# -------------------------------------------------------------------- figures
def figures(results, weights, panels, benchmarks, told, out):
    """Write every figure of the report into the folder `out`; told: weights of a conditional MTD."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    rows = {task: json.loads((results / task / "history.json").read_text())["rows"] for task in ("gan", "mtd")}
    gan, mtd = (np.load(results / task / "traces.npz") for task in ("gan", "mtd"))
    draw_networks(out / "networks.svg", s.load_networks(weights / "gan.pt")[0], s.load_networks(weights / "mtd.pt")[1])
    s.plot_history(rows["gan"], out / "quality.svg", s.QUALITY_PANELS)
    s.plot_history(rows["mtd"], out / "head.svg", {
        text: {f"{split}_{key}": split for split in ("train", "val")}
        for key, text in dict(loss="loss (nats)", accuracy="accuracy", balanced_accuracy="balanced accuracy").items()})
    draw_traces(out / "losses.svg", [("J(G) of the DCGAN", "loss_g", [(gan, "J(G)", 0)]),
                                     ("J(D) of the DCGAN", "loss_d", [(gan, "J(D)", 0)])])
    shown = len(mtd["loss_g"]) if config_of(results / "mtd")["weights"] else 0  # of the DCGAN: its end, or all
    draw_traces(out / "before_after.svg", [
        (title, key, [(gan, "DCGAN", -shown), (mtd, "with the head", 0)]) for key, title in dict(
        loss_g="J(G)", loss_d="J(D)", d_real="D(x): 0 fake, 1 real", d_fake="D(G(z)): 0 fake, 1 real").items()],
        "iterations since the head was added" if shown else "iteration")
    draw_samples(out, results / "gan/samples", weights, told)
    names = {"script": "this DCGAN", "assignment": "plain recipe", "tutorial": "tutorial's", "torchgan": "torchgan's"}
    draw_strips(out / "generators.png", {name: s.read_image(found[0])[:68] for model, name in names.items()
                                         if (found := sorted(benchmarks.glob(f"generators_{model}_*.png")))})
    draw_weights(out, weights)
    scores = json.loads((results / "mtd/scores.json").read_text())
    s.plot_scores(out, {split: scores[split] for split in ("val", "test")})
    for name in PANELS:
        shutil.copy(panels / f"{name}.png", out / f"{name}.png")
    sweep.picture(read_runs(benchmarks / "sweep/runs.jsonl"), benchmarks / "sweep", out / "sweep.png")


def draw_networks(path, generator, mtd):
    """Both networks as rows of blocks: height by side, width by channels, kinds and shapes written at them."""
    with s.torch.no_grad():
        noise = s.latents(1, generator, 0)
        rows = {"Generator": blocks(generator, noise), "Multi-task discriminator": blocks(mtd, generator.eval()(noise))}
    figure, axes = s.pyplot().subplots(2, 1, figsize=(10.5, 5))
    for axis, (title, shapes) in zip(axes, rows.items()):
        draw_blocks(axis, shapes)
        axis.set_title(title, loc="left", fontweight="bold")
    figure.savefig(path)


def blocks(network, example):
    """[(kind, detail, output shape), ...] of a network's input, convolutions and linear layers in the order they run."""
    kinds = {"Conv2d": "conv", "ConvTranspose2d": "transposed conv", "SmoothConvTranspose2d": "transposed conv",
             "Linear": "linear"}
    shapes, hooks = [("input", "", tuple(example.shape[1:]))], []

    def note(layer, name, shape):
        detail = f"{layer.kernel_size[0]}x{layer.kernel_size[1]}, stride {layer.stride[0]}" if hasattr(layer, "stride") else ""
        head = "real or fake" if name == "real_fake" else "class head" if name.startswith(("embed", "classify")) else ""
        shapes.append((kinds[type(layer).__name__], "\n".join(filter(None, (detail, head))), tuple(shape[1:])))

    for name, layer in network.named_modules():
        if type(layer).__name__ in kinds:
            hooks.append(layer.register_forward_hook(lambda m, i, o, name=name: note(m, name, o.shape)))
    with s.evaluating(network):
        network(example)
    for hook in hooks:
        hook.remove()
    return shapes


def draw_blocks(axis, shapes):
    """Blocks from left to right, (C, S, S) as high as log S and as wide as log C; a vector (n,) as a map of side 1."""
    from matplotlib.patches import Rectangle
    x, colours = 0.0, {"linear": "tab:orange", "conv": "tab:blue", "transposed conv": "tab:green", "input": "0.7"}
    for kind, detail, shape in shapes:
        side = shape[-1] if len(shape) == 3 else 1
        height, width = 0.35 + 0.35 * np.log2(side + 1), 0.25 + 0.09 * np.log2(shape[0] + 1)
        axis.add_patch(Rectangle((x, -height / 2), width, height, facecolor=colours[kind], alpha=0.55, edgecolor="black"))
        axis.text(x + width / 2, height / 2 + 0.08, "x".join(map(str, shape)), ha="center", va="bottom", fontsize=9)
        axis.text(x + width / 2, -1.5, f"{kind}\n{detail}", ha="center", va="top", fontsize=8)
        x += width + 0.85
    axis.set(xlim=(-0.6, x - 0.3), ylim=(-2.6, 1.9), xticks=[], yticks=[], frame_on=False)


def draw_traces(path, panels, unit="iteration"):
    """Panels [(title, key, [(traces, label, start), ...]), ...]: raw values under moving averages; from a start below 0 only
    what lies before 0."""
    figure, axes = s.pyplot().subplots(math.ceil(len(panels) / 2), 2, figsize=(10, 2.9 * math.ceil(len(panels) / 2)))
    for axis, (title, key, curves) in zip(axes.flat, panels):
        for (traces, label, start), colour in zip(curves, ("tab:blue", "tab:red")):
            values = traces[key][start:].astype(np.float32)
            s.draw_trace(axis, values, colour, label, -len(values) if start else 0)
        axis.set(title=title, xlabel=unit)
        for line in axis.lines:  # tens of thousands of points are no good as vectors
            line.set_rasterized(True)
    figure.savefig(path, dpi=200)


def draw_samples(out, strips, weights, told):
    """Strips of samples over the epochs and grids of the DCGAN's, the MTD's and each class of the conditional generator's."""
    draw_strips(out / "epochs.png", {f"epoch {int(p.stem.split('_')[1])}": s.read_image(p) for p in sorted(strips.glob("*.png"))})
    for task in ("gan", "mtd"):
        generator = s.load_networks(weights / f"{task}.pt")[0]
        s.write_image(out / f"samples_{task}.png", s.tile(s.sample(generator, s.latents(48, generator, 0))))
    told, _, state = s.load_networks(told)
    labels = s.torch.arange(len(state["classes"])).repeat_interleave(8)
    s.write_image(out / "conditional.png", s.tile(s.sample(told, s.latents(len(labels), told, 0, labels))))


def draw_strips(path, rows):
    """{label: RGB image} below each other."""
    figure, axes = s.pyplot().subplots(len(rows), 1, figsize=(6, 0.78 * len(rows)), squeeze=False)
    for axis, (label, image) in zip(axes.flat, rows.items()):
        axis.imshow(image)
        axis.set(xticks=[], yticks=[], frame_on=False)
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=150)


def draw_weights(out, weights):
    """weights_{generator,discriminator}_{before,after}.png: the kernels as initialised from the run's seed, and as trained."""
    state = s.read_checkpoint(weights / "gan.pt", "gan")
    s.torch.manual_seed(state["config"]["seed"])
    for when, networks in (("before", s.build_models("gan", state["config"], len(state["classes"]))),
                           ("after", s.load_networks(weights / "gan.pt"))):
        for name, network in zip(("generator", "discriminator"), networks):
            s.plot_weights(network, out / f"weights_{name}_{when}.png", side_inches=2.1)


# ------------------------------------------------------------------- the file
def fingerprints(results, weights):
    """{file: SHA-1} of everything that the report is made from."""
    files = [ROOT / "Report.pdf", HERE / "build.py", *(HERE / name for name in TEXT),
             *(p for p in results.rglob("*") if p.is_file()), *weights.glob("*.pt")]
    return {p.relative_to(ROOT).as_posix(): hashlib.sha1(p.read_bytes()).hexdigest() for p in sorted(files)}


def build(results, weights, panels, about, out):
    """Figures, numbers.json, then the PDF; everything but that of the committed report lies beside `out`."""
    import typst
    committed = not about["real_panels"] and out.resolve() == ROOT / "Report.pdf"
    where = HERE if committed else out.resolve().parent / "report_source"
    benchmarks = HERE / "results" if about["borrowed_benchmarks"] else results
    told = (ROOT / "saved_models" if about["borrowed_benchmarks"] else weights) / "conditional.pt"
    figures(results, weights, panels, benchmarks, told, where / "figures")
    found = json.dumps({**numbers(results, weights, benchmarks), **about}, indent=1)
    (where / "numbers.json").write_text(found + "\n")
    if not committed:
        for name in TEXT:
            shutil.copy(HERE / name, where / name)
    typst.compile(str(where / "report.typ"), output=str(out))
    if committed:
        (HERE / "built_from.json").write_text(json.dumps(fingerprints(results, weights), indent=1) + "\n")
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def run(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", help="folder or zip; default: build from the committed results")
    parser.add_argument("--demo", action="store_true", help="train on the demo set and draw its panels anew, then build")
    parser.add_argument("--quick", action="store_true", help="with --data_path: no benchmarks, their committed results stand")
    parser.add_argument("--out", type=Path, help="default: Report.pdf, with --data_path results/report/Report.pdf")
    flags = parser.parse_args(arguments)
    if (flags.quick and not flags.data_path) or (flags.demo and flags.data_path):
        raise s.UsageError("--quick goes with --data_path, --demo without it")
    if not importlib.util.find_spec("typst"):
        raise s.UsageError("the package typst is not installed; pip install -r report/requirements.txt")
    results, weights, panels = HERE / "results", ROOT / "saved_models", HERE / "results/demo"
    if flags.demo:
        draw_demo(panels)
    elif flags.data_path:
        results = ROOT / "results/report"
        weights, panels = results / "weights", results / "panels"
        run_experiments(flags.data_path, results, flags.quick)
    out = flags.out or (results if flags.data_path else ROOT) / "Report.pdf"
    build(results, weights, panels, {"real_panels": bool(flags.data_path), "borrowed_benchmarks": flags.quick}, out)


def draw_demo(panels):
    """The panels that show cells, of networks trained on the demo set."""
    demo = ROOT / "results/report_demo"
    train("mtd", "", demo)
    train("mtd", "", demo / "short", "--epochs", 1)  # the long run leaves no wrong answer to show
    data = s.load_data(s.Config(results_dir=str(demo)))
    draw_panels(data, demo / "short/mtd/last.pt", panels, ("wrong",))
    draw_panels(data, demo / "mtd/best.pt", panels, ("right", "real_fake"))


if __name__ == "__main__":
    sys.exit(s.main(run, sys.argv[1:]))
