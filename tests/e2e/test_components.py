"""Each step through its KFP interface, without KFP running it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from medmark.components.dataset.release import Release


def models(artifact) -> dict:
    return json.loads((Path(artifact.path) / "models.json").read_bytes())


def test_ingest(steps):
    release = Release(steps.clean.path)
    release.verify()
    assert len(release) == 120
    assert steps.digest == release.digest == steps.clean.metadata["digest"]


def test_train_classifiers(steps):
    for artifact, digest, count in (
        (steps.surrogates, steps.digest, 1),
        (steps.innocents, steps.digest, 2),
        (steps.victims, steps.marked_digest, 2),
    ):
        assert models(artifact)["release_digest"] == digest
        assert len(models(artifact)["models"]) == count
    assert [m["architecture"] for m in models(steps.victims)["models"]] == ["small_cnn", "resnet_tiny"]


def test_extract_saliency(steps):
    assert pq.read_table(Path(steps.maps.path) / "saliency.parquet").num_rows == 120
    summary = json.loads((Path(steps.maps.path) / "saliency.json").read_bytes())
    assert summary["model_sha256"] == models(steps.surrogates)["models"][0]["sha256"]


def test_train_generator(steps):
    def weights(artifact):
        return (Path(artifact.path) / "generator.safetensors").read_bytes()

    assert weights(steps.generator) != weights(steps.control)


def test_poison(steps):
    clean, marked = ({r.image_id: r for r in Release(a.path).records()} for a in (steps.clean, steps.marked))
    ledger = pq.read_table(Path(steps.evidence.path) / "ledger.parquet").to_pylist()
    changed = {i for i in clean if clean[i].sha256 != marked[i].sha256}
    assert changed == {row["image_id"] for row in ledger if row["clean_sha256"] != row["marked_sha256"]} != set()
    assert {marked[i].split for i in changed} == {"train"}
    assert Release(steps.marked.path).parent == steps.digest
    assert steps.marked_digest == Release(steps.marked.path).digest


def test_check_release(steps):
    verdict = json.loads((Path(steps.check.path) / "verdict.json").read_bytes())
    assert verdict["verdict"] == steps.verdict == steps.check.metadata["verdict"]
    assert verdict["verdict"] != "owned"  # nothing was learnt, and two innocent models are too few
    assert verdict["release_digest"] == steps.marked_digest


def test_report(steps):
    page = Path(steps.report.path).read_text()
    assert page.lstrip().lower().startswith("<!doctype html") and steps.marked_digest in page
    assert 'src="http' not in page and 'href="http' not in page


def test_every_step_says_how_long_it_took(steps):
    ports = "clean surrogates innocents maps generator control marked victims check report"
    assert all(getattr(steps, port).metadata["seconds"] > 0 for port in ports.split())
