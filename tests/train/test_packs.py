"""Packed training: every row once an epoch, the same updates as unpacked, and a resume that repeats nothing."""

from collections import Counter

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

import tiny
from tiny_training import dataset, trainer
from trimtab import methods
from trimtab.core import Plan
from trimtab.data.collate import Collator, places
from trimtab.data.packs import fit, size_of
from trimtab.data.sources import DataError
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match
from trimtab.signals.frozen import FrozenModel
from trimtab.train import settings
from trimtab.train.dataset import Rows
from trimtab.train.epochs import epoch_of
from trimtab.train.orders import EpochOrder
from trimtab.train.packs import Packing, PackSampler, packing_of
from trimtab.train.settings import TrainingError

SIZES = [5, 3, 8, 2, 2, 7, 1, 4, 6, 10, 3, 3]


def test_rows_go_where_least_room_is_left_the_longest_first():
    # by hand: 7 | 6 | 4 into the 6 (room 4 of 10) | 3 into the 7 (room 3) | 2 opens the third
    assert fit([6, 7, 4, 3, 2], 10) == [[1, 3], [0, 2], [4]]


def test_every_row_is_in_one_pack_and_no_pack_is_too_long():
    packs = fit(SIZES, 10)
    assert sorted(i for pack in packs for i in pack) == list(range(len(SIZES)))
    assert all(sum(SIZES[i] for i in pack) <= 10 for pack in packs)
    assert len(packs) == 6  # 54 tokens: five packs hold 50


def test_the_number_of_packs_does_not_depend_on_the_order():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 40, (300,), generator=generator).tolist()
    orders = [torch.randperm(300, generator=generator).tolist() for _ in range(5)]
    packs = [fit(sizes, 64, order) for order in orders]
    assert len({len(one) for one in packs}) == 1
    assert packs[0] != packs[1]
    assert sum(sizes) / (len(packs[0]) * 64) > 0.98


@pytest.mark.parametrize("multiple", [1, 4, 5, 7, 12])
def test_packs_are_split_until_all_batches_are_full(multiple):
    packs = fit(SIZES, 10, multiple=multiple)
    assert len(packs) % multiple == 0
    assert sorted(i for pack in packs for i in pack) == list(range(len(SIZES)))
    assert len(fit(SIZES, 10, multiple=13)) == 12  # there are no more rows


def test_a_row_that_fits_in_no_pack_is_refused():
    with pytest.raises(DataError, match=r"a row of 10 tokens fits in no pack of 9; raise training\.max_length"):
        fit(SIZES, 9)


def epochs(shuffled: bool = True, seed: int = 0, number: int = 3, window=None) -> list[list[list[int]]]:
    sampler = EpochOrder(PackSampler(Packing(SIZES, 10, 2), shuffled, window), seed)
    found = []
    for epoch in range(number):
        sampler.set_epoch(epoch)
        found.append(list(sampler))
        assert len(found[-1]) == len(sampler)
    return found


def test_an_epoch_has_every_row_once_and_its_order_depends_on_seed_and_epoch_alone():
    first = epochs()
    assert first == epochs()
    assert first != epochs(seed=1)
    assert len({str(one) for one in first}) == 3
    assert all(Counter(i for pack in one for i in pack) == Counter(range(12)) for one in first)
    longest_first = [max(SIZES[i] for i in pack) for pack in first[0]]
    assert longest_first != sorted(longest_first, reverse=True)


def test_sequential_packs_are_the_same_in_every_epoch():
    one, two, _ = epochs(shuffled=False)
    assert one == two
    assert [pack[0] for pack in one] == sorted(pack[0] for pack in one)


def test_windows_of_packs_are_repeated():
    one = epochs(window=(2, 3))[0]
    assert one[:2] == one[2:4] == one[4:6]
    assert Counter(i for pack in one for i in pack) == Counter(dict.fromkeys(range(12), 3))


def test_two_processes_have_the_same_number_of_packs_and_each_row_once():
    """As accelerate deals batches out."""
    seen = []
    for rank in range(2):
        sampler = EpochOrder(PackSampler(Packing([*SIZES, 9], 10, 4)), 0)
        share = BatchSamplerShard(BatchSampler(sampler, 2, drop_last=False), num_processes=2, process_index=rank)
        seen.append([pack for batch in share for pack in batch])
    assert len(seen[0]) == len(seen[1]) == 4
    assert Counter(i for share in seen for pack in share for i in pack) == Counter(range(13))


def test_the_collator_gives_each_row_its_place_and_pairs_two_streams():
    def row(length, rejected=None):
        made = {"input_ids": [1] * length, "labels": [1] * length, "row_id": length}
        return made | ({f"rejected_{key}": [1] * rejected for key in ("input_ids", "labels")} if rejected else {})

    found = Collator(0, 9)([[row(3), row(2)], [row(4)]])
    assert found["place"].tolist() == [[0, 0], [0, 3], [1, 0]]
    assert found["row_id"].tolist() == [3, 2, 4]
    assert found["input_ids"].shape == (3, 4)
    assert "place" not in Collator(0, 9)([row(3)])
    pairs = [[row(3, 5), row(2, 1)], [row(4, 4)]]
    assert places(pairs).tolist() == [[0, 0], [1, 0], [0, 3], [1, 5], [2, 0], [3, 0]]
    assert [size_of(one) for one in pairs[0]] == [5, 2]


def rows() -> Rows:
    return Rows(list(dataset()))


def packed_trainer(folder, plan=None, policy=None, limit=16, window=None, **training):
    args = settings.build(settings.check({"use_cpu": True, "packing": True, **training}), folder, seed=0)
    packing = packing_of(args, rows().rows, limit, window)
    return trainer(folder, plan, policy, rows(), window=window, packing=packing, **training)


def moved(folder, plan=None, packed=True, **training) -> dict[str, torch.Tensor]:
    policy = tiny.model("llama_tied")
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    make = packed_trainer if packed else trainer
    make(folder, plan, policy, **training).train()
    return {name: value - before[name] for name, value in policy.state_dict().items() if "rotary" not in name}


def kd_plan() -> Plan:
    return Plan(Match(forward_kl), (FrozenModel(tiny.model("llama_tied", seed=5)),))


def hpd_plan() -> Plan:
    method = methods.load("hpd")
    return method.build(method.config(), tiny.model(), teacher=FrozenModel(tiny.model("llama_tied", seed=5)))


def sequence_plan() -> Plan:
    return Plan(Likelihood(), reduction="sequence_mean")


@pytest.mark.fast("2-*")
@pytest.mark.parametrize("plan_of", [None, kd_plan, hpd_plan, sequence_plan])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_update_of_packs_is_that_of_their_rows_however_they_are_split(tmp_path, plan_of, size):
    """Eight rows of 51 tokens are four packs of 16."""
    whole = moved(tmp_path / "padded", plan_of and plan_of(), packed=False)
    plan = plan_of and plan_of()
    packs = moved(tmp_path / "packed", plan, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size)
    assert sum(float(v.abs().sum()) for v in whole.values()) > 0
    assert tiny.relative_error(packs, whole) < 1e-5


@pytest.mark.slow
def test_a_resumed_packed_run_is_the_one_that_was_not_stopped(tmp_path):
    training = {
        "per_device_train_batch_size": 1, "max_steps": 7, "save_strategy": "steps", "save_steps": 3,
        "save_total_limit": 4, "logging_steps": 1,
    }  # fmt: skip
    whole = packed_trainer(tmp_path / "whole", **training)
    whole.train()
    again = packed_trainer(tmp_path / "again", **training)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoints" / "checkpoint-6"))
    for (name, one), (_, other) in zip(whole.model.named_parameters(), again.model.named_parameters()):
        assert torch.equal(one, other), name
    assert again.totals.answer_tokens == whole.totals.answer_tokens


def test_the_length_of_an_epoch_is_told_beforehand(tmp_path):
    args = settings.build(
        settings.check({"packing": True, "use_cpu": True, "per_device_train_batch_size": 2}), tmp_path, 0
    )
    packing = packing_of(args, rows().rows, 16)
    epoch = epoch_of(args, "supervised", 8, None, packing)
    assert (epoch.updates, epoch.left_out) == (2, 0)
    assert epoch.note == "8 rows in 4 packs of at most 16 tokens, 80% of them filled"
    made = packed_trainer(tmp_path, per_device_train_batch_size=2)
    assert len(made.get_train_dataloader()) == 2


def test_too_few_rows_for_a_window_are_refused(tmp_path):
    args = settings.build(settings.check({"packing": True, "use_cpu": True}), tmp_path, 0)
    with pytest.raises(TrainingError, match=r"an update takes 8 and a window 16, which is more than there are rows"):
        epoch_of(args, "supervised", 8, (2, 2), packing_of(args, rows().rows, 16, (2, 2)))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"packing": True, "max_length": None}, "packing needs training.max_length"),
        ({"packing": True, "train_sampling_strategy": "group_by_length"}, "packs have about the same length"),
        ({"packing": True, "packing_strategy": "wrapped"}, "rows are packed whole"),
        ({"eval_packing": True}, "held-out rows are padded"),
        ({"padding_free": True}, "give training.packing"),
    ],
)
def test_what_packing_cannot_be_combined_with_is_refused(training, message):
    with pytest.raises(TrainingError, match=message):
        settings.check(training)


def test_packing_is_for_methods_that_learn_from_rows():
    with pytest.raises(TrainingError, match="packing is only for methods that learn from rows"):
        settings.check({"packing": True}, "rollouts")
