from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from types import MappingProxyType

import torch
from torch.nn.utils.rnn import pack_sequence

from notebook_accel.core.tree import leaves, map_tree, move

Pair = namedtuple("Pair", ["first", "second"])  # noqa: PYI024 - the untyped kind is what users have
META = torch.device("meta")


def test_containers_keep_their_types():
    grouped = defaultdict(list, {"a": [1]})
    data = {"pair": Pair(1, (2, [3])), "ordered": OrderedDict(b=4), "grouped": grouped, "user": UserDict({"c": 5})}
    mapped = map_tree(lambda leaf: leaf * 10, data)
    assert mapped == {"pair": Pair(10, (20, [30])), "ordered": {"b": 40}, "grouped": {"a": [10]}, "user": {"c": 50}}
    assert [type(value) for value in mapped.values()] == [Pair, OrderedDict, defaultdict, UserDict]
    assert mapped["grouped"].default_factory is list
    assert data["pair"] == Pair(1, (2, [3])), "the original was changed"
    assert grouped == {"a": [1]}


def test_torchs_return_types_and_read_only_mappings_are_containers():
    extreme = torch.max(torch.tensor([[1.0, 3.0]]), dim=1)
    mapped = map_tree(lambda leaf: leaf + 1, extreme)
    assert type(mapped) is type(extreme)
    assert mapped.values.item() == 4
    assert map_tree(str, MappingProxyType({"a": 1})) == {"a": "1"}


def test_text_is_a_leaf():
    assert map_tree(len, ["four", {"k": "xy"}]) == [4, {"k": 2}]


def test_leaves_come_with_their_paths():
    assert list(leaves({"x": (1, Pair(2, 3))}, "data")) == [
        ("data['x'][0]", 1),
        ("data['x'][1][0]", 2),
        ("data['x'][1][1]", 3),
    ]


def test_move_reaches_every_tensor_and_leaves_the_rest():
    moved = move({"pair": Pair(torch.ones(1), "text"), "list": [torch.ones(2), None, 3]}, META)
    assert moved["pair"].first.device == META
    assert moved["list"][0].device == META
    assert (moved["pair"].second, moved["list"][1:]) == ("text", [None, 3])


def test_move_leaves_a_tensor_that_is_there():
    tensor = torch.ones(1)
    assert move(tensor, torch.device("cpu")) is tensor


def test_objects_move_themselves():
    class Encoding(UserDict):
        def to(self, device: torch.device) -> Encoding:
            return Encoding({**self, "moved": device})

    assert move([Encoding({"ids": 1})], META)[0]["moved"] == META
    packed = pack_sequence([torch.ones(2), torch.ones(1)])
    assert torch.equal(move(packed, torch.device("cpu")).batch_sizes, packed.batch_sizes)
