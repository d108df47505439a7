import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

GOLDEN = Path(__file__).parent / "golden"
UPDATE = "MEDMARK_UPDATE_GOLDEN"


def compile_in_new_process(folder: Path, *options: str) -> subprocess.CompletedProcess:
    own = {k: v for k, v in os.environ.items() if not k.startswith("MEDMARK_IMAGE")}
    command = [sys.executable, "-c", "from medmark.pipelines.cli import main; main()", "compile", "--out", str(folder)]
    return subprocess.run([*command, *options], env=own, capture_output=True, text=True)


def compiled(folder: Path, *options: str) -> dict[str, list[dict]]:
    """The documents of every compiled pipeline, as a cluster would get them: from the command."""
    done = compile_in_new_process(folder, *options)
    assert done.returncode == 0, done.stderr
    pipelines = {}
    for path in folder.glob("*.yaml"):
        pipelines[path.name] = list(yaml.safe_load_all(path.read_text()))
        pipelines[path.name][0].pop("sdkVersion")  # the only thing that a new kfp may change
    return pipelines


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("ir"), "--unpinned")


def test_compiled_pipelines_are_the_golden_ones(pipelines):
    if os.environ.get(UPDATE):
        for name, documents in pipelines.items():
            (GOLDEN / name).write_text(yaml.safe_dump_all(documents))
    golden = {path.name: list(yaml.safe_load_all(path.read_text())) for path in GOLDEN.glob("*.yaml")}
    assert (
        pipelines.keys()
        == golden.keys()
        == {
            f"{name}.yaml"
            for name in (
                *("audit-lineage", "audit-segmenter", "audit-suspect", "compare-methods", "lock-release"),
                *("mark-release", "mark-segmenter", "reconcile", "stress-release", "update-release"),
            )
        }
    )
    for name, documents in pipelines.items():
        assert documents == golden[name], f"{name} changed; if that is wanted, run with {UPDATE}=1 and commit"


def test_every_step_runs_in_the_image_that_is_given(tmp_path, pipelines):
    def images(documents):
        return {
            e["container"]["image"] for e in documents[0]["deploymentSpec"]["executors"].values() if "container" in e
        }

    def told(documents):
        """What each step is told of its image; its lineage says that."""
        containers = [e["container"] for e in documents[0]["deploymentSpec"]["executors"].values() if "container" in e]
        return {entry["value"] for c in containers for entry in c["env"] if entry["name"] == "MEDMARK_IMAGE"}

    for documents in pipelines.values():
        assert images(documents) == told(documents) == {"medmark/python-cpu:0.1.0"}
    pinned = "registry.example/medmark@sha256:" + 64 * "a"
    (tmp_path / "digests.yaml").write_text(f"medmark/python-cpu: {pinned}\n")
    for documents in compiled(tmp_path / "ir", "--images", str(tmp_path / "digests.yaml")).values():
        assert images(documents) == told(documents) == {pinned}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "which is not pinned; push the image"),  # what comes with medmark
        (
            "medmark/python-cpu: registry.example/medmark:latest",
            "'registry.example/medmark:latest', which is not pinned",
        ),
        ("medmark/python-cuda: registry.example/x@sha256:" + 64 * "a", "does not name medmark/python-cpu"),
        ("[medmark]", "no images in"),
        ("medmark/python-cpu: [1]", "no images in"),
        ("a: b: c", "unreadable images"),
        ("a: !!python/object/apply:os.getcwd []", "unreadable images"),
    ],
)
def test_an_image_that_may_change_is_refused(tmp_path, content, said):
    options = []
    if content is not None:
        (tmp_path / "digests.yaml").write_text(content)
        options = ["--images", str(tmp_path / "digests.yaml")]
    done = compile_in_new_process(tmp_path / "ir", *options)
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "ir").exists()


def test_steps_install_nothing_when_they_start(pipelines):
    for documents in pipelines.values():
        for executor in documents[0]["deploymentSpec"]["executors"].values():
            assert "pip install" not in str(executor)


def test_a_cluster_finds_no_step_that_reads_or_writes_elsewhere(pipelines):
    submitted = {"mark-release.yaml", "lock-release.yaml", "mark-segmenter.yaml", "update-release.yaml"}
    for name, (spec, _) in pipelines.items():
        dags = [c["dag"] for c in (spec["root"], *spec["components"].values()) if "dag" in c]
        steps = {name for name, component in spec["components"].items() if "executorLabel" in component}
        tasks = {
            task: one["cachingOptions"]
            for dag in dags
            for task, one in dag["tasks"].items()
            if one["componentRef"]["name"] in steps
        }
        found = {task.removesuffix("-component") for task, options in tasks.items() if options.get("enableCache")}
        never = {task.removesuffix("-component") for task, options in tasks.items() if not options}
        if name not in submitted:
            assert never and not found, name
            continue
        (tracks,) = (task for task in never if task.startswith("track-"))
        assert never == {tracks, "sign", "publish"}, name
        assert found, name
        if name != "update-release.yaml":  # an update takes the key of its release
            draws = spec["root"]["dag"]["tasks"]["draw-secrets-component"]
            for_whom = draws["inputs"]["parameters"]["drawn_for"]["taskOutputParameter"]
            assert for_whom["outputParameterKey"] == "drawn_for"
            expands = spec["root"]["dag"]["tasks"][for_whom["producerTask"]]["inputs"]["parameters"]
            assert expands["drawn_for"] == {"componentInputParameter": "drawn_for"}
            assert expands["run"]["runtimeValue"]["constant"] == "{{$.pipeline_job_uuid}}"


def test_each_step_may_read_the_secrets_that_it_needs_and_no_others(pipelines):
    private, both = {"medmark-s3", "medmark-s3-evidence"}, {"medmark-s3", "medmark-s3-evidence"}
    run = {"medmark-run"}
    wanted = {
        "audit-lineage.yaml": {"audit-lineage": {"medmark-s3"}},
        "audit-suspect.yaml": {
            "fetch-evidence": private, "ask-suspect": {"medmark-s3", "medmark-suspect"},
            "audit": {"medmark-s3", "medmark-suspect", "medmark-mlflow"},
        },
        "audit-segmenter.yaml": {"fetch-evidence": private, "audit-segmenter": {"medmark-s3", "medmark-suspect"}},
        "compare-methods.yaml": {"ingest": private},
        "lock-release.yaml": {
            "draw-secrets": private | run, "ingest": private | run, "lock-release": private | run,
            **dict.fromkeys(("train-classifiers", "train-lesion-segmenter", "check-locks"), run),
            "track-locking": {"medmark-mlflow"}, "sign": {"medmark-signing"}, "publish": both | {"medmark-mlflow"},
        },
        "mark-release.yaml": {
            "draw-secrets": private | run, "ingest": private | run, "sign": {"medmark-signing"},
            **dict.fromkeys(("train-classifiers", "train-generator", "check-release"), run),
            "publish": both | {"medmark-mlflow"}, "track-marking": {"medmark-mlflow"},
        },
        "mark-segmenter.yaml": {
            "draw-secrets": private | run, "ingest": private | run, "track-segmenter": {"medmark-mlflow"},
            **dict.fromkeys(("train-segmenters", "mark-segmenter"), private | run), "check-segmenter": run,
            "sign": {"medmark-signing"}, "publish": both | {"medmark-mlflow"},
        },
        "reconcile.yaml": {"reconcile": both},
        "stress-release.yaml": {"fetch-release": {"medmark-s3"}, "fetch-evidence": private},
        "update-release.yaml": {
            "fetch-previous": both, "read-drop": private, "sign": {"medmark-signing"}, "publish": both | {"medmark-mlflow"},
            "track-update": {"medmark-mlflow"},
        },
    }  # fmt: skip
    release_keys = {"MEDMARK_S3_ACCESS_KEY", "MEDMARK_S3_SECRET_KEY"}
    with_release_keys = {
        *(
            "audit-lineage",
            "ask-suspect",
            "audit",
            "audit-segmenter",
            "fetch-release",
            "fetch-previous",
            "publish",
            "reconcile",
        )
    }
    for name, steps in wanted.items():
        executors = pipelines[name][1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert all(e.pop("securityContext") == {"runAsNonRoot": True} for e in executors.values()), name
        given = {re.sub(r"^exec-|-component|-\d+$", "", step): e for step, e in executors.items() if e}
        assert {s: {secret["secretName"] for secret in e["secretAsEnv"]} for s, e in given.items()} == steps, name
        for step, executor in given.items():
            if step == "reconcile":  # by this label Kubeflow gives it a token for the server
                assert executor.pop("podMetadata") == {"labels": {"access-ml-pipeline": "true"}}
            assert set(executor) == {"secretAsEnv"} and all(secret["optional"] for secret in executor["secretAsEnv"])
            variables = {pair["envVar"] for secret in executor["secretAsEnv"] for pair in secret["keyToEnv"]}
            assert bool(release_keys & variables) == (step in with_release_keys), (name, step)
            # KFP's MLflow plugin injects MLFLOW_ variables, and a pod with one name twice is refused
            assert all(variable.startswith("MEDMARK_") for variable in variables), (name, step)


def who_downloads(spec: dict) -> dict[tuple[str, str], set[str]]:
    """The tasks that take each output of another, by that one's name and the output's."""
    readers: dict[tuple[str, str], set[str]] = {}
    for name, task in spec["root"]["dag"]["tasks"].items():
        for source in task.get("inputs", {}).get("artifacts", {}).values():
            made = source["taskOutputArtifact"]
            readers.setdefault((made["producerTask"], made["outputArtifactKey"]), set()).add(name)
    return readers


def test_a_release_is_downloaded_only_where_its_own_images_are_wanted(pipelines):
    """It may have 100 GB; everything else learns from what one step prepared."""
    (spec, _) = pipelines["mark-release.yaml"]
    readers = who_downloads(spec)
    assert readers["ingest-component", "release"] == {"prepare-component", "poison-component", "report-component"}
    assert readers["poison-component", "marked"] == {"prepare-component-2", "report-component", "condition-1"}
    trained = {"train-surrogates", "train-benign-models", "train-generator-component", "train-generator-component-2"}
    assert readers["prepare-component", "prepared"] == trained | {"extract-saliency-component"}
    assert readers["prepare-component-2", "prepared"] == {"train-marked-models"}
    inner = spec["components"]["comp-condition-1"]["dag"]["tasks"]
    assert set(inner) == {"sign-component", "publish-component"}
    subject = {name: task["inputs"]["artifacts"]["subject"]["componentInputArtifact"] for name, task in inner.items()}
    assert subject["sign-component"].endswith("prepare-component-2-manifest")
    assert subject["publish-component"].endswith("poison-component-marked")


def test_an_update_downloads_releases_only_where_their_images_are_wanted(pipelines):
    (spec, _) = pipelines["update-release.yaml"]
    readers = who_downloads(spec)
    assert readers["fetch-previous-component", "release"] == {"read-drop-component", "update-component"}
    assert readers["update-component", "marked"] == {"check-update-component", "condition-1"}
    assert readers["update-component", "manifest"] == {"track-update-component", "condition-1"}
    artifacts = spec["components"]["comp-condition-1"]["dag"]["tasks"]["sign-component"]["inputs"]["artifacts"]
    signed = {name: artifacts[name]["componentInputArtifact"] for name in ("subject", "parent")}
    assert signed["subject"].endswith("update-component-manifest")
    assert signed["parent"].endswith("fetch-previous-component-manifest")


def test_models_train_side_by_side_but_not_all_at_once(pipelines):
    (spec, _) = pipelines["mark-release.yaml"]
    loops = [
        task
        for component in spec["components"].values()
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "parameterIterator" in task
    ]
    assert len(loops) == 3 and all(loop["iteratorPolicy"] == {"parallelismLimit": 10} for loop in loops)
