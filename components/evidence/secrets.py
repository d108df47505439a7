"""What a first marking draws at random, and how it reaches the steps: in a file, because everybody with access to a run sees
its parameters, and Kubeflow writes them into every step's log.

A parameter refers to a secret as ``{"$secret": NAME}``, or ``{"$secret": NAME, "plus": NUMBER}``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.parameters import whole
from medmark.components.base.private_files import write_private
from medmark.components.dataset.pseudonyms import kept_patient_key

SEED_BITS = 48  # a seed that a user gives travels through JSON, where numbers are exact to 53 bits
KEY_BYTES = 32
REFERENCE = "$secret"
# splits can be seen in a release, so they confirm a guess of the seed: each guess shall be dear; 128 MiB and, measured, 0.4 s
# on one core
SCRYPT = {"n": 2**17, "r": 8, "p": 1, "maxmem": 2**28}
# no secret, and the same everywhere: one seed gives one release
SALT = b"medmark seed, version 1"


@dataclass(frozen=True)
class Secrets:
    """Drawn apart: the order of a release or a known patient's pseudonym must not give the mark away.

    Attributes:
        seed: of the mark, 48 bits.
        ingest_seed: of order and splits, which everybody sees; 48 bits.
        models_seed: of surrogates, benign models and marked models; 48 bits. A trained network tells the seed that it began with
            (benchmarks/results/seed_in_weights.json), and surrogates may go to a shared MLflow.
        patient_key: of the pseudonyms, 256 bits in hex.
    """

    seed: int
    ingest_seed: int
    models_seed: int
    patient_key: str


NAMES = [field.name for field in fields(Secrets)]


@functools.cache
def seeds_of(seed: int) -> dict[str, int]:
    """``seed``, ``ingest_seed`` and ``models_seed`` of a seed that a user gives, 48 bits each; one does not tell another.

    Made with scrypt and HKDF, so that trying seeds takes long. Guessing the seed gives all three nevertheless: use it for
    figures, not for releases.
    """
    key = hashlib.scrypt(str(seed).encode(), salt=SALT, dklen=KEY_BYTES, **SCRYPT)
    return {
        name: int.from_bytes(HKDFExpand(SHA256(), SEED_BITS // 8, f"medmark {name}".encode()).derive(key), "big")
        for name in ("seed", "ingest_seed", "models_seed")
    }


def draw_secrets(path: str | Path, seed: int | None, patients: str | Path | None = None) -> None:
    """Writes a file with secrets.

    Args:
        path: of the file; readable by its owner only.
        seed: all but the key of the pseudonyms follow from it, see :func:`seeds_of`; None: drawn.
        patients: private file with that key, see :func:`medmark.components.dataset.pseudonyms.kept_patient_key`; None: drawn.

    Raises:
        MedmarkError: no key in ``patients``.
    """
    seeds = seeds_of(seed) if seed is not None else {name: secrets.randbits(SEED_BITS) for name in NAMES[:3]}
    drawn = Secrets(**seeds, patient_key=kept_patient_key(patients) if patients else secrets.token_hex(KEY_BYTES))
    # the file's digest is part of the metadata; without a salt it would confirm a guess of the seed
    write_private(path, canonical_json({**asdict(drawn), "salt": secrets.token_hex(KEY_BYTES)}))


def read_secrets(path: str | Path) -> Secrets:
    """What :func:`draw_secrets` wrote.

    Raises:
        MedmarkError: it is missing or damaged.
    """
    try:
        held = json.loads(Path(path).read_bytes())
        return Secrets(**{name: held[name] for name in NAMES})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedmarkError(f"no secrets: {path} ({type(error).__name__}); start the run again") from None


def resolved(value: Any, drawn: Secrets | None) -> Any:
    """A parameter with secrets in place of references, and whole numbers as integers again.

    Args:
        value: as a component received it.
        drawn: None: nothing refers to secrets.

    Raises:
        MedmarkError: a reference to no known secret.
    """
    if isinstance(value, list):
        return [resolved(item, drawn) for item in value]
    if not isinstance(value, dict):
        return whole(value)
    if REFERENCE not in value:
        return {key: resolved(item, drawn) for key, item in value.items()}
    name, plus = value[REFERENCE], value.get("plus")
    if drawn is None or name not in NAMES:
        raise MedmarkError(f"no secret {name!r} for this step; give it the run's secrets, and one of their names")
    secret = getattr(drawn, name)
    return secret if plus is None else secret + whole(plus)
