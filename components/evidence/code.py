"""The secret code of a mark: which cells of the public table stand for which marked class.

A cell is a texture of one direction and frequency. Whoever knows the code can find the mark and forge it, so it is never
printed: neither a code's ``repr`` nor an error names its cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from math import comb, log2

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from medmark.components.base.errors import MedmarkError

SEED_BYTES = 32
MOST_CELLS = 256  # ours: one byte draws a cell


@dataclass(frozen=True)
class Code:
    """The cells of each marked class.

    Attributes:
        cells: for each marked class, in the order of the marked classes, its cells in ascending order; all classes have
            equally many, and no cell stands for two. Not part of ``repr``.

    Raises:
        MedmarkError: anything else.
    """

    cells: tuple[tuple[int, ...], ...] = field(repr=False)

    def __post_init__(self) -> None:
        flat = [cell for of_class in self.cells for cell in of_class]
        if (
            len(self.cells) < 2
            or len({len(of_class) for of_class in self.cells}) != 1
            or not flat
            or any(type(cell) is not int or not 0 <= cell < MOST_CELLS for cell in flat)
            or len(set(flat)) != len(flat)
            or any(list(of_class) != sorted(of_class) for of_class in self.cells)
        ):
            raise MedmarkError(
                "no code: at least two classes with equally many cells are needed, ascending, no cell twice; take the"
                " code as it was drawn"
            )

    @property
    def classes(self) -> int:
        """Marked classes."""
        return len(self.cells)

    @property
    def per_class(self) -> int:
        """Cells of each."""
        return len(self.cells[0])


def code_count(cells: int, classes: int, per_class: int) -> int:
    """How many codes there are: 1,560 of 2 classes with 1 of 40 cells each, 548,340 with 2, 76,767,600 with 3.

    Args:
        cells: in the table, 2 to 256.
        classes: marked, at least 2.
        per_class: cells of each class, at least 1.

    Raises:
        MedmarkError: numbers outside these ranges, or more cells in a code than in the table.
    """
    if not 2 <= cells <= MOST_CELLS or classes < 2 or per_class < 1 or classes * per_class > cells:
        raise MedmarkError(
            f"no code of {classes} classes with {per_class} of {cells} cells each; at least 2 classes, 1 cell a class,"
            f" and no more cells than the table has ({MOST_CELLS} at most) are possible"
        )
    codes = 1
    for earlier in range(classes):
        codes *= comb(cells - earlier * per_class, per_class)
    return codes


def code_bits(cells: int, classes: int, per_class: int) -> float:
    """The base-2 logarithm of :func:`code_count`: the entropy of a code, and what an accusation by it can rest on."""
    return log2(code_count(cells, classes, per_class))


def draw_code(seed: bytes, cells: int, classes: int, per_class: int) -> Code:
    """Draws a code, each with the same chance.

    Cells are drawn without replacement from the stream of HKDF-Expand (RFC 5869) with SHA-256; bytes that would favour some
    cells are passed over. The same seed gives unrelated codes for other tables.

    Args:
        seed: 32 secret bytes, drawn for this purpose alone.
        cells, classes, per_class: as in :func:`code_count`.

    Raises:
        MedmarkError: a seed of another length, or no such code.
    """
    code_count(cells, classes, per_class)
    if len(seed) != SEED_BYTES:
        raise MedmarkError(f"seed of {len(seed)} bytes; a code is drawn from {SEED_BYTES}")
    stream = _stream(seed, f"medmark code {cells} {classes} {per_class}")
    left = list(range(cells))
    drawn = [left.pop(_below(len(left), stream)) for _ in range(classes * per_class)]
    return Code(tuple(tuple(sorted(drawn[k * per_class : (k + 1) * per_class])) for k in range(classes)))


def _stream(seed: bytes, name: str) -> Iterator[int]:
    for block in count():
        yield from HKDFExpand(SHA256(), SHA256.digest_size, f"{name} {block}".encode()).derive(seed)


def _below(n: int, stream: Iterator[int]) -> int:
    """Returns a number below ``n``, at most 256, each with the same chance."""
    return next(byte % n for byte in stream if byte < 256 - 256 % n)
