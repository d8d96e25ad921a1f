"""What processes tell each other arrives in the order of their ranks, whatever each of them has."""

import os

import pytest
import torch
import torch.distributed as dist

import tiny_group
from trimtab.common import collectives
from trimtab.common.errors import UserError
from trimtab.core import IGNORE
from trimtab.train.layout import of_all


class Wrong(UserError):
    """A mistake that only the second process sees."""


def told() -> dict:
    dist.init_process_group("gloo")
    rank, found = collectives.rank(), {}
    own = torch.arange(4.0)[: 3 * rank, None] + 10 * rank  # the first one has nothing
    found["entries"] = collectives.gathered(own).tolist()
    found["marks"] = collectives.gathered(torch.tensor([True, False][: 2 - rank])).tolist()
    found["objects"] = collectives.objects("second" if rank else None)
    collectives.add_up(sums := [torch.tensor([1.0, rank]), torch.tensor(2)])
    found["sums"] = [one.tolist() for one in sums]
    labels = torch.tensor([[IGNORE, 5, 6]]) if rank else torch.tensor([[IGNORE, 7]])
    rows = of_all({"labels": labels, "attention_mask": torch.ones_like(labels), "row_id": torch.tensor([rank])})
    found["rows"] = {key: value.tolist() for key, value in rows.items()}
    for what in ("nothing", "second"):
        try:
            with collectives.all_or_none():
                if what == "second" and rank:
                    raise Wrong("row 3 is empty\nand more")
        except UserError as error:
            found[what] = f"{type(error).__name__}: {error}"
    found["size"], found["rank"] = collectives.size(), int(os.environ["RANK"])
    return found


def test_two_processes_know_the_same(tmp_path):
    first, second = tiny_group.in_group(tmp_path, told)
    assert (first.pop("rank"), second.pop("rank")) == (0, 1)
    assert first.pop("second") == "OtherProcessFailed: process 1 failed: row 3 is empty"
    assert second.pop("second") == "Wrong: row 3 is empty\nand more"
    wanted = {
        "entries": [[10.0], [11.0], [12.0]],
        "marks": [True, False, True],
        "objects": [None, "second"],
        "sums": [[2.0, 1.0], 4],
        "rows": {
            "labels": [[IGNORE, 7, IGNORE], [IGNORE, 5, 6]],
            "attention_mask": [[1, 1, 0], [1, 1, 1]],
            "row_id": [0, 1],
        },
        "size": 2,
    }
    assert first == second == wanted


def test_one_process_sends_nothing_and_fails_as_it_would():
    value = torch.arange(3)
    assert collectives.gathered(value) is value
    assert collectives.objects(value) == [value]
    assert (collectives.size(), collectives.rank()) == (1, 0)
    with pytest.raises(ZeroDivisionError), collectives.all_or_none():
        raise ZeroDivisionError
