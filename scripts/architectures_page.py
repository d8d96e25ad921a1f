"""Write docs/reference/architectures.md: what works on each causal language model class, and what is refused.

python scripts/architectures_page.py     a few minutes on two cores
"""

import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import architectures  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "architectures.md"
NAMES = {
    "sft": "sft", "kd": "kd", "dpo": "dpo", "lora": "LoRA", "saved": "save, load", "generate": "generate",
    "packs": "packs", "score": "scalar head", "dial": "dial",
}  # fmt: skip
REASONS = {
    "no-scores": "transformers has no token classification model of this type, on which a scalar head would stand; "
    "reward models that are language models work (`ipvrm`, or `options.head: logit`)",
    "several-ahead": "its head predicts several tokens at once, so its logits are no product of hidden states and head",
    "lora-modules": "some of its linear layers are more than that and cannot be adapted; name "
    "`models.lora.target_modules`",
    "no-places": "its layers take no `position_ids`, so `training.packing` is refused: nothing tells the rows of a "
    "pack apart",
    "state": "`training.packing` is refused: its layers carry a state from one row of a pack to the next, or its "
    "attention is not blocked between them",
    "other-places": "`training.packing` is refused: a row in a pack is not read as alone",
    "no-identity": "no identity layer: with what writes its blocks' output at zero a copy of its first layer is none, "
    "since a norm stands behind the residual, several streams run side by side, or a layer is scaled by its number",
    "by-place": "no identity layer: its layers differ by their place, so that the first cannot become the second",
}
_WORDS = {
    "no token classification model": "no-scores",
    "does not reproduce the model's own logits": "several-ahead",
    "cannot run with adapters": "lora-modules",
    "takes no position_ids": "no-places",
    "if the row before it is another": "state",
    "otherwise than alone": "other-places",
    "does not run on packed rows": "other-places",
    "is not the identity": "no-identity",
    "looked for one list of": "by-place",
    "cannot be built from its layers": "by-place",
}
HEAD = """# Architectures

<!-- written by scripts/architectures_page.py; edit that -->

Each causal language model class of transformers {version} as a tiny random model: one step of `sft`, `kd` and `dpo`
inside the model's forward, against plain autograd on the model's own logits (gradients equal to 1e-4, float32); two
steps of LoRA on all linear layers, and the merged model against the adapted one; saved and loaded again; prompts
answered together as alone, with the model's cache; rows in packs with the loss and the gradient of padded rows; a
scalar head for reward models; an identity layer for the dial (`clm`, `inra`), exact, saved and gone around. Where a
cell holds a word and not "yes", that is refused in one line, and the words are explained below. Nothing here needs a
list of names: layers, head, scale and cap of the logits, and how a model may be padded are found or tried out on the
model that is given, so a class that is not in the table has good chances too, and is refused where they cannot be
found.

"""


def line(kind: str) -> str:
    """The row of a type."""
    name = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    try:
        architectures.build(kind)
    except architectures.NotTiny:
        return f"| `{kind}` | {name} |" + " not tried |" * len(NAMES)
    cells = []
    for check in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            found = architectures.verdict(kind, check, Path(folder))
        cells.append(found if found == "yes" else word(found))
    return f"| `{kind}` | {name} | {' | '.join(cells)} |"


def word(found: str) -> str:
    """The short word of a refusal."""
    if found.startswith("refused: "):
        for part, short in _WORDS.items():
            if part in found:
                return short
    raise SystemExit(f"this is no refusal that is known: {found}")


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    lines = [line(kind) for kind in architectures.TYPES]
    text = HEAD.format(version=".".join(transformers.__version__.split(".")[:2]))
    text += f"| type | class | {' | '.join(NAMES.values())} |\n|" + " --- |" * (len(NAMES) + 2) + "\n"
    text += "\n".join(lines) + "\n\n"
    text += "".join(f"- **{short}**: {reason}.\n" for short, reason in REASONS.items())
    text += (
        "- **not tried**: the class has no tiny form here: it wants files or other parts, or cannot be made small "
        "enough.\n\nA mixture of experts learns to load its experts evenly if `training.router_aux_loss_coef` asks for "
        "it. A multimodal checkpoint is loaded as the class that transformers gives a causal language model, and reads "
        "text alone.\n"
    )
    PAGE.write_text(text, encoding="utf-8")
    yes = sum(one.count("| yes") for one in lines)
    print(f"{PAGE}: {len(lines)} types, {yes} cells work")


if __name__ == "__main__":
    main()
