"""What a run of mark_release leaves in MLflow, and what it must not: on real MLflows, with SQLite."""

import json
import re
import shutil
import sqlite3
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from medmark.components.base.digests import canonical_json
from medmark.components.dataset.release import Release
from medmark.components.generator.key import draw_key
from medmark.components.generator.marker import Marker, Shape
from medmark.components.generator.network import ConditionalUNet
from medmark.components.lineage.events import artifact_digest, public_record, step_event, write_steps
from medmark.components.report.mark_tracking import APART, STEPS, track_marking
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.training import TrainConfig, predict_probabilities
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.suspects import open_suspect
from medmark.components.tracking.connection import QUIET
from medmark.components.tracking.registry import Model, model_name, promote, write_model
from medmark.components.tracking.runs import Tracked, log_pipeline, sync

SEED = 0x5EC2E75EED42  # 48 bits
DIGEST = "c0ffee00" * 8


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def made(release, tmp_path_factory):
    """The outputs of a pipeline that are tracked: models from the run's seed, and a generator that was 'trained'."""
    folder = tmp_path_factory.mktemp("made")
    config = TrainConfig(name="surrogate-00", size=64, epochs=1, seed=SEED + 100)
    train_models(release, folder / "models", configs=[config])
    images = [record.image_id for record in Release(release).records(split="train")]
    torch.manual_seed(SEED)
    generators = {}
    for name, history in (("trained", [{"step": 5, "twin": 0.7}]), ("bare", [])):
        roles = dict.fromkeys(images[:7], "mark")
        shape = Shape(size=64)
        marker = Marker(
            ConditionalUNet(), draw_key(SEED), shape, target=0, roles=roles, release_digest=DIGEST, seed=SEED
        )
        marker.save(folder / name)
        (folder / name / "history.json").write_bytes(canonical_json(history))
        generators[name] = folder / name
    marked = Path(shutil.copytree(release, folder / "marked"))
    manifest = json.loads((marked / "release.json").read_bytes())
    (marked / "release.json").write_bytes(canonical_json(manifest | {"parent": Release(release).digest}))
    (folder / "check").mkdir()
    answers = pd.DataFrame(
        {"image_id": images[:4], "model": "victim", "kind": "victim", "p_clean": 0.2, "p_marked": 0.9}
    )
    answers.to_parquet(folder / "check" / "scores.parquet")
    return SimpleNamespace(
        models=folder / "models", marked=marked, check=folder / "check", marker=marker, images=images, **generators
    )


@pytest.fixture
def run(made, release, tmp_path, monkeypatch):
    """A finished run's folder and how to track it."""
    out = tmp_path / "a-private-place" / "out"
    out.mkdir(parents=True)
    shutil.copytree(made.check, out / "check")
    made_by = {"clean": release, "surrogates": made.models, "generator": made.trained, "control": made.bare}
    made_by["release"] = made.marked
    events = [
        step_event(
            STEPS[name][1],
            inputs={"source": "a" * 64} if name == "clean" else {"clean": artifact_digest(release)},
            outputs={port: artifact_digest(path)},
            parameters={"setting": "kept-to-ourselves"},
            seed=SEED,
            source_files=3 if name == "clean" else None,
        )
        for (name, path), port in zip(
            made_by.items(), ("clean", "models", "generator", "generator", "marked"), strict=True
        )
    ]
    (out / "evidence").mkdir()
    steps = write_steps(out / "evidence", events)
    (out / "record.json").write_bytes(canonical_json(public_record(made.marked, steps, verdict="owned")))
    # their own tests draw them
    monkeypatch.setattr("medmark.components.report.mark_tracking.histograms", lambda *_: b"<svg/>")
    monkeypatch.setattr("medmark.components.report.mark_tracking.jpeg_and_resize_curves", lambda *_: b"<svg/>")
    verdict = {
        "malicious": {"wsr": 0.97, "delta_p": 0.8, "queries": 40},
        "independent_models": {"accused": 0},
        "accuracy": {"marked": 0.9, "benign": 0.91},
        "quality": {"ssim": 0.97},
        "marked_fraction": 0.1,
        "verdict": "owned",
        "dataset": {"target_class": "normal"},
        "robustness": [],
        "seconds": dict.fromkeys(
            (
                "ingest",
                "surrogates",
                "benign_models",
                "generator",
                "control_generator",
                "poison",
                "marked_models",
                "verify",
            ),
            1.5,
        )
        | {"total": 12.0},
    }

    def track(generator: str = "trained", models=made.models) -> None:
        parts = {name: made.models for name in ("benign_models", "marked_models")} | {"surrogates": models}
        parts |= {
            "clean": release,
            "release": made.marked,
            "evidence": out / "evidence",
            "check": out / "check",
            "record": out / "record.json",
        }
        parts |= {"generator": getattr(made, generator), "control": made.bare}
        track_marking(out, parts, verdict, {"profile": "smoke", "data": "phantoms"})

    return SimpleNamespace(out=out, track=track, digest=Release(made.marked).digest)


@pytest.fixture(scope="module")
def empty_server(tmp_path_factory):
    """MLflow takes seconds to make its tables; once is enough."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def server(tmp_path, empty_server):
    """An MLflow that is not in the run's folder, so that others may use it."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_server)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    client.create_experiment("medmark", artifact_location=(folder / "artifacts").as_uri())
    return SimpleNamespace(folder=folder, uri=uri, client=client)


def runs(client) -> dict:
    return {
        run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("medmark").experiment_id])
    }


def aliases(client, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def everything(folder) -> bytes:
    """All that an MLflow holds: its tables as text, and its files."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        text = "\n".join(database.iterdump()).encode()
    return text + b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_server_learns_neither_seed_nor_key_nor_images_nor_paths(run, made, release, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run.track()
    assert not (run.out / "unlogged").exists()
    held = everything(server.folder)
    assert run.digest.encode() in held and b"surrogate-00.val_loss" in held  # it was logged, and can be found
    for derived in range(SEED, SEED + 6000):
        assert str(derived).encode() not in held
    assert not re.search(rb"degrees|cycles|selection|seeds|decoy", held)
    for value in vars(made.marker.key).values():
        assert str(value)[:8].encode() not in held
    for image in made.images:
        assert image.encode() not in held
    for record in Release(release).records():
        assert record.image not in held
    for path in (run.out, release, made.models):
        assert str(path).encode() not in held
    assert not server.client.search_registered_models()


def test_why_a_server_gets_no_models(run, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run.track()
    found = runs(server.client)
    for step, reason in (("surrogates", "the seed that they began with"), ("generator", "the carrier")):
        assert re.match(f"not registered on a server: .*{reason}", found[step].data.tags["medmark.models"])
    assert {run.data.tags["medmark.seed"] for run in found.values()} == {"kept in the evidence"}


def test_surrogates_of_another_seed_go_to_a_server(run, release, server, monkeypatch, tmp_path):
    config = TrainConfig(name="surrogate-00", size=64, epochs=1, seed=SEED + APART)
    train_models(release, tmp_path / "apart", configs=[config])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run.track(models=tmp_path / "apart")
    (version,) = server.client.search_model_versions("name = 'phantoms-surrogate-00'")
    assert version.tags["medmark.release_digest"] == run.digest
    assert server.client.get_model_version_by_alias(version.name, "candidate").version == version.version
    assert runs(server.client)["surrogates"].data.tags["medmark.models"] == "phantoms-surrogate-00 1"
    assert version.run_id == runs(server.client)["surrogates"].info.run_id
    assert str(SEED + APART).encode() not in everything(server.folder)


def test_the_runs_own_mlflow_has_the_models_and_they_answer_as_ours(run, made, release, monkeypatch):
    run.track()
    uri = f"sqlite:///{run.out / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    names = {model.name: aliases(client, model.name) for model in client.search_registered_models()}
    assert names == {"phantoms-surrogate-00": {"candidate": "1"}, "phantoms-generator": {"candidate": "1"}}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model, names = "models:/phantoms-surrogate-00@candidate", Release(release).class_names
    suspect = open_suspect(model, Contract(answers="logits"), class_names=names)
    images = torch.rand(5, 1, 64, 64)
    ((_, classifier),) = load_models(made.models)
    np.testing.assert_allclose(suspect(images), predict_probabilities(classifier, images), atol=1e-5)
    # what lies beside evidence is not for other users of this machine
    assert (run.out / "mlartifacts").stat().st_mode & 0o077 == 0
    signature = mlflow.models.get_model_info(str(next(run.out.rglob("phantoms-generator")))).signature
    assert [tensor.shape for tensor in signature.inputs] == [(-1, 4, 32, 32)]
    assert [tensor.name for tensor in signature.outputs] == ["correction"]


def test_models_kept_for_ones_own_mlflow_are_not_sent_to_a_server(run, server, monkeypatch):
    (run.out / "mlflow.db").write_text("no database")
    run.track()
    assert list((run.out / "unlogged").rglob("*.onnx"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    sync([run.out], [])
    assert not server.client.search_registered_models()
    assert not list(server.folder.rglob("*.onnx"))
    assert len(runs(server.client)) == 9


def test_a_bare_carrier_is_no_model(run):
    run.track("bare")
    client = mlflow.MlflowClient(f"sqlite:///{run.out / 'mlflow.db'}")
    assert [model.name for model in client.search_registered_models()] == ["phantoms-surrogate-00"]
    assert runs(client)["generator"].data.tags["medmark.models"].startswith("not registered: no step of training")


def test_the_file_holds_graph_and_weights_and_nothing_of_this_machine(made, tmp_path):
    for name, network, shape in (
        ("generator", Marker.load(made.trained).network, (4, 32, 32)),
        ("surrogate", load_models(made.models)[0][1], (1, 64, 64)),
    ):
        write_model(Model(name, network, shape, "given", "answer", DIGEST), tmp_path / name)
        data = b"".join(path.read_bytes() for path in (tmp_path / name).iterdir())
        # a longer name than chance makes of weights
        assert not re.search(rb"\w{4,}\.py", (tmp_path / name / "model.onnx").read_bytes())
        assert str(tmp_path).encode() not in data and b"/components/" not in data
        assert b"input_example" not in data
        graph = onnx.load(tmp_path / name / "model.onnx").graph
        assert [tensor.name for tensor in graph.input] == ["given"]
        weights = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
        assert weights <= sum(value.numel() for value in network.state_dict().values()) + 100


def test_a_model_that_cannot_be_exported_does_not_cost_the_run(tmp_path):
    class Strange(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError("never works")

    step = Tracked("step", models=[Model("strange", Strange(), (1, 8, 8), "x", "y", DIGEST)])
    assert log_pipeline(tmp_path, Tracked("p"), [step])
    found = runs(mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}"))
    assert found["step"].data.tags["medmark.models"].startswith("not registered: ")


def tiny(name: str, digest: str) -> Tracked:
    network = torch.nn.Flatten()
    return Tracked("step", models=[Model(name, network, (1, 4, 4), "image", "logits", digest)])


def test_released_is_an_alias_of_the_versions_of_one_release(tmp_path, server, monkeypatch, capsys):
    assert promote(DIGEST, tmp_path) == []  # no MLflow anywhere
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    for digest in (DIGEST, "d" * 64):
        assert log_pipeline(tmp_path, Tracked("p"), [tiny("a", digest), tiny("b", digest)])
    assert aliases(server.client, "a") == {"candidate": "2"}
    assert promote(DIGEST, tmp_path) == promote(DIGEST, tmp_path) == ["a 1", "b 1"]
    assert aliases(server.client, "a") == {"candidate": "2", "released": "1"}
    assert promote("d" * 64, tmp_path) == ["a 2", "b 2"]
    assert aliases(server.client, "b") == {"candidate": "2", "released": "2"}
    assert promote("e" * 64, tmp_path) == []
    marked = [replace(model, model_digest="e" * 64) for model in tiny("c", DIGEST).models]
    assert log_pipeline(tmp_path, Tracked("p"), [Tracked("marked", models=marked), tiny("c", DIGEST)])
    assert promote("e" * 64, tmp_path) == ["c 1"]  # of two with one training release, the one that went out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert promote(DIGEST, tmp_path) == []
    assert "did not mark the models as released" in capsys.readouterr().err


def test_an_older_run_that_is_sent_late_is_not_the_candidate(tmp_path, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert not log_pipeline(tmp_path, Tracked("older"), [tiny("a", DIGEST)])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert log_pipeline(tmp_path / "newer", Tracked("newer"), [tiny("a", "d" * 64)])
    sync([tmp_path], [])
    assert aliases(server.client, "a") == {"candidate": "1"}
    assert len(server.client.search_model_versions("name = 'a'")) == 2


def test_names_that_mlflow_refuses_are_changed():
    assert model_name("chest x-rays: 1/2", "surrogate-00") == "chest_x-rays__1_2-surrogate-00"


def test_tags_of_a_step_come_from_the_public_record(run, made, release, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run.track()
    found = runs(server.client)
    clean = f"sha256:{Release(release).digest}"
    ingest = found["ingest"].data.tags
    assert (ingest["medmark.input.source"], ingest["medmark.output.clean"]) == (f"sha256:{'a' * 64}", clean)
    public = [step["outputs"] for step in json.loads((run.out / "record.json").read_bytes())["steps"]]
    made_by = {}
    for step in ("generator", "control_generator"):
        tags = found[step].data.tags
        assert tags["medmark.input.clean"] == clean
        kind, value = tags["medmark.output.generator"].split(":")
        assert kind == "hmac-sha256" and {"generator": {kind: value}} in public
        made_by[step] = value
        assert tags["medmark.code_version"] == version("medmark") and tags["medmark.image"]
    assert made_by["generator"] != made_by["control_generator"]
    for path in (made.trained, made.bare, made.models):
        assert artifact_digest(path).encode() not in everything(server.folder)
    assert b"kept-to-ourselves" not in everything(server.folder)
    assert found["poison"].data.tags["medmark.output.marked"] == f"sha256:{run.digest}"
    assert found["verify"].data.tags["medmark.output"].startswith("not among")  # this record has no such step
