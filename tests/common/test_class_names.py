"""One class name, one meaning: no two classes of the package share a name."""

import ast
from collections import defaultdict
from pathlib import Path

import trimtab

OF_EACH_METHOD = {"Config"}


def test_no_two_classes_share_a_name():
    places = defaultdict(list)
    root = Path(trimtab.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name not in OF_EACH_METHOD:
                places[node.name].append(str(path.relative_to(root)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
