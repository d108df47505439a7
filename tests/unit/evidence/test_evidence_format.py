"""Evidence written by the first version must be readable for as long as there is a medmark."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_up_evidence import SIDE, Model
from medmark.components.evidence.answers import read_benign
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.queries import read_queries
from medmark.components.generator.marker import Marker
from medmark.components.verification.audit import audit_suspects
from medmark.components.verification.verdict import Thresholds

FIXTURE = Path(__file__).parents[2] / "fixtures" / "evidence-v1"


def test_every_file_is_read():
    evidence = read_evidence(FIXTURE)
    assert evidence["target_class"] == "normal" and evidence["class_names"] == ["normal", "pneumonia"]
    assert Thresholds(**evidence["thresholds"]) == Thresholds(alpha=0.01, tau=0.2, conformal_alpha=0.05, min_queries=30)
    queries = read_queries(FIXTURE, size=SIDE, target=0)
    assert len(queries) == 14 and queries.image_ids[:2] == ["image-00", "image-01"]
    assert queries.clean.double().mean().item() == pytest.approx(0.5124694, abs=1e-6)
    benign_models = read_benign(FIXTURE, queries.image_ids)
    assert len(benign_models) == 20
    assert benign_models["innocent-19"].p_marked[0] == pytest.approx(0.0479412, abs=1e-6)
    marker = Marker.load(FIXTURE / "generator")
    assert (marker.key.degrees, marker.key.cycles) == (pytest.approx(87.48434972), pytest.approx(6.90386292))
    assert marker.roles == {"p1_0001": "mark", "p2_0001": "decoy"}
    assert pq.read_table(FIXTURE / "ledger.parquet").to_pylist()[0]["ssim"] == 0.96


def test_an_audit_still_says_the_same(tmp_path):
    (suspect,) = audit_suspects(FIXTURE, [Model("adversary", reaction=9)], tmp_path)["suspects"]
    assert (suspect["verdict"], suspect["queries"]) == ("inconclusive", 14)
    assert suspect["e_values_log10"]["effect"] == pytest.approx(2.163090, abs=1e-6)
