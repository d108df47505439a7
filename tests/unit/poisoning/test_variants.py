"""Variants of marked images: all drawn and made alike, one of them published."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_run import SEED, make_run
from medmark.components.dataset.arrays import display_tensor, resize
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.variants import OTHERS, VARIANTS, published_at
from medmark.components.generator.marker import Marker
from medmark.components.poisoning import variants as module
from medmark.components.poisoning.variants import make_variants
from medmark.components.saliency.extract import load_saliency


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("variants") / "run", count=80)


def test_one_variant_is_as_published_and_the_others_differ(run):
    rows = pq.read_table(run / "evidence" / VARIANTS).to_pylist()
    changed = json.loads((run / "evidence" / "generator" / "selection.json").read_bytes())
    clean, marked = ({r.image_id: r for r in Release(run / name).records()} for name in ("clean", "release"))
    assert {row["image_id"] for row in rows} == set(changed)
    lots = {row["image_id"]: published_at(SEED, row["image_id"]) for row in rows}
    places = []
    assert len(set(lots.values())) > 3
    for row in rows:
        before, after = clean[row["image_id"]], marked[row["image_id"]]
        assert row["label"] == before.label == after.label
        images = np.stack([decode_png(image) for image in row["variants"]]).astype(float)
        assert len({image.tobytes() for image in images}) == 1 + OTHERS
        published = (display_tensor(after) * 255)[0, 0].round().numpy()
        base = (display_tensor(before) * 255)[0, 0].round().numpy()
        alike = [np.corrcoef((image - base).ravel(), (published - base).ravel())[0, 1] for image in images]
        assert alike[lots[row["image_id"]]] > max(0.8, max(alike) - 0.01)  # another phase can be as good as the same
        sizes = (images - base).std(axis=(1, 2))
        assert sizes.min() > 0
        places.append(sorted(sizes).index(sizes[lots[row["image_id"]]]))
    assert abs(np.mean(places) - OTHERS / 2) < 1.5  # it is neither fainter nor stronger than the others
    assert VARIANTS in read_evidence(run / "evidence")["files"]


def test_large_images_are_reduced_and_the_hardest_are_taken(run, tmp_path, monkeypatch):
    marker, saliency = Marker.load(run / "evidence" / "generator"), load_saliency(run / "maps")
    order = [row["image_id"] for row in pq.read_table(run / "evidence" / VARIANTS).to_pylist()]
    monkeypatch.setattr(module, "SIDE", 24)
    monkeypatch.setattr(module, "IMAGES", 5)
    clean = Release(run / "clean")
    assert make_variants(clean, marker, saliency, run / "models", tmp_path) == 5
    rows = pq.read_table(tmp_path / VARIANTS).to_pylist()
    assert [row["image_id"] for row in rows] == order[:5]
    first = next(r for r in clean.records("train") if r.image_id == rows[0]["image_id"])
    small = resize(display_tensor(first), 24)[0, 0].numpy() * 255
    for image in rows[0]["variants"]:
        pixels = decode_png(image)
        assert pixels.shape == (24, 24) and pixels.dtype == np.uint8
        assert np.corrcoef(pixels.ravel(), small.ravel())[0, 1] > 0.8
    monkeypatch.setattr(module, "CANDIDATES", 3)
    assert make_variants(clean, marker, saliency, run / "models", tmp_path) == 3


def test_another_seed_gives_other_variants_of_the_same_images(run, tmp_path):
    marker, saliency = Marker.load(run / "evidence" / "generator"), load_saliency(run / "maps")
    before = pq.read_table(run / "evidence" / VARIANTS).to_pylist()
    marker.seed += 1
    make_variants(Release(run / "clean"), marker, saliency, run / "models", tmp_path)
    after = pq.read_table(tmp_path / VARIANTS).to_pylist()
    assert [row["image_id"] for row in after] == [row["image_id"] for row in before]
    assert not {image for row in after for image in row["variants"]} & {i for row in before for i in row["variants"]}
