"""Two things that puzzle who meets a DCGAN: where .detach() goes, and transposed convolutions.

    python -m extras.explain --out DIR

gradients.txt, gradients.png    the training step of a DCGAN with a class head, one loss a row:
                                which parts of the networks get a gradient, with .detach() and
                                without it
transposed_*.png                a transposed convolution for each kernel, stride and padding: the
                                input, the input stretched by zeros, the kernel turned by half a
                                turn, the output, and its size worked out
"""

import sys
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import rollNumber_05 as malaria
from extras.drawing import figure
from extras.files import check_folder, save_text
from extras.flags import Parser
from extras.text import text_table

# The training step


class Step(NamedTuple):
    """A loss of the training step, and {part of a network: norm of its gradient, None: none}."""

    formula: str
    gradients: dict[str, float | None]
    meaning: str


def gradient_norm(loss, weights):
    """The norm of a loss's gradient in some weights, None if the loss does not depend on them."""
    trainable = [weight for weight in weights if weight.requires_grad]
    if not trainable:
        return None
    gradients = torch.autograd.grad(loss, trainable, retain_graph=True, allow_unused=True)
    norms = [gradient.norm() for gradient in gradients if gradient is not None]
    if not norms:
        return None
    return torch.stack(norms).norm().item()


class Players:
    """A small G and MTD of random weights, four real images with classes, and noise for four."""

    def __init__(self):
        torch.manual_seed(0)
        self.generator = malaria.Generator(image_size=32, width=16)
        self.mtd = malaria.MultiTaskDiscriminator(
            num_classes=4, image_size=32, width=16, head_width=16, dropout=0
        )
        self.real = torch.rand(4, 3, 32, 32) * 2 - 1
        self.classes = torch.arange(4)
        self.fake = self.generator(torch.randn(4, self.generator.latent_dim))

    def parts(self):
        """{name: its weights}."""
        mtd = self.mtd
        return {
            "G": list(self.generator.parameters()),
            "D's convolutions": list(mtd.features.parameters()),
            "real/fake head": list(mtd.real_fake.parameters()),
            "class head": [*mtd.embed.parameters(), *mtd.classify.parameters()],
        }

    def gradients(self, loss):
        """{part: gradient_norm of a loss in it}."""
        norms = {}
        for name, weights in self.parts().items():
            norms[name] = gradient_norm(loss, weights)
        return norms


def discriminator_steps(players):
    """The Steps of D's update."""
    real = players.mtd(players.real)
    fake = players.mtd(players.fake)
    fake_detached = players.mtd(players.fake.detach())
    loss = malaria.LOSSES["bce"].discriminator
    return [
        Step(
            "1. J(D), with G(z).detach()",
            players.gradients(loss(real.real_logits, fake_detached.real_logits)),
            "right: D learns; G gets nothing, and no time is spent on its layers",
        ),
        Step(
            "   J(D), with G(z)",
            players.gradients(loss(real.real_logits, fake.real_logits)),
            "G gets a gradient too: it says how to be told apart better, and costs time",
        ),
        Step(
            "2. J(C), the class of real images",
            players.gradients(malaria.single_label_loss(real.class_logits, players.classes)),
            "the class head and the shared convolutions learn; D's other head does not",
        ),
    ]


def generator_steps(players):
    """The Steps of G's update."""
    loss = malaria.LOSSES["bce"].generator
    fake = players.mtd(players.fake)
    fake_detached = players.mtd(players.fake.detach())
    attached = Step(
        "   J(G), with G(z), D not frozen",
        players.gradients(loss(fake.real_logits)),
        "G's is the same; D's would help G, so it must not be used, and costs time",
    )
    detached = Step(
        "   J(G), with G(z).detach()",
        players.gradients(loss(fake_detached.real_logits)),
        "wrong: G can never learn, for its layers are no part of this loss",
    )
    players.mtd.requires_grad_(False)
    fake_of_frozen = players.mtd(players.fake)
    frozen = Step(
        "3. J(G), with G(z), D frozen",
        players.gradients(loss(fake_of_frozen.real_logits)),
        "right: G learns through D; requires_grad_(False) spares D its own gradient",
    )
    return [frozen, attached, detached]


def training_steps():
    """The Steps of a whole training step in its order, each right one before its variants."""
    players = Players()
    return discriminator_steps(players) + generator_steps(players)


def norm_in_words(norm):
    """A norm as text; "none" is no gradient at all."""
    return "none" if norm is None else f"{norm:.3g}"


def row_colours(step):
    """The backgrounds of a Step's row in the picture."""
    arrives = []
    for norm in step.gradients.values():
        colour = "gainsboro" if norm is None else "palegreen"
        arrives.append(colour)
    return ["white", *arrives, "white"]


def step_table(steps):
    """Rows of text: a Step each, the norm of the gradient of each part."""
    rows = [["loss", *steps[0].gradients, "what it means"]]
    for step in steps:
        norms = map(norm_in_words, step.gradients.values())
        rows.append([step.formula, *norms, step.meaning])
    return rows


def draw_steps(path, steps):
    """The table of the Steps as a picture: green where a gradient arrives, grey where none does."""
    head, *rows = step_table(steps)
    with figure(path, size=(13, 2.6)) as (_, axes):
        axis = axes[0, 0]
        axis.axis("off")
        axis.set_title("norm of the gradient of each loss in each part of the networks")
        table = axis.table(
            rows,
            cellColours=[row_colours(step) for step in steps],
            colLabels=head,
            colWidths=[0.2, 0.07, 0.11, 0.1, 0.08, 0.44],
            cellLoc="left",
            loc="upper center",
        )
        table.auto_set_font_size(False)
        table.set_fontsize(9)
        table.scale(1, 1.6)


# Transposed convolution


class Setting(NamedTuple):
    """A transposed convolution of a square input with one channel; padding below the kernel."""

    side: int
    kernel: int
    stride: int
    padding: int
    why: str

    @property
    def output_side(self):
        """The side of the output: o = (i - 1)*s - 2*p + k."""
        return (self.side - 1) * self.stride - 2 * self.padding + self.kernel

    @property
    def border(self):
        """Zeros around the stretched input, k - 1 - p on each side."""
        return self.kernel - 1 - self.padding

    @property
    def file_name(self):
        """Of the picture."""
        return f"transposed_i{self.side}_k{self.kernel}_s{self.stride}_p{self.padding}.png"

    @property
    def formula(self):
        """The size of the output, worked out."""
        worked_out = f"({self.side} - 1)*{self.stride} - 2*{self.padding} + {self.kernel}"
        return f"(i - 1)*s - 2*p + k = {worked_out} = {self.output_side}"


SETTINGS = (
    Setting(2, 2, 1, 0, "the least of all"),
    Setting(2, 3, 1, 0, "a larger kernel: a wider border of zeros"),
    Setting(3, 3, 1, 1, "padding 1 takes a row off each side of the output"),
    Setting(2, 2, 2, 0, "stride 2, windows that do not overlap: every pixel becomes a tile"),
    Setting(2, 3, 2, 0, "stride 2, a kernel it does not divide: uneven overlap, a checkerboard"),
    Setting(3, 3, 2, 1, "the side becomes 2i - 1"),
    Setting(1, 4, 1, 0, "the paper's start: one pixel becomes 4x4; here a linear layer does it"),
    Setting(2, 4, 2, 1, "the DCGAN's upsampling: the side doubles"),
    Setting(4, 3, 2, 1, "from 4x4 to 7x7, for images of 28x28"),
)


def example(setting):
    """Input (i, i) of 1, 2, ... and kernel (k, k) of 1, 2, ..., as floats."""
    numbers = torch.arange(1, setting.side**2 + 1).float()
    weights = torch.arange(1, setting.kernel**2 + 1).float()
    return numbers.view(setting.side, -1), weights.view(setting.kernel, -1)


def stretch(pixels, setting):
    """Input (i, i) with s - 1 zeros between its pixels and k - 1 - p around."""
    side = (setting.side - 1) * setting.stride + 1
    stretched = torch.zeros(side, side)
    stretched[:: setting.stride, :: setting.stride] = pixels
    return F.pad(stretched, [setting.border] * 4)


def convolve(pixels, kernel):
    """The plain convolution of (h, w) with (k, k), stride 1, no padding."""
    return F.conv2d(pixels[None, None], kernel[None, None])[0, 0]


class WorkedOut(NamedTuple):
    """All stages of a transposed convolution; the output is of torch's own function."""

    pixels: Tensor
    stretched: Tensor
    turned_kernel: Tensor
    output: Tensor


def work_out(setting):
    """The stages of a Setting.

    The plain convolution of `stretched` with `turned_kernel` is the output, too (Dumoulin and Visin
    2016, sec. 4).
    """
    pixels, kernel = example(setting)
    output = F.conv_transpose2d(
        pixels[None, None], kernel[None, None], stride=setting.stride, padding=setting.padding
    )
    return WorkedOut(pixels, stretch(pixels, setting), kernel.rot90(2), output[0, 0])


def sum_in_words(stages, row, column):
    """How one output pixel comes about: '1*4 + 2*3 = 10', without what is zero."""
    side = len(stages.turned_kernel)
    window = stages.stretched[row : row + side, column : column + side]
    terms = []
    for pixel, weight in zip(window.flatten(), stages.turned_kernel.flatten(), strict=True):
        if pixel != 0:
            terms.append(f"{pixel:.0f}*{weight:.0f}")
    return f"{' + '.join(terms)} = {stages.output[row, column]:.0f}"


def draw_numbers(axis, values, title, is_filled):
    """Numbers (h, w) in squares; those with a 1 in is_filled (h, w) are blue."""
    rows, columns = values.shape
    axis.imshow(is_filled.numpy(), cmap="Blues", vmin=0, vmax=2.5)
    for row in range(rows):
        for column in range(columns):
            axis.text(column, row, f"{values[row, column]:.0f}", ha="center", va="center")
    axis.set_xticks([edge - 0.5 for edge in range(1, columns)], minor=True)
    axis.set_yticks([edge - 0.5 for edge in range(1, rows)], minor=True)
    axis.grid(which="minor", color="grey", linewidth=0.5)
    axis.tick_params(which="both", length=0)
    axis.set(title=title, xticks=[], yticks=[])


def mark(axis, row, column, side):
    """A red frame around a square window."""
    from matplotlib.patches import Rectangle

    corner = (column - 0.5, row - 0.5)
    frame = Rectangle(corner, side, side, fill=False, edgecolor="red", linewidth=2, clip_on=False)
    axis.add_patch(frame)


def draw_stages(axes, setting, stages):
    """The input, the stretched input, the turned kernel and the output on four axes."""
    draw_numbers(
        axes[0], stages.pixels, f"input\ni = {setting.side}", torch.ones_like(stages.pixels)
    )
    draw_numbers(
        axes[1],
        stages.stretched,
        f"stretched by zeros:\n{setting.stride - 1} between, {setting.border} around",
        stretch(torch.ones_like(stages.pixels), setting),
    )
    draw_numbers(
        axes[2],
        stages.turned_kernel,
        f"kernel, turned\nk = {setting.kernel}",
        torch.zeros_like(stages.turned_kernel),
    )
    draw_numbers(
        axes[3],
        stages.output,
        f"output\no = {setting.output_side}",
        torch.zeros_like(stages.output),
    )


def draw_setting(path, setting):
    """One transposed convolution as a picture of its four stages, one output pixel worked out."""
    stages = work_out(setting)
    sides = [len(stage) for stage in stages]
    width = max(9, 0.42 * sum(sides) + 3)
    height = 0.42 * max(sides) + 1.7
    with figure(path, 1, 4, size=(width, height), width_ratios=sides) as (picture, axes):
        draw_stages(axes[0], setting, stages)
        middle = (setting.output_side - 1) // 2
        mark(axes[0, 1], middle, middle, setting.kernel)
        mark(axes[0, 2], 0, 0, setting.kernel)
        mark(axes[0, 3], middle, middle, 1)
        sizes = f"kernel {setting.kernel}, stride {setting.stride}, padding {setting.padding}"
        picture.suptitle(f"{sizes}: {setting.why}\no = {setting.formula}")
        picture.supxlabel(f"in red: {sum_in_words(stages, middle, middle)}", fontsize=9)


def make_parser():
    """The parser of the command line."""
    parser = Parser(__doc__)
    default = Path("results/explain")
    parser.add_argument("--out", type=Path, default=default, help="folder (default: %(default)s)")
    return parser


def run(arguments):
    """Do what a command line says."""
    flags = make_parser().parse_args(arguments)
    check_folder("--out", flags.out)
    steps = training_steps()
    table = text_table(step_table(steps))
    print(table)
    save_text(f"{table}\n", flags.out / "gradients.txt")
    draw_steps(flags.out / "gradients.png", steps)
    for setting in SETTINGS:
        draw_setting(flags.out / setting.file_name, setting)
    print(f"{len(SETTINGS)} transposed convolutions and the gradients in {flags.out}")


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
