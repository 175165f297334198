"""A move that makes every parameter a new object, which "meta" does as "xla" does."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from notebook_accel.backends.moving import Moves, left_behind, torn
from notebook_accel.errors import ConfigError

META = torch.device("meta")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 2)
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.head = nn.Linear(2, 4, bias=False)
        self.head.weight = self.embedding.weight
        self.blocks[1].weight = self.blocks[0].weight


def test_ties_and_the_optimizer_are_kept():
    model, moves = Tied(), Moves()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    count = len(list(model.parameters()))
    moves.move(model, META)
    moves.follow(optimizer)
    assert model.head.weight is model.embedding.weight
    assert model.blocks[0].weight is model.blocks[1].weight
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert [*map(id, optimizer.param_groups[0]["params"])] == [*map(id, model.parameters())]
    assert len(list(model.parameters())) == count


class LikeGpt(Tied):
    """A model that says of itself what it ties, as those of Transformers do."""

    config = types.SimpleNamespace(tie_word_embeddings=True)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_a_tie_that_was_lost_in_a_move_by_hand_is_named():
    model = nn.Sequential(LikeGpt())
    assert torn(model) == []
    model.to(META)
    assert torn(model) == ["0.embedding.weight and 0.head.weight"]
    model[0].head.weight = model[0].embedding.weight
    assert torn(model) == torn(Tied().to(META)) == []


def test_parameters_that_cannot_be_swapped_are_replaced():
    model, moves = Tied(), Moves()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    loss = sum(parameter.sum() for parameter in model.parameters())  # its graph holds the parameters
    loss.backward(retain_graph=True)
    optimizer.step()
    old = model.head.weight
    moves.move(model, META)
    moves.follow(optimizer)
    assert model.head.weight is model.embedding.weight
    assert [*map(id, optimizer.param_groups[0]["params"])] == [*map(id, model.parameters())]
    state = optimizer.state[model.head.weight]
    assert state["exp_avg"].device.type == "meta"
    assert state["step"].device.type == "cpu"
    assert old is model.head.weight or old not in optimizer.state


def test_a_tie_that_cannot_be_kept_is_named():
    class Stubborn(Tied):
        def _apply(self, *args, **kwargs):
            super()._apply(*args, **kwargs)
            self.head = nn.Linear(2, 4, bias=False)
            self.head.register_parameter("weight", nn.Parameter(torch.ones(4, 2)))
            return self

        def get_submodule(self, target: str) -> nn.Module:
            return nn.Linear(1, 1) if target == "head" else super().get_submodule(target)

    with pytest.raises(ConfigError, match="embedding.weight and head.weight"):
        Moves().move(Stubborn(), META)


def test_what_was_left_behind_is_named():
    model = nn.Linear(2, 1)
    assert left_behind(torch.optim.SGD(model.parameters(), lr=0.1), torch.device("cpu")) == []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert left_behind(optimizer, META) == ["group 0, parameter 0 (1, 2)", "group 0, parameter 1 (1,)"]
    named = torch.optim.SGD(model.named_parameters(), lr=0.1)
    assert left_behind(named, META) == ["weight (1, 2)", "bias (1,)"]


def test_the_setting_of_torch_is_left_as_it_was():
    Moves().move(nn.Linear(1, 1), META)
    assert not torch.__future__.get_swap_module_params_on_conversion()
