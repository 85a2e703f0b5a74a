"""Weights of a dense model as groups: layers, convolutions, weights that are shared, wishes that do not fit."""

from __future__ import annotations

import pytest
import torch
from models import lenet5, mlp
from torch import nn

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train import Blocks, ElasticGroupLasso, Entries, GroupLasso, Lasso, MagnitudePruning, Rows


def test_a_convolution_is_cut_as_the_map_of_its_patches() -> None:
    torch.manual_seed(0)
    model = lenet5()
    pruning = MagnitudePruning(model, {"0": Rows(), "3": Blocks(4, 25), "fc*": Entries(), "fc3": Blocks(2, 2)}, 0.3)
    assert {name: groups for name, (_, groups) in pruning.layers().items()} == {
        "0": 6,
        "3": 24,  # 4 x 6 tiles of 4 filters by one channel of 25 taps
        "fc1": 48000,
        "fc2": 10080,
        "fc3": 210,
    }


def test_a_shared_weight_counts_once_and_a_factored_layer_not_at_all() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, layer, nn.Linear(4, 4))
    assert list(GroupLasso(model, Blocks(2, 2)).layers()) == ["0", "2"]
    mixed = kx.factorize(mlp(16, 16, 16), include="0", rank=1, block=(4, 4))
    assert list(GroupLasso(mixed, Blocks(2, 2)).layers()) == ["2"]


def test_bad_input_is_told_what_to_do() -> None:
    model = mlp(16, 24, 8)
    with pytest.raises(TrainError, match=r"0 \(24x16\): blocks of 5x2 in a weight of 24x16; .* give each layer"):
        GroupLasso(model, Blocks(5, 2))
    with pytest.raises(TrainError, match="groups names 'fc'; needed what it can act on: 0, 2; name one"):
        GroupLasso(model, {"fc": Rows()})
    with pytest.raises(TrainError, match=r"no nn.Linear in the model"):
        GroupLasso(nn.Conv2d(3, 3, 3), Rows())
    with pytest.raises(TrainError, match="ridge=-1"):
        ElasticGroupLasso(model, Rows(), ridge=-1)
    with pytest.raises(TrainError, match="share is 1 at step 0; needed a share below 1"):
        MagnitudePruning(model, Entries(), 1.0)
    for groups in (None, "rows", Rows, (2, 2), {"0": None}):
        with pytest.raises(TrainError, match=r"groups=.*; needed a value such as Blocks\(2, 2\)"):
            GroupLasso(model, groups)
    for shape in ((2.0, 2), ("2", 2), (None, 2), (True, 2)):
        with pytest.raises(TrainError, match=r"0 \(24x16\): blocks of .*; needed an m2 that divides m"):
            MagnitudePruning(model, Blocks(*shape), 0.5)
    with pytest.raises(TrainError, match="shrinkage=.*; needed a value such as Lasso"):
        GroupLasso(model, Rows(), shrinkage=Lasso)
    with pytest.raises(TrainError, match="ridge='1'"):
        ElasticGroupLasso(model, Rows(), ridge="1")
    with pytest.raises(TrainError, match=r"weight \(4x4\): a tensor on the meta device; needed values"):
        GroupLasso(nn.Linear(4, 4, device="meta"), Rows())
    with pytest.raises(TrainError, match="where the model belongs"):
        GroupLasso([nn.Linear(2, 2)], Rows())
