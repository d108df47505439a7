"""How many wrong modules the code of a segmenter's payload corrects, beside Reed-Solomon over bytes at the same rate.

    python benchmarks/payload_codes.py

256 modules for 16 bytes of text. Modules are read with Gaussian noise, so that doubtful ones are more often wrong ("soft"), or are wrong at
random and look certain ("hard"). Reed-Solomon RS(32, 16) takes the bytes with the most doubtful modules as erasures, up to ten. 50 texts a row,
seed 0. Writes ``results/payload_codes.json``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from marking import machine
from medmark.components.base.threads import use_threads
from medmark.components.segmentation.payload import MODULES, TEXT_BYTES, decode, payload_modules
from reedsolo import ReedSolomonError, RSCodec
from scipy import stats

TEXTS = 50
SHARES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10)
ERASURES = 10


def read(bits: np.ndarray, share: float, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Values of modules that are 1 or 0, read so that about this share is wrong."""
    signs = np.where(bits == 1, 1.0, -1.0)
    if kind == "soft":
        return signs + rng.normal(0, 1 / -stats.norm.ppf(share), bits.shape)
    return signs * np.where(rng.random(bits.shape) < share, -1, 1) * rng.uniform(0.9, 1.1, bits.shape)


def reed_solomon(values: np.ndarray, codec: RSCodec) -> bytes | None:
    """The 16 bytes that Reed-Solomon makes of 256 values."""
    word = np.packbits((values > 0).astype(np.uint8)).tobytes()
    doubtful = np.argsort(np.abs(values).reshape(-1, 8).min(axis=1))
    for erased in range(0, ERASURES + 1, 2):
        try:
            return bytes(codec.decode(bytearray(word), erase_pos=[int(i) for i in doubtful[:erased]])[0])
        except ReedSolomonError:
            continue
    return None


def main() -> None:
    use_threads()
    rng, codec, rows = np.random.default_rng(0), RSCodec(TEXT_BYTES), []
    for kind in ("soft", "hard"):
        for share in SHARES:
            ours = theirs = 0
            wrong = []
            for _ in range(TEXTS):
                text, key = "".join(rng.choice(list("abcdefghij"), TEXT_BYTES)), rng.bytes(32)
                modules = payload_modules(text, key)
                values = read(modules, share, kind, rng)
                wrong.append(float(((values > 0) != modules).mean()))
                found = decode(values, 0.0, key)
                ours += found is not None and found.text == text
                word = np.unpackbits(np.frombuffer(bytes(codec.encode(text.encode())), np.uint8))
                theirs += reed_solomon(read(word, share, kind, rng), codec) == text.encode()
            rows.append(
                {
                    "kind": kind,
                    "wrong_share": float(np.mean(wrong)),
                    "exact": ours / TEXTS,
                    "reed_solomon": theirs / TEXTS,
                }
            )
            print(rows[-1], flush=True)
    results = {"machine": machine(), "seed": 0, "texts": TEXTS, "modules": MODULES, "rows": rows}
    path = Path(__file__).parent / "results" / "payload_codes.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
