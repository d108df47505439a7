"""The same tiny run twice: through kfp.local, and step by step through the components' own functions."""

import base64
import json
import os
import subprocess
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from container_network import container_network
from kfp import dsl
from kfp_metadata import stored
from launcher import Docker, Launcher
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.lineage.keys import new_key
from medmark.pipelines.services import EVIDENCE, down, up
from medmark.pipelines.submitting import kfp_server
from once import once
from warm_python import warm_python

# chance decides what such small models learn; the run is about steps and files, not about the verdict
TINY = {
    "size": 64, "epochs": 1, "other_architecture": "resnet_tiny", "other_epochs": 1, "surrogates": 1,
    "benign_models": 2, "generator_steps": 2, "queries": 20,
}  # fmt: skip
# of the image whose containers run the pipelines (make images-test); processes do without it
IMAGE = os.environ.get("MEDMARK_TEST_IMAGE")
collect_ignore = [] if IMAGE else ["test_images.py"]
PASSPHRASE = "correct horse battery"
RUN_KEY = base64.b64encode(bytes(range(32))).decode()
SEED = 2**47 + 12345  # as large as the secret ones that are drawn without --seed


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    return SimpleNamespace(settings=TINY, seed=SEED)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Phantoms in files that are named as hospitals name them: surname, first name, birth date and record number."""

    def make(folder: Path) -> None:
        for path in sorted(make_phantoms(folder / "phantoms", count=120, size=64, seed=1).rglob("*.png")):
            patient, number = path.stem.split("_")
            path.rename(path.with_name(f"Lindqvist{patient}-Annika-19610203-mrn88{patient}_{number}.png"))

    return once(tmp_path_factory, "hospital", make)[0] / "phantoms"


@pytest.fixture(scope="session")
def patients(tmp_path_factory):
    """Private file with the key of the pseudonyms; the first run makes it."""
    return once(tmp_path_factory, "patients", lambda folder: None)[0] / "patients.json"


@pytest.fixture(scope="session")
def warm_installed(installed, tmp_path_factory):
    """Runs the wheel's ``medmark`` and returns what ended: with the arguments given, and without this process's MLflow and paths."""
    absent = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in absent}
    with warm_python(tmp_path_factory.mktemp("warm-installed"), installed / "python") as folder:
        environment["WARM_PYTHON"] = str(folder / "python3")

        def medmark(*arguments, **options) -> subprocess.CompletedProcess:
            command = [installed / "python", Path(__file__).with_name("warm_medmark.py"), *arguments]
            given = {"env": environment | options.pop("env", {}), "umask": 0, "capture_output": True, "text": True}
            return subprocess.run([str(part) for part in command], **given, **options)

        yield medmark


@pytest.fixture(scope="session")
def runs(warm_installed, source, tiny, patients, tmp_path_factory):
    """A run of mark-release that a step refuses, and the same again with the cause removed: by the installed wheel, in a folder
    that has nothing to do with the source tree.

    Folder, exit codes, what lay in the folder, and lines on the terminal; the folder is only read.
    """
    command = ["run", "mark-release", "--data", source, "--out", "out", "--profile", "smoke", "--seed", tiny.seed]
    command += ["--patients", patients, *(f"--set={k}={v}" for k, v in tiny.settings.items())]

    def make(folder: Path) -> list[list]:
        codes, left, shown = [], [], []
        for cause in (["--set=marked_share=0.9"], []):  # more than the target class has
            done = warm_installed(*command, *cause, cwd=folder)
            codes.append(done.returncode)
            left.append(sorted(os.listdir(folder / "out")))
            shown.append(done.stderr.splitlines())
        return [codes, left, shown]

    folder, made = once(tmp_path_factory, "run", make)
    return folder / "out", *made


@pytest.fixture(scope="session")
def services(tmp_path_factory):
    """A SeaweedFS and an MLflow."""
    folder = tmp_path_factory.mktemp("store") / "services"
    try:
        yield up(folder)
    finally:
        down(folder)


@pytest.fixture(scope="session")
def steps(source, runs, patients, tmp_path_factory):
    """Every artifact of a run, made by calling each component's function; with the key of the pseudonyms that ``runs`` made."""
    from medmark.components.dataset.component import ingest_component, prepare_component
    from medmark.components.delivery.component import draw_secrets_component
    from medmark.components.generator.component import train_generator_component
    from medmark.components.poisoning.component import poison_component
    from medmark.components.profiles import chosen_profile, grouped, marking_arguments
    from medmark.components.report.component import report_component
    from medmark.components.saliency.component import extract_saliency_component
    from medmark.components.surrogate.component import gather_models_component, train_classifiers_component
    from medmark.components.verification.component import check_release_component

    folder = tmp_path_factory.mktemp("steps")
    given = marking_arguments(chosen_profile("smoke", TINY), {})

    def artifact(name, kind=dsl.Artifact):
        return kind(name=name, uri=os.fspath(folder / name), metadata={})

    made = SimpleNamespace(
        secrets=artifact("secrets"),
        clean=artifact("clean", dsl.Dataset),
        origins=artifact("origins"),
        prepared=artifact("prepared", dsl.Dataset),
        manifest=artifact("manifest", dsl.Dataset),
        prepared_marked=artifact("prepared_marked", dsl.Dataset),
        manifest_marked=artifact("manifest_marked", dsl.Dataset),
        keep=artifact("keep"),
        surrogates=artifact("surrogates", dsl.Model),
        benign_first=artifact("benign_first", dsl.Model),
        benign_second=artifact("benign_second", dsl.Model),
        benign_models=artifact("benign_models", dsl.Model),
        maps=artifact("maps"),
        generator=artifact("generator", dsl.Model),
        control=artifact("control", dsl.Model),
        marked=artifact("marked", dsl.Dataset),
        evidence=artifact("evidence"),
        marked_models=artifact("marked_models", dsl.Model),
        check=artifact("check"),
        complete=artifact("complete"),
        record=artifact("record.json"),
        report=artifact("report", dsl.HTML),
        summary=artifact("summary.md", dsl.Markdown),
        metrics=artifact("metrics", dsl.Metrics),
    )

    def run(component, **ports):
        """One step; what it leaves in its outputs' metadata reaches the next as on a cluster."""
        returned = component.python_func(**ports)
        for given in ports.values():
            if isinstance(given, dsl.Artifact):
                given.metadata = stored(given.metadata)
        return returned

    run(
        draw_secrets_component,
        seed=str(SEED),
        for_figures=True,
        patients={"file": str(patients)},
        drawing={},
        drawn_for="run",
        secrets=made.secrets,
    )
    secrets = {"secrets": made.secrets}
    made.digest = run(
        ingest_component,
        source=str(source),
        source_state="",
        options=given["ingest_options"],
        **secrets,
        release=made.clean,
        origins=made.origins,
    )
    run(prepare_component, release=made.clean, size=given["size"], prepared=made.prepared, manifest=made.manifest)
    release = {"release": made.prepared}
    train = partial(run, train_classifiers_component, **secrets)
    generate = partial(run, train_generator_component, **secrets)
    train(configs=given["surrogate_configs"], models=made.surrogates, **release)
    for configs, models in zip(
        grouped(given["benign_configs"], 1), (made.benign_first, made.benign_second), strict=True
    ):
        train(configs=configs, models=models, **release)
    run(gather_models_component, parts=[made.benign_first, made.benign_second], models=made.benign_models)
    run(extract_saliency_component, surrogates=made.surrogates, maps=made.maps, **release)
    inputs = {**release, "surrogates": made.surrogates, "maps": made.maps, "target_class": ""}
    generate(config=given["generator_config"], generator=made.generator, **inputs)
    generate(config=given["control_config"], generator=made.control, **inputs)
    made.marked_digest = run(
        poison_component,
        release=made.clean,
        generator=made.generator,
        control=made.control,
        maps=made.maps,
        origins=made.origins,
        surrogates=made.surrogates,
        version="1",
        queries=given["queries"],
        marked=made.marked,
        evidence=made.evidence,
        keep=made.keep,
    )
    run(
        prepare_component,
        release=made.marked,
        size=given["size"],
        prepared=made.prepared_marked,
        manifest=made.manifest_marked,
    )
    train(
        release=made.prepared_marked,
        configs=given["marked_configs"],
        models=made.marked_models,
    )
    made.checked = run(
        check_release_component,
        release=made.manifest_marked,
        evidence=made.evidence,
        benign_models=made.benign_models,
        marked_models=made.marked_models,
        thresholds=given["thresholds"],
        secrets=made.secrets,
        check=made.check,
        complete=made.complete,
        record=made.record,
    )
    run(
        report_component,
        clean=made.clean,
        marked=made.marked,
        evidence=made.evidence,
        maps=made.maps,
        generator=made.generator,
        benign_models=made.benign_models,
        marked_models=made.marked_models,
        check=made.check,
        parameters={"profile": "tiny"},
        report=made.report,
        summary=made.summary,
        metrics=made.metrics,
    )
    return made


@pytest.fixture(scope="session")
def reached(services):
    """Name of a network of containers, or None, and the address at which a run reaches one of this machine."""
    if not IMAGE:
        yield None, lambda address: address
        return
    with container_network() as (name, reachable):
        yield name, cache(reachable)


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    with warm_python(tmp_path_factory.mktemp("warm")) as folder:
        yield folder


@pytest.fixture
def cluster(services, reached, warm, images, tmp_path, monkeypatch):
    """With all secrets; the environment is that of somebody who submits."""
    for name, identity in (("MEDMARK_S3_CREDENTIALS", "release"), ("MEDMARK_S3_EVIDENCE_CREDENTIALS", "evidence")):
        monkeypatch.setenv(name, str(services.credentials[identity]))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "KFP_TOKEN", "KFP_CA", "KFP_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEDMARK_IMAGES", str(images))
    monkeypatch.setattr(kfp_server, "POLL", 0.5)
    new_key(tmp_path / "keys", PASSPHRASE)
    network, reachable = reached
    keys = {name: json.loads(services.credentials[name].read_bytes()) for name in ("release", "evidence")}
    seen = {name: key | {"endpoint": reachable(key["endpoint"]), "insecure": "1"} for name, key in keys.items()}
    secrets = {
        "medmark-run": {"key": RUN_KEY},
        "medmark-s3": seen["release"],
        "medmark-s3-evidence": seen["evidence"],
        "medmark-signing": {"medmark.key": (tmp_path / "keys" / "medmark.key").read_text(), "passphrase": PASSPHRASE},
        "medmark-mlflow": {"tracking_uri": reachable(services.mlflow)},
    }
    root, docker = f"s3://{EVIDENCE}/{tmp_path.name}", Docker(IMAGE, network) if IMAGE else None
    return Launcher(root, keys["evidence"], tmp_path / "tasks", secrets, docker=docker, python=warm)
