"""Write src/trimtab/data/bundled/geomrel_test.jsonl: the fixed test rows of `trimtab:geomrel` (CC0).

    python scripts/geomrel_rows.py

2,000 rows, 400 of each depth, with questions of the test split alone.
"""

import json
from itertools import islice
from pathlib import Path

from trimtab.data.generators.geometry import items, wording

BUNDLED = Path(__file__).parents[1] / "src" / "trimtab" / "data" / "bundled" / "geomrel_test.jsonl"
NUMBER, SEED = 2000, 0


def main() -> None:
    rows = list(islice(items.generate(SEED, keep=wording.is_test), NUMBER))
    for row in rows:
        del row["messages"]  # they say nothing new
    BUNDLED.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} rows, {BUNDLED.stat().st_size:,} bytes: {BUNDLED}")


if __name__ == "__main__":
    main()
