"""Each step through its KFP interface, without KFP running it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from kfp_metadata import readable
from medmark.components.base.digests import file_sha256
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.secrets import seeds_of
from medmark.components.lineage.events import artifact_digest, check_record, read_steps


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
        (steps.benign_models, steps.digest, 2),
        (steps.marked_models, steps.marked_digest, 2),
    ):
        assert models(artifact)["release_digest"] == digest
        assert len(models(artifact)["models"]) == count
    assert [m["architecture"] for m in models(steps.marked_models)["models"]] == ["small_cnn", "resnet_tiny"]


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


def test_the_same_seed_gives_the_same_release(runs, steps):
    assert Release(runs[0] / "release").digest == steps.marked_digest


def test_check_release(steps):
    verdict = json.loads((Path(steps.check.path) / "verdict.json").read_bytes())
    assert verdict["verdict"] == steps.checked["verdict"] == steps.check.metadata["verdict"]
    assert verdict["verdict"] != "owned"  # nothing was learnt, and two benign models are too few
    assert verdict["release_digest"] == steps.checked["release_digest"] == steps.marked_digest
    assert steps.checked["evidence_digest"] == file_sha256(Path(steps.complete.path) / "evidence.json")


def test_report(steps):
    page = Path(steps.report.path).read_text()
    assert page.lstrip().lower().startswith("<!doctype html") and steps.marked_digest in page
    assert 'src="http' not in page and 'href="http' not in page
    assert "Do not publish this release." in Path(steps.summary.path).read_text()
    assert steps.metrics.metadata["works"] == 0.0


def test_every_step_says_how_long_it_took(steps):
    ports = "clean surrogates benign_models maps generator control marked marked_models check report"
    assert all(getattr(steps, port).metadata["seconds"] > 0 for port in ports.split())


def test_metadata_refers_to_secrets_and_the_evidence_holds_them(steps, tiny):
    """Metadata is written into every log; the evidence must do without the run."""
    made, drawn = [artifact for artifact in vars(steps).values() if hasattr(artifact, "metadata")], seeds_of(tiny.seed)
    told = readable(json.dumps([artifact.metadata for artifact in made]))
    assert len(made) == 24 and "$secret" in told and not [n for n in drawn.values() if str(n)[:-4] in told]
    kept = json.dumps(read_steps(steps.complete.path)["events"])
    assert (
        "$secret" not in kept and f'"{drawn["seed"]}"' in kept and f'\\"seed\\": {drawn["models_seed"] + 5000}' in kept
    )
    assert str(drawn["ingest_seed"]) in kept


def test_every_artifact_says_how_it_was_made(steps):
    record, kept = json.loads(Path(steps.record.path).read_bytes()), read_steps(steps.complete.path)
    check_record(record, kept)
    names = [step["name"] for step in record["steps"]]
    assert names[:2] == ["draw secrets", "ingest"] and names[-1] == "verify" and names.count("train classifiers") == 4
    assert (names.count("prepare"), names.count("gather models")) == (2, 1)
    assert record["release_digest"] == steps.marked_digest and record["parent_digest"] == steps.digest
    assert record["steps"][1]["outputs"]["clean"] == {"sha256": steps.digest}
    assert "steps.json" in read_evidence(steps.complete.path)["files"]


def test_every_recorded_digest_is_still_that_of_the_artifact(steps):
    """Nothing may be added to an artifact once its step has recorded it."""
    events = read_steps(steps.complete.path)["events"]
    recorded = [port["facets"]["version"]["datasetVersion"] for event in events for port in event["outputs"]]
    own = [
        artifact for name, artifact in vars(steps).items() if not name.startswith("manifest")
    ]  # a copy says what the release says
    made = [artifact for artifact in own if "lineage" in getattr(artifact, "metadata", ())]
    assert len(made) == 17 and sorted(recorded) == sorted(artifact_digest(artifact.path) for artifact in made)
