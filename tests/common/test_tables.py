from __future__ import annotations

import pytest

from keras_branch_prune.common.tables import format_table


def test_columns_are_as_wide_as_their_widest_cell():
    lines = format_table(("a", "long name"), [("first", "1"), ("b", "")]).splitlines()
    assert lines == ["a      long name", "-----  ---------", "first  1", "b"]


def test_a_table_without_rows_is_its_header():
    assert format_table(("a", "bc"), []) == "a  bc\n-  --"


def test_rows_have_as_many_cells_as_the_header():
    with pytest.raises(ValueError, match="zip"):
        format_table(("a", "b"), [("only one",)])
