from collections import Counter
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.code import Code, code_bits, code_count, draw_code
from scipy import stats

TABLES = [(4, 2, 1), (6, 3, 1), (5, 2, 2), (6, 2, 3)]


def seeds(n, seed=0):
    return np.random.default_rng(seed).bytes(32 * n)


def drawn(n, table, seed=0):
    stream = seeds(n, seed)
    return [draw_code(stream[32 * i : 32 * (i + 1)], *table) for i in range(n)]


@pytest.mark.parametrize(
    ("seed", "table", "cells"),
    [
        (bytes(32), (40, 2, 1), ((5,), (20,))),
        (bytes(range(32)), (24, 2, 1), ((11,), (15,))),
        (bytes(range(32)), (40, 3, 2), ((6, 38), (33, 37), (12, 23))),
        (b"\xff" * 32, (256, 2, 4), ((11, 34, 148, 165), (57, 176, 222, 251))),
    ],
)
def test_a_seed_gives_the_same_code_forever(seed, table, cells):
    """The first is by hand: HMAC-SHA256 of "medmark code 40 2 1 0" and a 1 begins 125, 136; 125 % 40, then 136 % 39 of the rest."""
    assert draw_code(seed, *table).cells == cells


@pytest.mark.parametrize("table", TABLES)
def test_every_code_comes_equally_often(table):
    codes = code_count(*table)
    counted = Counter(code.cells for code in drawn(60 * codes, table))
    assert len(counted) == codes
    assert stats.chisquare(list(counted.values())).pvalue > 1e-3


def test_bytes_do_not_favour_low_cells():
    """256 = 1 * 200 + 56: a byte taken modulo 200 would give each of the first 56 cells twice as often."""
    first = sum(draw.cells[0][0] < 56 for draw in drawn(4000, (200, 2, 1)))
    assert stats.binomtest(first, 4000, 56 / 200).pvalue > 1e-3


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(2, 4), st.integers(1, 4), st.integers(0, 30))
def test_a_code_has_what_was_asked_for(seed, classes, per_class, spare):
    cells = classes * per_class + spare
    code = draw_code(seed, cells, classes, per_class)
    assert (code.classes, code.per_class) == (classes, per_class)
    flat = [cell for of_class in code.cells for cell in of_class]
    assert len(set(flat)) == classes * per_class and all(0 <= cell < cells for cell in flat)
    assert code == draw_code(seed, cells, classes, per_class)


def test_codes_of_one_seed_for_two_tables_are_unrelated():
    stream = seeds(500)
    same = sum(
        draw_code(stream[32 * i : 32 * i + 32], 8, 2, 1).cells[0]
        == draw_code(stream[32 * i : 32 * i + 32], 8, 3, 1).cells[0]
        for i in range(500)
    )
    assert stats.binomtest(same, 500, 1 / 8).pvalue > 1e-3


def test_counts():
    assert code_count(40, 2, 1) == 40 * 39
    assert code_count(40, 2, 2) == 780 * 703
    assert code_count(4, 2, 2) == 6
    assert code_count(40, 3, 1) == 40 * 39 * 38
    assert code_bits(40, 2, 1) == pytest.approx(log2(1560))


def test_a_code_is_not_printed():
    code = Code(((17,), (23,)))
    assert "17" not in repr(code) and "23" not in repr(code)


@pytest.mark.parametrize(
    "cells",
    [
        (),
        ((1,),),
        ((), ()),
        ((1,), (1,)),
        ((1, 2), (3,)),
        ((2, 1), (3, 4)),
        ((1, 1), (3, 4)),
        ((-1,), (3,)),
        ((256,), (3,)),
        ((1.0,), (3,)),
        ((True,), (3,)),
        (("1",), (3,)),
    ],
)
def test_what_is_no_code_is_refused_without_naming_cells(cells):
    with pytest.raises(MedmarkError, match="no code") as refused:
        Code(cells)
    assert "256" not in str(refused.value) and "(" not in str(refused.value)


@pytest.mark.parametrize("table", [(40, 1, 1), (40, 2, 0), (3, 2, 2), (1, 2, 1), (257, 2, 1)])
def test_impossible_tables_are_refused(table):
    for function in (code_count, code_bits, lambda *table: draw_code(bytes(32), *table)):
        with pytest.raises(MedmarkError, match="no code of"):
            function(*table)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_seed_has_32_bytes(length):
    with pytest.raises(MedmarkError, match=f"seed of {length} bytes"):
        draw_code(bytes(length), 40, 2, 1)
