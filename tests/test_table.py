"""What tests share tells a case that fails."""

import pytest

from tiny_table import table


def test_every_case_of_a_table_is_tried_and_each_failure_names_its_own(tmp_path):
    seen = []

    @table("a, b", [(1, 1), (1, 2), (2, 1)])
    def same(tmp_path, a, b):
        seen.append((a, b))
        assert a == b

    with pytest.raises(ExceptionGroup, match="2 of 3 cases") as raised:
        same(tmp_path=tmp_path)
    assert seen == [(1, 1), (1, 2), (2, 1)]
    assert raised.value.exceptions[1].__notes__ == ["where a=2, b=1"]
