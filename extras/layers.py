"""The layers of a network as a table: kind, shape, parameters, the size formula worked out."""

import torch
from torch import nn

from extras.text import text_table


def size_formula(layer, side):
    """How the side of a convolution's output follows from that of its input, worked out."""
    kernel = layer.kernel_size[0]
    stride = layer.stride[0]
    padding = layer.padding[0]
    if isinstance(layer, nn.ConvTranspose2d):
        result = (side - 1) * stride - 2 * padding + kernel
        worked_out = f"({side} - 1)*{stride} - 2*{padding} + {kernel}"
        return f"(i - 1)*s - 2*p + k = {worked_out} = {result}"
    result = (side + 2 * padding - kernel) // stride + 1
    worked_out = f"({side} + 2*{padding} - {kernel})/{stride} + 1"
    return f"(i + 2*p - k)/s + 1 = {worked_out} = {result}"


@torch.no_grad()
def trace_layers(network, *inputs):
    """[(name, layer, input shape, output shape)] of the leaf layers in the order they run.

    inputs: those of the network, of batch 1; shapes are without the batch.
    """
    names = {layer: name for name, layer in network.named_modules()}
    seen = []

    def note(layer, layer_inputs, output):
        if not list(layer.children()):
            seen.append((names[layer], layer, layer_inputs[0].shape[1:], output.shape[1:]))

    with nn.modules.module.register_module_forward_hook(note):
        network(*inputs)
    return seen


def layer_table(network, *inputs):
    """Rows of text, the first the head: layer, kind, output, parameters, output side."""
    rows = [("layer", "kind", "output", "parameters", "output side")]
    for name, layer, input_shape, output_shape in trace_layers(network, *inputs):
        parameters = sum(parameter.numel() for parameter in layer.parameters())
        formula = size_formula(layer, input_shape[-1]) if hasattr(layer, "stride") else ""
        shape = "x".join(map(str, output_shape))
        rows.append((name, type(layer).__name__, shape, f"{parameters:,}", formula))
    return rows


def describe_all(generator, discriminator, mtd, config):
    """A generator, a discriminator and an MTD of a config, described below each other.

    They are left in eval mode.
    """
    noise = torch.zeros(1, config.latent_dim)
    image = torch.zeros(1, config.channels, config.image_size, config.image_size)
    label = torch.zeros(1, dtype=torch.int64)  # of a conditional generator; others need none
    texts = []
    for network, *inputs in ((generator, noise, label), (discriminator, image), (mtd, image)):
        texts.append(describe(network.eval(), *inputs) + "\n")
    return "\n".join(texts)


def describe(network, *inputs):
    """A network's name, its number of parameters and its layer_table, as text."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    table = text_table(layer_table(network, *inputs))
    return f"{type(network).__name__}: {parameters:,} parameters\n{table}"
