"""Write src/trimtab/data/bundled/wordnet.txt: what `trimtab.rewriting.wordnet` reads of WordNet 3.0.

    python scripts/wordnet_list.py /usr/share/wordnet

The folder is that of Debian's package wordnet-base, or `dict` of the release itself. Kept are the senses that WordNet's
own counts have seen, the first sense of each word, and what lies above them; antonyms are kept whole.
"""

import sys
from collections import defaultdict
from pathlib import Path

OUT = Path(__file__).parents[1] / "src/trimtab/data/bundled/wordnet.txt"
LICENCE = """\
# Of WordNet 3.0 (https://wordnet.princeton.edu), chosen by scripts/wordnet_list.py. WordNet's licence:
#
# This software and database is being provided to you, the LICENSEE, by Princeton University under the following
# license. By obtaining, using and/or copying this software and database, you agree that you have read, understood, and
# will comply with these terms and conditions.: Permission to use, copy, modify and distribute this software and
# database and its documentation for any purpose and without fee or royalty is hereby granted, provided that you agree
# to comply with the following copyright notice and statements, including the disclaimer, and that the same appear on
# ALL copies of the software, database and documentation, including modifications that you make for internal use or for
# distribution. WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. THIS SOFTWARE AND DATABASE IS
# PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR IMPLIED. BY WAY OF
# EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES OF MERCHANTABILITY OR FITNESS
# FOR ANY PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY
# THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS. The name of Princeton University or Princeton may not be
# used in advertising or publicity pertaining to distribution of the software and/or database. Title to copyright in
# this software, database and any associated documentation shall at all times remain with Princeton University and
# LICENSEE agrees to preserve same.
#
# Lines: "n PARENT word word ..." a set of nouns of one meaning (v verbs, a adjectives, r adverbs; PARENT is the number
# of the line, from 0, that it is a kind of or, of an adjective, is similar to; - for none); "! word word" opposites;
# "+ word word" words of one origin that look different; "~ form word" an irregular form.
"""
FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
MOST_COMMON = 2
"""times that a word must have been counted, in any sense"""


def main(folder: Path) -> None:
    seen = {}
    for line in (folder / "cntlist.rev").read_text().splitlines():
        key, number, count = line.split()
        word, _, rest = key.partition("%")
        seen[{"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}[rest[0]], word, int(number)] = int(count)
    counts: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)  # (pos, word): number, count, offset
    for pos, name in FILES.items():
        for line in (folder / f"index.{name}").read_text().splitlines():
            if line.startswith(" "):
                continue
            word, _, number, *rest = line.split()
            for sense, offset in enumerate(rest[-int(number) :], start=1):
                counts[pos, word].append((sense, seen.get((pos, word, sense), 0), int(offset)))
    synsets, wanted = {}, set()
    for pos, name in FILES.items():
        for line in (folder / f"data.{name}").read_text().splitlines():
            if not line.startswith(" "):
                synsets[pos, int(line[:8])] = parse(line.partition(" | ")[0].split())
    common = {word for (_, word), senses in counts.items() if sum(count for _, count, _ in senses) >= MOST_COMMON}
    for (pos, word), senses in counts.items():
        if word in common:
            wanted |= {(pos, offset) for number, count, offset in senses if count or number == 1}
    opposite, related = set(), set()
    for (pos, offset), (words, pointers) in synsets.items():
        for symbol, target, target_pos, source, place in pointers:
            if not source:
                continue
            pair = tuple(sorted((words[source - 1], synsets[target_pos, target][0][place - 1])))
            if symbol == "!" and all(map(plain, pair)):
                opposite.add(pair)
                if pos == "a" and set(pair) & common:
                    wanted |= {(pos, offset), (target_pos, target)}
            if symbol == "+" and set(pair) <= common and pair[0][:3] != pair[1][:3]:
                related.add(pair)
    for place in list(wanted):
        while (above := parent(synsets, place)) is not None and above not in wanted:
            wanted.add(above)
            place = above
    ordered = sorted(wanted)
    number = {place: i for i, place in enumerate(ordered)}
    with OUT.open("w", encoding="utf-8") as out:
        out.write(LICENCE)
        for place in ordered:
            above = parent(synsets, place)
            members = [word for word in synsets[place][0] if plain(word)]
            out.write(" ".join([place[0], "-" if above is None else str(number[above]), *members]) + "\n")
        out.writelines(f"! {one} {other}\n" for one, other in sorted(opposite))
        out.writelines(f"+ {one} {other}\n" for one, other in sorted(related))
        for name in FILES.values():
            for line in (folder / f"{name}.exc").read_text().splitlines():
                form, *words = line.split()
                out.writelines(f"~ {form} {word}\n" for word in words if word in common and plain(form))
    print(f"{len(ordered)} sets, {len(opposite)} opposites, {OUT.stat().st_size:,} bytes")


def parse(fields: list[str]) -> tuple[list[str], list[tuple[str, int, str, int, int]]]:
    """Words, and pointers (symbol, offset, part of speech, place in the source, place in the target) of a line."""
    number = int(fields[3], 16)
    words = [fields[4 + 2 * i].partition("(")[0] for i in range(number)]
    rest = fields[5 + 2 * number :]
    pointers = [rest[4 * i : 4 * i + 4] for i in range(int(fields[4 + 2 * number]))]
    return words, [
        (symbol, int(offset), pos.replace("s", "a"), int(ends[:2], 16), int(ends[2:], 16))
        for symbol, offset, pos, ends in pointers
    ]


def parent(synsets: dict, place: tuple[str, int]) -> tuple[str, int] | None:
    for symbol, target, pos, _, _ in synsets[place][1]:
        if (symbol in ("@", "@i") and place[0] in "nv") or (symbol == "&" and place[0] == "a" and lone(synsets, place)):
            return pos, target
    return None


def lone(synsets: dict, place: tuple[str, int]) -> bool:
    """Whether a set of adjectives is none that others are similar to: it is similar to one, and has no opposite."""
    pointers = synsets[place][1]
    return sum(symbol == "&" for symbol, *_ in pointers) == 1 and all(symbol != "!" for symbol, *_ in pointers)


def plain(word: str) -> bool:
    return word.islower() and word.replace("_", "").replace("-", "").isalpha() and word.count("_") < 2


if __name__ == "__main__":
    main(Path(sys.argv[1]))
