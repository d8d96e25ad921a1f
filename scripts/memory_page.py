"""Write docs/guides/memory.md: worked examples of the memory estimate, as the commands print them.

The models are known shapes without weights: a `config.json` and a tokenizer, which is all that an estimate reads.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from pages import DOCS, command, written_by
from trimtab import cli
from trimtab.models.builtin import builtin_folder

PAGE = DOCS / "guides" / "memory.md"
TEXT = DOCS.parent / "scripts" / "memory_page.md"
QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "rope_theta": 1e6, "max_position_embeddings": 32768, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SHAPES = {
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "32b": {"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
            "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip
"""those of Qwen2.5, from the model cards' config.json"""
SHAPES["32b-int4"] = {
    **SHAPES["32b"],
    "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
}
WORDS = 4000
"""of the answer of a row, which is cut to the recipe's max_length"""


def lay_out(folder: Path) -> None:
    """`models/NAME` for each shape, and `rows.jsonl`."""
    source = builtin_folder("smollm2-135m")
    for name, shape in SHAPES.items():
        made = folder / "models" / name
        made.mkdir(parents=True)
        (made / "config.json").write_text(json.dumps({**QWEN, **shape}, indent=1), encoding="utf-8")
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
            if (source / file).exists():
                shutil.copy(source / file, made / file)
    row = {"messages": [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "one " * WORDS}]}
    (folder / "rows.jsonl").write_text((json.dumps(row) + "\n") * 16, encoding="utf-8")


def said_by(words: str) -> str:
    """What a command prints on stdout."""
    out, before = io.StringIO(), sys.argv
    sys.argv = shlex.split(words)
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            cli.main()
    finally:
        sys.argv = before
    return out.getvalue()


def tables(said: str) -> str:
    """The tables of memory in what a dry run prints."""
    lines = said.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("# memory of ")), None)
    if start is None:
        raise SystemExit(f"no table of memory: {said[-500:]}")
    end = next(i for i, line in enumerate(lines) if line.startswith("# not included"))
    return "\n".join(line for line in lines[start:end] if line != "#")


def page() -> str:
    """The text with the output of each command in the place of `{output}` after it."""
    text = TEXT.read_text(encoding="utf-8").replace("{comment}", written_by(__file__, "scripts/memory_page.md"))
    commands = iter(re.findall(r"^trimtab .*--dry-run.*$", text, re.MULTILINE))
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        lay_out(Path(name))
        for path, made in re.findall(r"<!-- file: (\S+) -->\n```\w+[^\n]*\n(.*?)```", text, re.DOTALL):
            Path(path).write_text(made, encoding="utf-8")
        return re.sub(r"\{output\}", lambda _: tables(said_by(next(commands))), text)


def main() -> int:
    """Write the page; with `--models FOLDER`, lay out what its commands read."""
    if sys.argv[1:2] == ["--models"] and len(sys.argv) == 3:
        lay_out(Path(sys.argv[2]))
        return 0
    return command(PAGE, page, __file__)


if __name__ == "__main__":
    sys.exit(main())
