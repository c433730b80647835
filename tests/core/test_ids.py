"""Ids sort as the moments they were made at, and never repeat."""

from __future__ import annotations

import pytest

from swarmd.core.ids import MAX_ID, IdSource, from_text, made_at, to_text


def test_ids_grow_even_when_time_stands_still_or_goes_back() -> None:
    source = IdSource()
    ids = [source.next(now) for now in (10.0, 10.0, 9.0, 10.0005, 11.0)]
    assert ids == sorted(set(ids))
    assert made_at(ids[0]) == 10.0 and made_at(ids[-1]) == 11.0


def test_ids_go_on_after_the_last_one_of_the_file() -> None:
    first = IdSource().next(10.0)
    assert IdSource(first).next(10.0) == first + 1
    assert IdSource(first).next(5.0) == first + 1


@pytest.mark.parametrize("id", [0, 1, 31, 32, 1 << 20, 1_048_576_000_000, MAX_ID])
def test_the_text_form_goes_back_and_forth(id: int) -> None:
    text = to_text(id)
    assert len(text) == 13
    assert from_text(text) == from_text(text.upper()) == id


def test_texts_sort_as_the_ids_do() -> None:
    ids = [0, 1, 9, 10, 31, 32, 1023, 1 << 40, MAX_ID - 1, MAX_ID]
    assert sorted(map(to_text, ids)) == [to_text(id) for id in ids]


@pytest.mark.parametrize(
    "text", ["", "0" * 12, "0" * 14, "i" * 13, "000000000000u", "zzzzzzzzzzzzz", "-000000000001"]
)
def test_other_texts_are_no_ids(text: str) -> None:
    assert from_text(text) is None


def test_time_out_of_range_is_an_error_of_ours() -> None:
    with pytest.raises(AssertionError, match="out of range"):
        IdSource().next(1e13)
