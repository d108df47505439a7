"""The owner's text as 16 x 16 modules, and how likely it is that a model shows them by chance.

A text of at most 16 bytes becomes 256 bits by a public linear code, and these are added modulo 2 to 256 secret random bits, the *pad*.
The modules are therefore as random as the pad, whatever the text: a model that was trained without them agrees with each by a fair
coin's toss, and the binomial tail of the matches is an exact p-value.

The code is a random one (ours), decoded by ordered statistics (Fossorier and Lin, IEEE Trans. Inf. Theory 41, 1995), which use how
certain each module is. It corrects twice as many wrong modules as Reed-Solomon over bytes at the same rate, because modules go wrong singly
and not in bytes (benchmarks/results/payload_codes.json). The QR symbol that shows the text is protected by Reed-Solomon, as all are.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from medmark.components.base.errors import MedmarkError
from scipy import stats

SIDE = 16  # modules a side
MODULES = SIDE * SIDE
TEXT_BYTES = 16
TEXT_BITS = 8 * TEXT_BYTES
MOST_WRONG = 26  # modules: few random words are that near to any word of the code, and few words are texts
TRIES = 200  # ours


@dataclass(frozen=True)
class Decoded:
    """A text that was read.

    Attributes:
        text: of the owner.
        corrected: wrong modules that were corrected.
    """

    text: str
    corrected: int


def payload_modules(text: str, mark_key: bytes) -> np.ndarray:
    """Returns the modules of a text.

    Args:
        text: 1 to 16 bytes in UTF-8, printable.
        mark_key: 32 secret bytes.

    Returns:
        (16, 16) uint8: 1 where the model is to be doubtful.

    Raises:
        MedmarkError: a text that cannot be carried.
    """
    data = checked_text(text).ljust(TEXT_BYTES, b"\0")
    word = np.unpackbits(np.frombuffer(data, np.uint8)) @ _code() % 2
    return (word ^ _pad(mark_key)).reshape(SIDE, SIDE).astype(np.uint8)


def checked_text(text: str) -> bytes:
    """Returns a text's bytes.

    Raises:
        MedmarkError: empty, longer than 16 bytes, or not printable.
    """
    data = text.encode(errors="replace")
    if not 1 <= len(data) <= TEXT_BYTES or not text.isprintable():
        raise MedmarkError(
            f"text of {len(data)} bytes for the mark: {text!r:.60}; give 1 to {TEXT_BYTES} printable bytes, for example a"
            " short name and a year"
        )
    return data


def decode(values: np.ndarray, threshold: float, mark_key: bytes) -> Decoded | None:
    """Decodes what was read from a model; knows the pad and not the text.

    Args:
        values: (16, 16), how doubtful the model is in each module; any scale.
        threshold: above it a module is 1.
        mark_key: of the payload.

    Returns:
        The text, or None if there is none near enough.
    """
    pad = _pad(mark_key)
    doubt = (values - threshold).ravel()
    certainty, soft = np.abs(doubt), np.where(pad == 1, -doubt, doubt)
    rng = np.random.default_rng(0)
    for attempt in range(TRIES):
        # by certainty at first; later partly at random, because a wrong module may look certain
        believed = certainty if attempt == 0 else certainty * rng.random(MODULES)
        word = _nearest_word(soft, np.argsort(-believed, kind="stable"))
        wrong = int(((soft > 0) != word).sum())
        text = _text(word)
        if text and wrong <= MOST_WRONG:
            return Decoded(text, wrong)
    return None


def _text(word: np.ndarray) -> str | None:
    """The text of a word of the code; None if it is none."""
    try:
        text = np.packbits(word[:TEXT_BITS]).tobytes().rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def matches(values: np.ndarray, threshold: float, modules: np.ndarray) -> int:
    """Counts the modules that were read as they are in a payload.

    Args:
        values, threshold: as of :func:`decode`.
        modules: (16, 16) of :func:`payload_modules`.
    """
    return int(((values > threshold) == (modules == 1)).sum())


def match_p_value(count: int) -> float:
    """Returns the chance of at least so many matches for any model that was trained without the payload.

    Exact, because each module agrees with probability 1/2 whatever the model answers: the pad is drawn uniformly and
    apart from the model.

    Args:
        count: modules that match, 0 to 256.
    """
    return float(stats.binom.sf(count - 1, MODULES, 0.5))


def _pad(mark_key: bytes) -> np.ndarray:
    """The 256 bits that are added to the word."""
    drawn = HKDFExpand(SHA256(), MODULES // 8, b"medmark segmenter pad, version 1").derive(mark_key)
    return np.unpackbits(np.frombuffer(drawn, np.uint8))


@functools.cache
def _code() -> np.ndarray:
    """The code's generator matrix, (128, 256) uint8: the text's own bits, and as many sums of them."""
    drawn = hashlib.shake_256(b"medmark segmenter code, version 1").digest(TEXT_BITS * (MODULES - TEXT_BITS) // 8)
    parity = np.unpackbits(np.frombuffer(drawn, np.uint8)).reshape(TEXT_BITS, -1)
    return np.hstack([np.eye(TEXT_BITS, dtype=np.uint8), parity])


def _nearest_word(soft: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Finds the word of the code that contradicts least: ordered statistics of order 2.

    The first 128 bits that determine a word are believed but for any two of them.

    Args:
        soft: (256,), positive for 1; the more certain, the further from 0.
        order: (256,) positions, those to believe first.
    """
    certainty, hard = np.abs(soft), (soft > 0).astype(np.uint8)
    rows = _code().copy()
    basis: list[int] = []
    for column in order:
        rank = len(basis)
        pivots = np.flatnonzero(rows[rank:, column])
        if not len(pivots):
            continue
        rows[[rank, rank + pivots[0]]] = rows[[rank + pivots[0], rank]]
        others = np.flatnonzero(rows[:, column])
        rows[others[others != rank]] ^= rows[rank]
        basis.append(int(column))
        if len(basis) == TEXT_BITS:
            break
    base = hard[basis] @ rows % 2
    best, least = base, float((base ^ hard) @ certainty)
    changes = np.vstack([np.zeros_like(base), rows])
    for row in changes:
        words = changes ^ base ^ row
        costs = (words ^ hard) @ certainty
        if costs.min() < least:
            best, least = words[costs.argmin()], float(costs.min())
    return best
