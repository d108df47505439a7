"""``locks.parquet``, private: for each image of a locked release where its logo is, and, sealed, what the logo hides."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from medmark.components.base.digests import HEX, canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.dataset.release import IMAGE_ID

LOCKS = "locks.parquet"
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("locked_sha256", pa.string()),
        ("logo", pa.string()),
        ("x", pa.int32()),
        ("y", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("alpha", pa.int32()),
        ("scale", pa.float64()),
        ("lesions_from", pa.string()),
        ("masked", pa.bool_()),
        ("salt", pa.binary()),
        ("sealed", pa.binary()),
    ]
)
PUBLIC_FIELDS = ("image_id", "locked_sha256", "logo", "x", "y", "width", "height", "alpha", "scale", "lesions_from")


@dataclass(frozen=True)
class Lock:
    """The lock of one image.

    Attributes:
        image_id: of the image.
        locked_sha256: SHA-256 of the locked image as PNG, hex.
        logo: :attr:`medmark.components.locking.logo.Logo.digest`.
        x, y, width, height: the logo's place, pixels of the image.
        alpha: the logo's opacity, 0 to 255.
        scale: the logo's longer side as a share of the image's.
        lesions_from: see :attr:`medmark.components.locking.lesions.Lesions.source`.
        masked: whether the mask of its lesions is sealed as well.
        salt: 32 random bytes, so that nobody can guess the certificate from its hash.
        sealed: what the logo hides, see :mod:`medmark.components.locking.seal`.
    """

    image_id: str
    locked_sha256: str
    logo: str
    x: int
    y: int
    width: int
    height: int
    alpha: int
    scale: float
    lesions_from: str
    masked: bool
    salt: bytes
    sealed: bytes

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width and height."""
        return self.x, self.y, self.width, self.height

    def stated(self) -> dict[str, Any]:
        """What a certificate says of the image, but for the salt."""
        return {name: getattr(self, name) for name in PUBLIC_FIELDS}

    @property
    def bound(self) -> bytes:
        """What the sealed bytes are bound to: all that is said of the image."""
        return canonical_json({**self.stated(), "masked": self.masked})

    def certificate(self) -> bytes:
        """The image's entry in the list of certificates."""
        return canonical_json({**self.stated(), "salt": self.salt.hex()})


def write_locks(folder: Path, locks: list[Lock]) -> None:
    """Writes the file, in the order of the release's images."""
    rows = [{field.name: getattr(lock, field.name) for field in fields(Lock)} for lock in locks]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / LOCKS, compression="zstd")


def read_locks(path: Path) -> list[Lock]:
    """Reads the file.

    Args:
        path: of ``locks.parquet``, or of the evidence with it.

    Raises:
        MedmarkError: it is missing or damaged.
    """
    file = path / LOCKS if path.is_dir() else path
    try:
        rows = pq.read_table(file, schema=SCHEMA).to_pylist()
        locks = [Lock(**row) for row in rows]
        for lock in locks:
            if (
                None in vars(lock).values()
                or not IMAGE_ID.fullmatch(lock.image_id)
                or not HEX.fullmatch(lock.locked_sha256)
            ):
                raise ValueError("a field is missing or malformed")
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise MedmarkError(
            f"unreadable locks: {file} ({reason_of(error)}); restore the evidence from a backup"
        ) from error
    return locks
