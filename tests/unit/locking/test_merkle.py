"""Merkle trees, beside the roots of Certificate Transparency's own tests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from medmark.components.locking.merkle import inclusion_proof, root_from, root_of

ENTRIES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


@pytest.mark.parametrize("count", range(1, 9))
def test_roots_are_those_of_certificate_transparency(count):
    assert root_of(ENTRIES[:count]).hex() == ROOTS[count - 1]


def test_the_root_of_nothing():
    assert root_of([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40), st.data())
def test_each_entry_has_a_proof_and_no_other_has_it(entries, data):
    index = data.draw(st.integers(0, len(entries) - 1))
    proof, root = inclusion_proof(entries, index), root_of(entries)
    assert root_from(entries[index], index, len(entries), proof) == root
    assert root_from(entries[index] + b"x", index, len(entries), proof) != root
    assert root_from(entries[index], index, len(entries), [*proof, b"\0" * 32]) != root
    assert root_from(entries[index], len(entries), len(entries), proof) is None
    if proof:
        assert root_from(entries[index], index, len(entries), proof[:-1]) != root
