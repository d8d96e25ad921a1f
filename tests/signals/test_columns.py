"""Numbers stored beside the rows arrive at the answer tokens that they belong to."""

import torch

from trimtab.core import IGNORE, TokenBatch, answer_mask
from trimtab.data.collate import Collator
from trimtab.signals.columns import Column


def row(i: int, ids: list[int], prompt: int) -> dict:
    """The columns say where a number comes from: 100 times the row, plus the token's id; and half of it."""
    labels = prompt * [IGNORE] + ids[prompt:]
    answer = [float(100 * i + token) for token in ids[prompt:]]
    return {"input_ids": ids, "labels": labels, "row_id": i, "delta": answer, "half": [x / 2 for x in answer]}


ROWS = [row(1, [9, 8, 3, 5, 2], 2), row(2, [9, 4], 1), row(3, [9, 8, 7, 6, 1], 4)]


def batch(rows=ROWS, vocab: int = 50) -> dict[str, torch.Tensor]:
    return Collator(0, vocab, columns=("delta", "half"))(rows)


def test_each_number_stands_at_its_own_answer_token():
    inputs = batch()
    found = Column("delta")(None, inputs)["delta"]
    tokens = TokenBatch.from_labels(inputs["labels"], row_id=inputs["row_id"])
    torch.testing.assert_close(found, (100 * tokens.row_id[tokens.row] + tokens.targets).float())
    assert found.tolist() == [103, 105, 102, 204, 301]


def test_a_column_may_be_given_under_another_name():
    signal = Column("half", "reference")
    assert signal.provides == {"reference"}
    torch.testing.assert_close(signal(None, batch())["reference"], Column("delta")(None, batch())["delta"] / 2)


def test_each_answer_of_a_pair_has_its_own_numbers():
    chosen, rejected = row(1, [9, 8, 3, 5], 2), row(1, [9, 8, 7], 2)
    pair = {**chosen, **{f"rejected_{key}": rejected[key] for key in ("input_ids", "labels", "delta", "half")}}
    assert Column("delta")(None, batch([pair, row(2, [9, 4], 1)]))["delta"].tolist() == [103, 105, 107, 204]


def test_numbers_of_labels_that_the_vocabulary_does_not_hold_go_with_them():
    inputs = batch(vocab=5)
    found = Column("delta")(None, inputs)["delta"]
    assert found.tolist() == [103, 102, 204, 301]
    assert len(found) == int(answer_mask(inputs["labels"]).sum())


def test_padding_and_the_order_of_rows_move_nothing():
    alone = torch.cat([Column("delta")(None, batch([one]))["delta"] for one in ROWS])
    assert torch.equal(Column("delta")(None, batch())["delta"], alone)
    turned = Column("delta")(None, batch(ROWS[::-1]))["delta"]
    assert turned.tolist() == [301, 204, 103, 105, 102]


def test_it_reads_what_a_batch_of_plain_logits_reads():
    inputs = batch()
    aligned = TokenBatch.align(torch.randn(3, 5, 50), inputs["labels"], {"delta": inputs["delta"]})
    assert torch.equal(aligned.signals["delta"], Column("delta")(None, inputs)["delta"])
