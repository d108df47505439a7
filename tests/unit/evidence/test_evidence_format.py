"""Evidence written by the first version must be readable for as long as there is a medmark."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_evidence import SIDE, STRIPES, Model
from medmark.components.evidence.answers import read_benign
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.held_back import read_held_back
from medmark.components.evidence.key_answers import read_benign_waves
from medmark.components.evidence.queries import read_queries
from medmark.components.evidence.variants import OTHERS, read_variants
from medmark.components.generator.key import draw_key
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
    assert marker.one_phase
    assert marker.roles == {"p1_0001": "mark", "p2_0001": "decoy"}
    assert pq.read_table(FIXTURE / "ledger.parquet").to_pylist()[0]["ssim"] == 0.96


class AtOnePhase(Model):
    """The suspect that the fixture was made with: it answers to stripes where they begin in the evidence, and no others."""

    def __call__(self, images):
        shown = images[:, 0].double().numpy() - 0.5
        self.answered += len(images)
        along = (shown * STRIPES).mean(axis=(1, 2)) / 0.1
        p = 1 / (1 + np.exp(3 - self.reaction * along - 8 * shown.mean(axis=(1, 2))))
        return np.stack([p, 1 - p], axis=1)


def test_an_audit_still_says_the_same(tmp_path):
    (suspect,) = audit_suspects(FIXTURE, [AtOnePhase("adversary", reaction=9)], tmp_path)["suspects"]
    assert (suspect["verdict"], suspect["queries"]) == ("inconclusive", 14)
    assert suspect["e_values_log10"]["effect"] == pytest.approx(2.163090, abs=1e-6)


def test_version_2_has_a_key(tmp_path):
    folder = FIXTURE.with_name("evidence-v2")
    evidence = read_evidence(folder)
    assert (evidence["schema_version"], evidence["seed"]) == (2, 1590)
    assert Thresholds(**evidence["thresholds"]).key_alpha == 0.01
    panel = read_benign_waves(folder)
    assert len(panel) == 6 and not read_benign_waves(FIXTURE)
    assert panel[5].log_odds[0, 0] == pytest.approx(-0.0033460, abs=1e-6)
    marker = Marker.load(folder / "generator")
    assert marker.key == draw_key(1590) and not marker.one_phase
    (suspect,) = audit_suspects(folder, [Model("adversary", reaction=9)], tmp_path)["suspects"]
    assert (suspect["verdict"], suspect["queries"]) == ("owned", 14)
    assert suspect["key"] == {"p_value": 1 / 1800, "rank": 1, "keys": 1800, "images": 6}


def test_patients_held_back_stay_readable():
    (read,) = read_held_back(FIXTURE.with_name("held-back-v1"), size=16, seed=5, share=0.4)
    assert read.patients == ["b", "c", "a"] and read.held_back.tolist() == [True, False, False]
    assert (read.labels.tolist(), read.expected.tolist()) == ([1, 0, 0], [2.5, -0.25, 3.0])
    assert read.images.shape == (3, 1, 16, 16)
    assert [float(image.sum()) for image in read.images] == pytest.approx([132.6516, 122.81091, 130.73132])


def test_variants_stay_readable():
    read = list(read_variants(FIXTURE.with_name("variants-v1"), size=16, seed=5))
    assert [(one.label, one.published) for one in read] == [(0, 2), (1, 0), (0, 4)]
    assert read[0].images.shape == (1 + OTHERS, 1, 16, 16)
    assert [float(one.images.sum()) for one in read] == pytest.approx([1127.52942, 1128.94519, 1124.97253])
