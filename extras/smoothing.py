"""A transposed convolution whose images have no checkerboards."""

import torch
import torch.nn.functional as F
from torch import nn


class Smoothing(torch.autograd.Function):
    """A filter on each channel, edges repeated.

    Its matrix is symmetric as its kernel is, so that its gradient is the same filter; autograd's
    own, through the padding, takes longer.
    """

    @staticmethod
    def forward(context, maps, kernel):
        """Maps (B, C, H, W) and a kernel (C, 1, 3, 3) -> maps of the same size."""
        context.save_for_backward(kernel)
        with torch.autocast(maps.device.type, enabled=False):  # it would pad in float32
            padded = F.pad(maps, (1, 1, 1, 1), "replicate")
            return F.conv2d(padded, kernel.to(maps.dtype), groups=len(kernel))

    @staticmethod
    def backward(context, gradients):
        """The gradient of the maps; the kernel has none."""
        [kernel] = context.saved_tensors
        return Smoothing.apply(gradients, kernel), None


class SmoothConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution, then the fixed filter (1 2 1)/4 along both sides.

    It takes out the checkerboard that a stride of 2 leaves (Odena et al. 2016, "Deconvolution and
    checkerboard artifacts"; Karras et al. 2019, app. C). Edges are repeated.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # On the CPU even inside torch.device("meta"): no checkpoint brings these numbers.
        line = torch.tensor([1.0, 2.0, 1.0], device="cpu") / 4
        kernel = line.outer(line).repeat(self.out_channels, 1, 1, 1)
        self.register_buffer("kernel", kernel, persistent=False)  # the same in every network

    def forward(self, maps):
        """(B, c_in, h, w) -> (B, c_out, H, W)."""
        return Smoothing.apply(super().forward(maps), self.kernel)
