"""Evidence whose key was drawn with a time stamp or a beacon."""

import json
from pathlib import Path

from commitment_case import FIXTURES, Authority, copy_evidence
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.evidence.draw import Draw
from medmark.components.evidence.secrets import draw_secrets, read_secrets
from medmark.components.lineage.timestamp import request_timestamp
from medmark.components.verification.sealing import seal_evidence
from medmark.components.verification.verdict import Thresholds

FROZEN = FIXTURES / "draw-v1"


def stamp(drawing: Path, authority: Authority) -> Path:
    """Has the commitment beside a drawing stamped."""
    file = drawing.with_suffix(".commitment.tsr")
    file.write_bytes(request_timestamp(authority.url, drawing.with_suffix(".commitment.json").read_bytes()))
    return file


def drawn_evidence(folder: Path, draw: Draw | None) -> Path:
    """Complete evidence, as the steps of a run make it from the secrets: first the seed, at the end ``draw.json``."""
    folder.mkdir(parents=True)
    draw_secrets(folder / "secrets", None, None, draw)
    drawn = read_secrets(folder / "secrets")
    bare = copy_evidence(folder / "bare", seed=drawn.seed)
    seal_evidence(bare, folder / "evidence", None, Thresholds(), draw=drawn.draw)
    return folder / "evidence"


def change_draw(evidence: Path, **changes) -> None:
    """Changes ``draw.json`` and makes ``evidence.json`` name the changed file, as whoever holds the evidence can."""
    path, manifest = evidence / "draw.json", evidence / "evidence.json"
    path.write_bytes(canonical_json(json.loads(path.read_bytes()) | changes))
    content = json.loads(manifest.read_bytes())
    content["files"]["draw.json"] = file_sha256(path)
    manifest.write_bytes(canonical_json(content))
