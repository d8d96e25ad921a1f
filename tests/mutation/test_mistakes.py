"""The planted mistakes still stand in the source, each once; `make mutation` plants them."""

from pathlib import Path

import mutate

import trimtab


def test_the_text_of_every_mistake_is_found_once():
    mutate.check_texts(mutate.MISTAKES, Path(trimtab.__file__).parents[1])
