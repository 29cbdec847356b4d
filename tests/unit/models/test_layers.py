"""Deformable convolution against a loop over pixels that knows nothing of grid sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgemtl.models.layers import ContextConv, ConvNormAct, DeformableConv2d, deform_conv2d_portable


def bilinear(plane: np.ndarray, y: float, x: float) -> float:
    """Value between the four pixels around; what lies outside the plane is zero."""
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * float(plane[row, column])
    return total


def naive(x, offset, mask, weight, bias, padding):  # type: ignore[no-untyped-def]
    """DCNv2 as its definition reads, one output value at a time."""
    batch, channels, height, width = x.shape
    kernel = weight.shape[2]
    out = np.zeros((batch, weight.shape[0], height, width))
    for b, o, i, j in np.ndindex(*out.shape):
        total = float(bias[o])
        for k in range(kernel * kernel):
            y = i + k // kernel - padding + offset[b, 2 * k, i, j]
            z = j + k % kernel - padding + offset[b, 2 * k + 1, i, j]
            for c in range(channels):
                sample = bilinear(x[b, c], float(y), float(z))
                total += weight[o, c, k // kernel, k % kernel] * mask[b, k, i, j] * sample
        out[b, o, i, j] = total
    return out


@pytest.mark.parametrize("size", [(5, 6), (1, 1), (1, 4), (3, 1)])
@pytest.mark.parametrize("reach", [0.0, 0.7, 4.0])
def test_portable_form_is_the_definition(size: tuple[int, int], reach: float) -> None:
    """Offsets up to several pixels, so that samples leave the picture on every side."""
    rng = np.random.default_rng(int(reach * 10) + size[0])
    x = rng.normal(size=(2, 3, *size))
    offset = rng.uniform(-reach, reach, (2, 18, *size))
    mask = rng.uniform(0, 1, (2, 9, *size))
    weight, bias = rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    tensors = [torch.from_numpy(v) for v in (x, offset, mask, weight, bias)]
    found = deform_conv2d_portable(*tensors, padding=1).numpy()
    np.testing.assert_allclose(found, naive(x, offset, mask, weight, bias, 1), atol=1e-9)


def test_five_taps_a_side() -> None:
    rng = np.random.default_rng(5)
    x, offset = rng.normal(size=(1, 2, 4, 5)), rng.uniform(-2, 2, (1, 50, 4, 5))
    mask, weight = rng.uniform(0, 1, (1, 25, 4, 5)), rng.normal(size=(3, 2, 5, 5))
    bias = rng.normal(size=3)
    tensors = [torch.from_numpy(v) for v in (x, offset, mask, weight, bias)]
    found = deform_conv2d_portable(*tensors, padding=2).numpy()
    np.testing.assert_allclose(found, naive(x, offset, mask, weight, bias, 2), atol=1e-9)


def test_without_offsets_it_is_an_ordinary_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=generator) for s in ((2, 3, 8, 9), (4, 3, 3, 3)))
    bias = torch.randn(4, generator=generator)
    zero, ones = torch.zeros(2, 18, 8, 9), torch.ones(2, 9, 8, 9)
    found = deform_conv2d_portable(x, zero, ones, weight, bias, 1)
    torch.testing.assert_close(found, F.conv2d(x, weight, bias, padding=1), atol=1e-4, rtol=1e-4)


def test_a_fresh_layer_is_an_ordinary_convolution_at_half_strength() -> None:
    torch.manual_seed(0)
    layer = DeformableConv2d(3, 4)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 8, 9)
    wanted = F.conv2d(x, layer.weight * 0.5, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-4)


def test_the_native_lowering_computes_the_same() -> None:
    torch.manual_seed(1)
    layer = DeformableConv2d(3, 4).eval()
    torch.nn.init.normal_(layer.offset_mask.weight, std=0.2)
    x = torch.randn(2, 3, 8, 9)
    with torch.inference_mode():
        portable = layer(x)
        layer.lowering = "native"
        torch.testing.assert_close(layer(x), portable)


def test_gradients_reach_offsets_and_weights() -> None:
    torch.manual_seed(2)
    layer = DeformableConv2d(3, 4)
    torch.nn.init.normal_(layer.offset_mask.weight, std=0.2)
    layer(torch.randn(1, 3, 6, 7)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", ["deformable", "plain"])
def test_both_context_kinds_have_one_shape(kind) -> None:  # type: ignore[no-untyped-def]
    layer = ContextConv(3, 4, kind).eval()
    assert layer(torch.zeros(2, 3, 7, 5)).shape == (2, 4, 7, 5)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2)])
def test_convolutions_divide_sizes_rounding_up(kernel: int, stride: int) -> None:
    out = ConvNormAct(3, 4, kernel, stride).eval()(torch.zeros(1, 3, 7, 10))
    assert out.shape == (1, 4, math.ceil(7 / stride), math.ceil(10 / stride))
