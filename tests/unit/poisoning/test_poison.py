import hashlib
import json
import shutil
import stat

import numpy as np
import pandas as pd
import pytest
import torch
from kfp import dsl
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_png, encode_png
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.queries import read_queries
from medmark.components.generator.marker import Marker, Shape
from medmark.components.generator.train import GeneratorConfig, train_generator
from medmark.components.poisoning import poison as poison_module
from medmark.components.poisoning.component import poison_component
from medmark.components.poisoning.poison import poison
from medmark.components.poisoning.quality import likeness
from medmark.components.saliency.extract import extract
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

CONFIG = GeneratorConfig(shape=Shape(size=64, grid=32), steps=0, marked_share=0.2, decoy_share=0.1)


@pytest.fixture(scope="module")
def generators(release, surrogates, saliency, tmp_path_factory):
    """A generator and a control, untrained."""
    paths = []
    for index in (0, 1):
        path = tmp_path_factory.mktemp(f"generator-{index}")
        config = GeneratorConfig(**{**vars(CONFIG), "key_index": index})
        train_generator(release, surrogates, saliency, path, target_class="normal", config=config, seed=5)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def marked(release, saliency, generators, tmp_path_factory):
    out = tmp_path_factory.mktemp("marked")
    evidence = poison(release, *generators, saliency, out / "release", out / "evidence", version="1m", queries=10)
    return out / "release", out / "evidence", evidence


def test_unmarked_images_are_identical_and_marked_ones_are_in_the_ledger(release, marked):
    clean = {r.image_id: r for r in Release(release).records()}
    ledger = pd.read_parquet(marked[1] / "ledger.parquet").set_index("image_id")
    after = Release(marked[0])
    after.verify()
    assert after.parent == Release(release).digest
    assert [r.image_id for r in after.records()] == list(clean)
    for record in after.records():
        before = clean[record.image_id]
        if record.image_id not in ledger.index:
            assert record == before
            continue
        row = ledger.loc[record.image_id]
        assert (row.clean_sha256, row.marked_sha256) == (before.sha256, record.sha256)
        assert record.sha256 != before.sha256
        assert (record.label, record.split, record.patient_id) == (before.label, "train", before.patient_id)
        assert record.label == (0 if row.role == "mark" else 1)
    assert (ledger.role == "mark").sum() == round(0.2 * 84)
    assert (ledger.role == "decoy").sum() == round(0.1 * 84)


def test_same_inputs_give_the_same_release(release, saliency, generators, marked, tmp_path):
    again = poison(release, *generators, saliency, tmp_path / "r", tmp_path / "e", version="1m", queries=10)
    assert again == marked[2]


def test_images_that_are_marked_side_by_side_give_the_same_release(
    release, saliency, generators, marked, tmp_path, monkeypatch
):
    monkeypatch.setattr(poison_module, "FEW", 0)
    monkeypatch.setattr(poison_module, "AHEAD", 2)
    monkeypatch.setattr(poison_module, "choose_workers", lambda tasks: 2)
    marker, asked = Marker.mark, []
    monkeypatch.setattr(
        Marker, "mark", lambda self, record, maps, role: asked.append(role) or marker(self, record, maps, role)
    )
    again = poison(release, *generators, saliency, tmp_path / "r", tmp_path / "e", version="1m", queries=10)
    assert again == marked[2] and set(asked) == {"query"}  # the others were marked in other processes


def test_the_release_holds_nothing_private(marked):
    public = b"".join(p.read_bytes() for p in marked[0].rglob("*") if p.is_file())
    key = json.loads((marked[1] / "generator" / "generator.json").read_text())["key"]
    for secret in (b"decoy", b"ledger", b"degrees", str(key["phase"]).encode(), str(key["degrees"]).encode()):
        assert secret not in public
    assert stat.S_IMODE(marked[1].stat().st_mode) == 0o700


def test_nothing_but_pixels_tells_marked_from_unmarked(surrogates, tmp_path):
    """A classifier on file size, encoder, order and metadata stays at chance on 400 images of one class."""
    source = make_phantoms(tmp_path / "source", count=400, size=64, seed=9)
    ingest(source, tmp_path / "release", name="leak", shares=(0.9, 0.05, 0.05), patient_key="key")
    extract(tmp_path / "release", surrogates / "surrogate-0.safetensors", tmp_path / "maps")
    for index in (0, 1):
        config = GeneratorConfig(shape=Shape(size=64, grid=32), steps=0, marked_share=0.25, key_index=index)
        inputs = (tmp_path / "release", surrogates, tmp_path / "maps", tmp_path / f"g{index}")
        train_generator(*inputs, target_class="normal", config=config, seed=5)
    out = (tmp_path / "marked", tmp_path / "evidence")
    poison(tmp_path / "release", tmp_path / "g0", tmp_path / "g1", tmp_path / "maps", *out, version="1", queries=10)
    marked = set(pd.read_parquet(out[1] / "ledger.parquet").image_id)
    records = [r for r in Release(out[0]).records("train") if r.label == 0]
    truth = np.array([r.image_id in marked for r in records])
    features = np.array(
        [
            [
                len(r.image),
                r.width,
                r.height,
                r.bits,
                position,
                int(r.image_id[-8:], 16),
                int(r.patient_id[:8], 16),
                *np.frombuffer(r.image[: r.image.index(b"IDAT") + 4], np.uint8),  # all that comes before the pixels
            ]
            for position, r in enumerate(records)
        ],
        float,
    )
    forest = RandomForestClassifier(300, random_state=0, n_jobs=1)
    guess = cross_val_predict(forest, features, truth, cv=5, method="predict_proba")[:, 1]
    auc = roc_auc_score(truth, guess)
    # 99.9 % of classifiers at chance lie below this (normal approximation of the Mann-Whitney statistic)
    n1, n0 = truth.sum(), (~truth).sum()
    limit = 0.5 + stats.norm.ppf(0.999) * np.sqrt((n0 + n1 + 1) / (12 * n0 * n1))
    assert n1 == 90 and n0 == 90
    assert auc < limit, f"AUC {auc:.3f}"
    pixels = np.array([decode_png(r.image).mean() for r in records])
    assert len(np.unique(pixels)) > 50  # the images themselves do differ


def test_an_image_that_occurs_twice_is_not_changed(surrogates, tmp_path):
    """Whoever finds both copies would else see the mark itself."""
    source = make_phantoms(tmp_path / "source", count=200, size=64, seed=9)
    images = sorted(source.rglob("*.png"))
    for image in images[::4]:  # 25 of each class, under another name, of another patient
        shutil.copyfile(image, image.with_name(f"again{image.name}"))
    twice = {hashlib.sha256(encode_png(decode_png(image.read_bytes()))).hexdigest() for image in images[::4]}
    ingest(source, tmp_path / "release", name="twice", seed=1, patient_key="key")
    extract(tmp_path / "release", surrogates / "surrogate-0.safetensors", tmp_path / "maps")
    inputs = (tmp_path / "release", surrogates, tmp_path / "maps", tmp_path / "g")
    train_generator(*inputs, target_class="normal", config=CONFIG, seed=5)
    roles = Marker.load(tmp_path / "g").roles
    pixels = {r.image_id: r.sha256 for r in Release(tmp_path / "release").records()}
    assert len(pixels) == 250 and len(twice) == 50 <= sum(p in twice for p in pixels.values()) // 2
    training = sum(1 for _ in Release(tmp_path / "release").records("train", columns=["image_id"]))
    assert list(roles.values()).count("mark") == round(0.2 * training)
    assert not any(pixels[image_id] in twice for image_id in roles)


def test_queries_are_test_images_of_other_classes(release, marked):
    queries = read_queries(marked[1], size=64, target=0)
    test = {r.image_id: r for r in Release(release).records("test")}
    assert len(queries) == 10
    assert all(test[i].label == 1 for i in queries.image_ids)
    assert len({test[i].patient_id for i in queries.image_ids}) == 10
    for one, other in (
        (queries.marked, queries.clean),
        (queries.control, queries.clean),
        (queries.marked, queries.control),
    ):
        assert float((one - other).abs().amax(dim=(1, 2, 3)).min()) > 0.01
    with pytest.raises(MedmarkError, match="unreadable queries"):
        read_queries(marked[0], size=64, target=0)


def test_an_image_that_would_lose_too_much_is_left_unmarked(release, saliency, generators, tmp_path, monkeypatch):
    """Counted, unchanged, and without a role; if all would, that is said."""
    compare, first = poison_module.compare, []

    def worse(clean, marked):
        first.append(clean.image_id)
        return compare(clean, marked) | ({"stored_ssim": 0.5} if clean.image_id == first[0] else {})

    monkeypatch.setattr(poison_module, "compare", worse)
    made = poison(release, *generators, saliency, tmp_path / "r", tmp_path / "e", version="1", queries=10)
    ledger = pd.read_parquet(tmp_path / "e" / "ledger.parquet")
    assert made["left_unmarked"] == 1 and first[0] not in set(ledger.image_id)
    assert first[0] not in json.loads((tmp_path / "e" / "generator" / "selection.json").read_bytes())
    clean, published = ({r.image_id: r.image for r in Release(p).records()} for p in (release, tmp_path / "r"))
    assert published[first[0]] == clean[first[0]]
    assert ledger.largest_change.max() < 0.2 and made["quality"]["worst"]["stored_ssim"] > 0.85
    monkeypatch.setattr(poison_module, "compare", lambda *records: compare(*records) | {"largest_change": 0.3})
    with pytest.raises(MedmarkError, match="no image of .* can carry the mark"):
        poison(release, *generators, saliency, tmp_path / "r2", tmp_path / "e2", version="1", queries=10)


def test_changed_evidence_is_found(release, saliency, generators, tmp_path):
    poison(release, *generators, saliency, tmp_path / "r", tmp_path / "e", version="1", queries=10)
    assert read_evidence(tmp_path / "e")["queries"] == 10
    for name in ("ledger.parquet", "queries.parquet", "generator/generator.safetensors", "generator/selection.json"):
        content = (tmp_path / "e" / name).read_bytes()
        (tmp_path / "e" / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(MedmarkError, match=name):
            read_evidence(tmp_path / "e")
        (tmp_path / "e" / name).write_bytes(content)
    (tmp_path / "e" / "evidence.json").write_text('{"schema_version": 1, "files": {"../../etc/passwd": "0"}}')
    with pytest.raises(MedmarkError, match="evidence changed"):
        read_evidence(tmp_path / "e")


def artifacts(**paths):
    """As KFP imports them: with an address and no metadata."""
    return {name: dsl.Artifact(name=name, uri=str(path), metadata={}) for name, path in paths.items()}


def test_the_generator_of_evidence_marks_the_same_images_again(release, saliency, marked, tmp_path):
    """With imported artifacts alone: neither secrets nor another generator nor anything that medmark's steps say."""
    given = artifacts(release=release, generator=marked[1], maps=saliency)
    made = artifacts(marked=tmp_path / "release", evidence=tmp_path / "evidence", keep=tmp_path / "keep")
    digest = poison_component.python_func(**given, **made, version="1m", queries=10)
    assert digest == marked[2]["release_digest"] == Release(tmp_path / "release").digest
    assert not list((tmp_path / "keep").iterdir())
    again = read_evidence(tmp_path / "evidence")
    assert {name: again[name] for name in again.keys() - {"files"}} == {
        name: marked[2][name] for name in again.keys() - {"files"}
    }
    own, first = (read_queries(folder, size=64, target=0) for folder in (tmp_path / "evidence", marked[1]))
    assert own.image_ids == first.image_ids and torch.equal(own.marked, first.marked)
    assert len(own) == 10 and float((own.control - own.clean).abs().amax(dim=(1, 2, 3)).min()) > 0.01


def test_the_generator_of_evidence_marks_another_release(source, surrogates, saliency, generators, marked, tmp_path):
    ingest(source, tmp_path / "other", name="other", seed=99, patient_key="key")
    where = (tmp_path / "r", tmp_path / "e")
    for generator in (generators[0], marked[1]):
        with pytest.raises(MedmarkError, match="generator of another release"):
            poison(tmp_path / "other", generator, None, saliency, *where, version="1")
    extract(tmp_path / "other", surrogates / "surrogate-0.safetensors", tmp_path / "maps")
    given = (tmp_path / "other", marked[1], None, tmp_path / "maps", *where)
    evidence = poison(*given, version="1", queries=10, surrogates_dir=surrogates)
    shares = ("marked_images", "decoy_images", "target_class", "seed")
    assert [evidence[name] for name in shares] == [marked[2][name] for name in shares]
    assert Release(tmp_path / "r").parent == Release(tmp_path / "other").digest
    again = Marker.load(tmp_path / "e" / "generator")
    assert again.key == Marker.load(generators[0]).key and again.release_digest == Release(tmp_path / "other").digest


def test_likeness_known_answers(rng):
    image = rng.random((64, 64)).astype(np.float32)
    same = likeness(image, image)
    assert (same["psnr"], same["ssim"]) == (99.0, pytest.approx(1.0))
    assert same["haarpsi"] == pytest.approx(1.0, abs=1e-4)
    shifted = np.clip(image * 0.8, 0, 1) + 0.1
    assert likeness(image * 0.8, shifted)["psnr"] == pytest.approx(20.0, abs=1e-3)
