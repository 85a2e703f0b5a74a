"""What a map gets and what its outputs are worth, against autograd and unrolled convolutions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kronfx.compress.calibration import Fisher, observe
from kronfx.compress.maps import Map
from kronfx.compress.moments import patches
from kronfx.layers import Convolution
from kronfx.records import KroneckerShape, Site


@given(
    dims=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.sampled_from([0, 1, "same", "valid"]),
    dilation=st.integers(1, 2),
)
def test_patches_times_the_unrolled_kernel_is_the_convolution(
    dims: int, kernel: int, stride: int, padding: int | str, dilation: int
) -> None:
    stride = 1 if padding == "same" else stride
    kernel = kernel | 1 if padding == "same" else kernel  # of even ones torch pads a copy, and warns
    convolution = Convolution.of((kernel,) * dims, stride, padding, dilation)
    x, weight = torch.randn(2, 3, *(7, 6, 5)[:dims]), torch.randn(4, 3, *(kernel,) * dims)
    y = patches(x, convolution) @ weight.flatten(1).mT
    wanted = convolution(x, weight).movedim(1, -1).reshape(-1, 4)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_moments_are_those_of_inputs_and_gradients(padded: bool) -> None:
    torch.manual_seed(0)
    layer, head = nn.Linear(5, 7 if padded else 6), nn.Linear(7 if padded else 6, 2)
    model = nn.Sequential(layer, nn.Tanh(), head)
    grid = KroneckerShape(3 if not padded else 4, 5, 2, 1)
    subject = Map(Site("0", "Linear", layer.out_features, 5), layer, "weight", grid)
    batches = [torch.randn(3, 4, 5), torch.randn(6, 5)]
    gradients = []

    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        hidden = model[0](x)
        hidden.register_hook(lambda g: gradients.append(g.flatten(0, -2)))
        return model[2](model[1](hidden)).square().mean()

    (record,) = observe(model, [subject], batches, Fisher(loss, 0))
    X, g = torch.cat([x.flatten(0, -2) for x in batches]).double(), torch.cat(gradients).double()
    (moments,) = record.moments
    torch.testing.assert_close(moments.second(False), X.mT @ X / len(X), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.second(True), torch.cov(X.mT, correction=0), rtol=1e-5, atol=1e-6)
    full = torch.block_diag(g.mT @ g, torch.zeros(grid.m - g.shape[1], grid.m - g.shape[1]))
    for p in range(grid.m1):
        torch.testing.assert_close(moments.gg[p], full[2 * p : 2 * p + 2, 2 * p : 2 * p + 2], rtol=1e-5, atol=1e-9)
    assert record.bias is layer.bias
    assert moments.rows == len(X)
