"""Write src/trimtab/models/bundled/pieces.json: the tokenizer of the untrained builtin model `pieces-3m`.

A byte-level BPE, learnt from what the roles of an agent read and write in the training split of `trimtab:tools`. Digits
stay single, so that numbers are copied place by place.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from trimtab.data.agent_roles import ROLES, Prompter, samples
from trimtab.data.sources import load_rows
from trimtab.data.trajectories import trajectory
from trimtab.models.pieces import SPECIAL

PLACE = Path(__file__).parents[1] / "src" / "trimtab" / "models" / "bundled" / "pieces.json"
ROWS, PIECES = 3000, 1500


def texts() -> Iterator[str]:
    prompter = Prompter("")
    for number, row in enumerate(load_rows(f"trimtab:tools/train?rows={ROWS}&seed=0"), start=1):
        found = trajectory(row, f"row {number}")
        for role in (*ROLES, "backbone"):
            made = list(samples(found, role, prompter, Counter()))
            if made:  # the last one holds all turns
                yield made[-1].prompt + made[-1].target


def main() -> None:
    tokenizer = Tokenizer(models.BPE())
    parts = [pre_tokenizers.Split(Regex(r"[0-9]| ?[^\W\d_]+| ?[^\w\s]|\s|_"), "isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts(), trainer)
    PLACE.parent.mkdir(exist_ok=True)
    tokenizer.save(str(PLACE), pretty=False)


if __name__ == "__main__":
    main()
