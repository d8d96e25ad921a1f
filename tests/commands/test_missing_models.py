"""Commands miss a model before they import anything heavy."""

import re
import subprocess
import sys

import pytest

COMMANDS = {
    "--model": ["generate --prompt x", "eval personality", "compare-decoding --out o", "collect s.jsonl --out o",
                "score s.jsonl --out o", "contamination c.jsonl --control f.jsonl --out o"],
    "--aligned": ["generate --prompt x --model smollm2-135m --strength 0.5"],
    "--judge": ["compare-decoding --out o --model smollm2-135m"],
    "--reference": ["score s.jsonl --out o --model smollm2-135m"],
    "--adapter": ["compare-decoding --out o --model smollm2-135m", "score s.jsonl --out o --model smollm2-135m"],
    "--rewriter": ["clean q.jsonl --out o.jsonl"],
    "--reader": ["clean q.jsonl --out o.jsonl"],
}  # fmt: skip
CASES = [(option, words) for option, all_words in COMMANDS.items() for words in all_words]


def run(words: list[str], folder) -> tuple[int, str, list[str]]:
    """Exit code, what was said, and which heavy packages were imported."""
    code = (
        "import sys; from trimtab.cli import main\n"
        "try: main()\n"
        "finally: print('imported', sorted({'torch', 'transformers', 'trl'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr, re.findall(r"imported (.*)", done.stdout)


@pytest.mark.parametrize(("option", "words"), CASES)
def test_a_missing_model_is_told_by_its_option_at_once(option, words, tmp_path):
    code, said, imported = run([*words.split(), option, "./nowhere"], tmp_path)
    assert code == 2
    assert re.search(rf"error: {option}: there is no folder ./nowhere", said), said
    assert imported == ["[]"]
    assert not list(tmp_path.iterdir())
