"""`torch.nn.Conv2d` on integers: each output is a row of int8_kernel.py's product, over the patch that it sees."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from int8_kernel import QuantizedLinear, quantized_linear
from quantization import quantize

__all__ = ["QuantizedConv2d"]


class QuantizedConv2d(nn.Module):
    """`torch.nn.Conv2d` (zero padding) with int8 weights.

    Options as in `int8_kernel.QuantizedLinear`, except that "dynamic" finds one range per image, padding included, and
    that without `per_channel` each group has a scale of its own. Input (batch, in, height, width) float, output float32;
    ValueError for another shape, or an image that is smaller than the kernel. Its state_dict restores it; a layer that a
    state_dict was loaded into computes with it at once. ValueError, whose message contains "padding", for padding that is
    not zeros or a number.

    The padding is the number 0. Its integer is the zero point, and not 0.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        *,
        mode: str = "dynamic",
        input_range: tuple[Tensor | float, Tensor | float] | None = None,
        per_channel: bool = True,
        reduce_range: bool = False,
    ) -> None:
        super().__init__()
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(f"numeric zero padding is needed, got {conv.padding!r}, {conv.padding_mode!r}")
        self.in_channels = conv.in_channels
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups
        self.products = nn.ModuleList()  # one linear layer per group
        filters = conv.weight.detach().permute(0, 2, 3, 1).flatten(1)  # in the order of `_patches`
        bias = None if conv.bias is None else conv.bias.detach().chunk(self.groups)
        for g, rows in enumerate(filters.chunk(self.groups)):
            linear = nn.utils.skip_init(nn.Linear, rows.shape[1], len(rows))
            linear.weight = nn.Parameter(rows)
            linear.bias = None if bias is None else nn.Parameter(bias[g])
            product = QuantizedLinear(
                linear,
                mode=mode,
                input_range=input_range,
                per_channel=per_channel,
                reduce_range=reduce_range,
            )
            self.products.append(product)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution."""
        groups: list[QuantizedLinear] = list(self.products)  # type: ignore[arg-type]
        self._check(x, groups[0].weight_scale.dtype)
        if groups[0].mode == "weight_only":
            return self._float(x.float(), groups)
        x = F.pad(x.detach().float(), (self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
        scale, zero_point = groups[0].input_qparams(x.flatten(1))
        if scale.ndim:  # one per image
            scale, zero_point = scale[..., None, None], zero_point[..., None, None]
        patches = self._patches(quantize(x, scale, zero_point, n_bits=groups[0].n_bits))
        if scale.ndim:  # one per patch of it
            scale, zero_point = (p.expand(*patches.shape[:3], 1) for p in (scale, zero_point))
        outputs = [
            quantized_linear(patches[:, :, :, g], scale, zero_point, p.weight, p.weight_scale, p.bias)
            for g, p in enumerate(groups)
        ]
        return torch.cat(outputs, dim=-1).permute(0, 3, 1, 2)

    def _check(self, x: Tensor, dtype: torch.dtype) -> None:
        """Refuse an input of another shape, and scales that are not float32 any more."""
        if dtype != torch.float32:
            raise TypeError(f"scales must stay float32, got {dtype}: quantize the float network again")
        geometry = zip(self.kernel_size, self.dilation, self.padding, strict=True)
        height, width = (d * (k - 1) + 1 - 2 * p for k, d, p in geometry)
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.shape[2] < height or x.shape[3] < width:
            least = f"(batch, {self.in_channels}, {height} or more, {width} or more)"
            raise ValueError(f"x must be {least}, got shape {tuple(x.shape)}")

    def _float(self, x: Tensor, groups: list[QuantizedLinear]) -> Tensor:
        """Apply the filters as floats."""
        rows = torch.cat([p.weight * p.weight_scale[:, None] for p in groups])
        filters = rows.reshape(len(rows), *self.kernel_size, -1).permute(0, 3, 1, 2)
        biases: list[Tensor] = [p.bias for p in groups if p.bias is not None]
        bias = torch.cat(biases) if biases else None
        return F.conv2d(x, filters, bias, self.stride, self.padding, self.dilation, self.groups)

    def _patches(self, q: Tensor) -> Tensor:
        """Collect what each output sees: (batch, out height, out width, groups, kernel · channels per group)."""
        q = q.permute(0, 2, 3, 1).contiguous()
        batch, height, width, channels = q.shape
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        out_h, out_w = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
        row, col, per_group = width * channels, channels, channels // self.groups
        return q.as_strided(
            (batch, out_h, out_w, self.groups, kh, kw, per_group),
            (height * row, sh * row, sw * col, per_group, dh * row, dw * col, 1),
        ).reshape(batch, out_h, out_w, self.groups, kh * kw * per_group)
