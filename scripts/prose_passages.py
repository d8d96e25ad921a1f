"""Write src/trimtab/data/bundled/prose.jsonl: passages of a novel in the public domain, for comparisons of decoding.

    python scripts/prose_passages.py botchan.txt

The text is Project Gutenberg's number 8868, "Botchan (Master Darling)" by Natsume Soseki, translated by Yasotaro Morri
(1919). It lies in the source archive of sentencepiece as test/botchan.txt. Passages are whole sentences of 150 words
and more, spread over the chapters so that none follows on another.
"""

import json
import re
import sys
from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "src" / "trimtab" / "data" / "bundled" / "prose.jsonl"
NUMBER, WORDS = 120, 150


def sentences(text: str) -> list[list[str]]:
    """Of each chapter, in order."""
    body = text[text.index("\nCHAPTER I") : text.index("*** END OF THIS PROJECT GUTENBERG")]
    chapters = re.split(r"\nCHAPTER [IVX]+\.?\s*\n", body)[1:]
    return [re.split(r"(?<=[.!?])\s+(?=[A-Z\"])", " ".join(chapter.split())) for chapter in chapters]


def passages(chapter: list[str]) -> list[str]:
    """Disjoint ones, each of at least `WORDS` words, with as many words left out between two of them."""
    found, current, skip = [], [], 0
    for sentence in chapter:
        words = len(sentence.split())
        if skip > 0:
            skip -= words
            continue
        current.append(sentence)
        if sum(len(s.split()) for s in current) >= WORDS:
            found.append(" ".join(current))
            current, skip = [], WORDS
    return found


def main() -> None:
    text = Path(sys.argv[1]).read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    found = [(number, passage) for number, c in enumerate(sentences(text), 1) for passage in passages(c)]
    step = len(found) / NUMBER
    chosen = [found[int(i * step)] for i in range(NUMBER)]
    rows = [{"text": passage, "chapter": number} for number, passage in chosen]
    BUNDLED.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} of {len(found)} passages, {sum(len(row['text'].split()) for row in rows):,} words: {BUNDLED}")


if __name__ == "__main__":
    main()
