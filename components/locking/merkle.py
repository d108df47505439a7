"""Merkle trees as in RFC 9162, section 2.1, with SHA-256: one digest for a list, and a proof that an entry is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def root_of(entries: Sequence[bytes]) -> bytes:
    """Returns the root hash of a list of entries; of an empty list the hash of nothing."""
    if not entries:
        return hashlib.sha256().digest()
    return _root([leaf_hash(entry) for entry in entries])


def inclusion_proof(entries: Sequence[bytes], index: int) -> list[bytes]:
    """Returns the hashes that lead from an entry to the root, the nearest first."""
    return _path([leaf_hash(entry) for entry in entries], index)


def root_from(entry: bytes, index: int, count: int, proof: Sequence[bytes]) -> bytes | None:
    """Returns the root hash that a proof leads to (RFC 9162, section 2.1.3.2).

    Args:
        entry: that is said to be in the list.
        index: its place, from 0.
        count: length of the list.
        proof: of :func:`inclusion_proof`.

    Returns:
        None if no such proof can be of such a list.
    """
    if not 0 <= index < count:
        return None
    number, last, found = index, count - 1, leaf_hash(entry)
    for sibling in proof:
        if last == 0:
            return None
        if number % 2 or number == last:
            found = _node(sibling, found)
            while number % 2 == 0 and number:
                number, last = number >> 1, last >> 1
        else:
            found = _node(found, sibling)
        number, last = number >> 1, last >> 1
    return found if last == 0 else None


def leaf_hash(entry: bytes) -> bytes:
    """Returns the hash of an entry; no hash of two hashes can be taken for one."""
    return hashlib.sha256(b"\0" + entry).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _split(count: int) -> int:
    """The largest power of two below ``count``."""
    return 1 << (count - 1).bit_length() - 1


def _root(hashes: Sequence[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    left = _split(len(hashes))
    return _node(_root(hashes[:left]), _root(hashes[left:]))


def _path(hashes: Sequence[bytes], index: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    left = _split(len(hashes))
    if index < left:
        return [*_path(hashes[:left], index), _root(hashes[left:])]
    return [*_path(hashes[left:], index - left), _root(hashes[:left])]
