"""What a first marking draws at random, and how it reaches the steps: in a file, because everybody with access to a run sees
its parameters, and Kubeflow writes them into every step's log.

On a cluster the file is an artifact like any other, which the run's page shows to everybody who may see the run. So it is encrypted there,
with a key that steps get from a Kubernetes secret (:data:`RUN_KEY`).

A parameter refers to a secret as ``{"$secret": NAME}``, or ``{"$secret": NAME, "plus": NUMBER}``.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.image import NOT_IN_AN_IMAGE, running_image
from medmark.components.base.parameters import whole
from medmark.components.base.private_files import write_private
from medmark.components.dataset.pseudonyms import kept_patient_key
from medmark.components.evidence.draw import KEY_BYTES, Draw

SEED_BITS = 48  # a seed that a user gives travels through JSON, where numbers are exact to 53 bits
REFERENCE = "$secret"
RUN_KEY = "MEDMARK_RUN_KEY"  # environment variable: 32 random bytes in base64, the same in all steps of a run
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
        mark_key: of the mark, 256 bits in hex.
        draw: content of ``draw.json``, from which ``seed`` and ``mark_key`` follow; None if they were drawn here.
    """

    seed: int
    ingest_seed: int
    models_seed: int
    patient_key: str
    mark_key: str
    draw: str | None = None


NAMES = [field.name for field in fields(Secrets) if field.name != "draw"]
SEEDS = ("seed", "ingest_seed", "models_seed")


def seeds_of(seed: int) -> dict[str, int]:
    """``seed``, ``ingest_seed`` and ``models_seed`` of a seed that a user gives, 48 bits each; one does not tell another.

    Made with scrypt and HKDF, so that trying seeds takes long. Guessing the seed gives all three nevertheless: use it for
    figures, not for releases.
    """
    return {name: int.from_bytes(_of_seed(seed, name, SEED_BITS // 8), "big") for name in SEEDS}


def _of_seed(seed: int, name: str, length: int) -> bytes:
    return HKDFExpand(SHA256(), length, f"medmark {name}".encode()).derive(_stretched(seed))


@functools.cache
def _stretched(seed: int) -> bytes:
    return hashlib.scrypt(str(seed).encode(), salt=SALT, dklen=KEY_BYTES, **SCRYPT)


def draw_secrets(
    path: str | Path, seed: int | None, patients: str | Path | None = None, draw: Draw | None = None
) -> None:
    """Writes a file with secrets.

    Args:
        path: of the file; readable by its owner only. A Fernet token if there is a :data:`RUN_KEY`, else JSON.
        seed: all but the key of the pseudonyms follow from it, see :func:`seeds_of`; None: drawn.
        patients: private file with that key, see :func:`medmark.components.dataset.pseudonyms.kept_patient_key`; None: drawn.
        draw: the key of the mark, drawn before; None: drawn.

    Raises:
        MedmarkError: no key in ``patients``, both a seed and a draw, or this is a step on a cluster and :data:`RUN_KEY` is missing or no
            key.
    """
    if seed is not None and draw:
        raise MedmarkError("the key of the mark follows from the seed or from the drawing; give one of them")
    if seed is not None:
        seeds, mark_key = seeds_of(seed), _of_seed(seed, "mark_key", KEY_BYTES).hex()
    else:
        seeds, mark_key = {name: secrets.randbits(SEED_BITS) for name in SEEDS}, secrets.token_hex(KEY_BYTES)
    drawn = Secrets(
        seeds["seed"],
        seeds["ingest_seed"],
        seeds["models_seed"],
        patient_key=kept_patient_key(patients) if patients else secrets.token_hex(KEY_BYTES),
        mark_key=mark_key,
    )
    if draw:
        drawn = replace(drawn, seed=draw.key.seed, mark_key=draw.key.mark_key, draw=draw.text)
    # the file's digest is part of the metadata; without a salt it would confirm a guess of the seed
    text = canonical_json({**asdict(drawn), "salt": secrets.token_hex(KEY_BYTES)})
    cipher = _cipher()
    if cipher is None and running_image() != NOT_IN_AN_IMAGE:
        raise MedmarkError(
            f"{RUN_KEY} is missing, and without it everybody who may see this run could read its secrets; create it with: kubectl create"
            ' secret generic medmark-run --from-literal=key="$(openssl rand -base64 32)"'
        )
    write_private(path, cipher.encrypt(text) if cipher else text)


def _cipher() -> Fernet | None:
    """What encrypts the file; None without a key."""
    given = os.environ.get(RUN_KEY)
    if not given:
        return None
    try:
        return Fernet(base64.urlsafe_b64encode(base64.b64decode(given, validate=True)))
    except ValueError as error:
        raise MedmarkError(
            f"{RUN_KEY} is no key: it is not 32 bytes in base64; make one with 'openssl rand -base64 32'"
        ) from error


def read_secrets(path: str | Path) -> Secrets:
    """What :func:`draw_secrets` wrote.

    Raises:
        MedmarkError: it is missing or damaged, or was encrypted with another key than :data:`RUN_KEY`.
    """
    cipher = _cipher()
    try:
        content = Path(path).read_bytes()
        held = json.loads(cipher.decrypt(content) if cipher else content)
        return Secrets(**{name: held[name] for name in NAMES}, draw=held["draw"])
    except InvalidToken:
        raise MedmarkError(
            f"secrets were not encrypted with this {RUN_KEY}: {path}; give all steps of a run the same key, or start it again"
        ) from None
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
