"""``--pods``: what the steps of a compiled pipeline ask of the cluster, checked against what KFP's own functions write."""

import pytest
import yaml
from kfp import compiler, dsl, kubernetes
from medmark.components.base.errors import MedmarkError
from medmark.pipelines.compile import compile_pipeline, read_images
from medmark.pipelines.mark_release.pipeline import mark_release
from medmark.pipelines.pods import TRAINING, read_pods
from medmark.pipelines.stress_release.pipeline import stress_release

ASKED = """
steps:
  labels: {kueue.x-k8s.io/queue-name: medmark}
  retries: 2
training:
  cpu: "4"
  memory: 16Gi
  memory_limit: 24Gi
  accelerator: nvidia.com/gpu
  shared_memory: 2Gi
  timeout: 3600
  node_selector: {pool: gpu}
  tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
"""


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "pods.yaml").write_text(ASKED)
    return read_pods(tmp_path / "pods.yaml")


def compiled(pipeline, path, pods):
    compile_pipeline(pipeline, path, read_images(unpinned=True), pods)
    return yaml.safe_load_all(path.read_text())


def test_a_step_asks_as_with_kfps_own_functions(asked, tmp_path):
    @dsl.component(base_image="medmark/python-cpu", install_kfp_package=False)
    def stress_component() -> None:
        pass

    @dsl.pipeline(name="wanted")
    def wanted():
        task = stress_component()
        task.set_cpu_request("4").set_cpu_limit("4").set_memory_request("16Gi").set_memory_limit("24Gi")
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
        task.set_retry(2, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration="3600s")
        kubernetes.set_timeout(task, 3600)
        kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit="2Gi")
        kubernetes.add_pod_label(task, "kueue.x-k8s.io/queue-name", "medmark")
        kubernetes.add_node_selector(task, "pool", "gpu")
        kubernetes.add_toleration(task, key="gpu", operator="Exists", effect="NoSchedule")
        kubernetes.set_security_context(task, run_as_non_root=True)

    compiler.Compiler().compile(wanted, str(tmp_path / "wanted.yaml"))
    spec, platform = yaml.safe_load_all((tmp_path / "wanted.yaml").read_text())

    @dsl.pipeline(name="plain")
    def plain():
        stress_component()

    made, made_platform = compiled(plain, tmp_path / "made.yaml", asked)
    (executor,), (other,) = (d["deploymentSpec"]["executors"].values() for d in (spec, made))
    assert executor["container"]["resources"] == other["container"]["resources"]
    assert platform == made_platform
    (task,), (other_task,) = (d["root"]["dag"]["tasks"].values() for d in (spec, made))
    assert task["retryPolicy"] == other_task["retryPolicy"]


def test_steps_that_train_ask_for_more_and_keep_their_secrets(asked, tmp_path):
    spec, platform = compiled(mark_release, tmp_path / "mark.yaml", asked)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    kinds = set()
    for name, component in spec["components"].items():
        if "executorLabel" in component:
            training = name.removeprefix("comp-").rstrip("-0123456789") in TRAINING
            kinds.add(training)
            settings = executors[component["executorLabel"]]
            resources = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]["resources"]
            assert ("accelerator" in resources) == ("nodeSelector" in settings) == training, name
            assert settings["podMetadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "medmark"}
    assert kinds == {True, False}
    secrets = {secret["secretName"] for secret in executors["exec-check-release-component"]["secretAsEnv"]}
    assert secrets == {"medmark-run"}
    inner = spec["components"]["comp-condition-1"]["dag"]["tasks"]
    assert all(task["retryPolicy"]["maxRetryCount"] == 2 for task in inner.values())


def test_a_step_in_an_image_of_its_own_may_be_root(tmp_path):
    @dsl.component(base_image="python:3.11", install_kfp_package=False)
    def other() -> None:
        pass

    @dsl.pipeline(name="foreign")
    def foreign():
        other()

    assert len(list(compiled(foreign, tmp_path / "foreign.yaml", None))) == 1  # nothing for Kubernetes


def test_every_step_asks_for_something_by_default(tmp_path):
    spec, _ = compiled(stress_release, tmp_path / "stress.yaml", None)
    for executor in spec["deploymentSpec"]["executors"].values():
        assert {"resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest"} <= executor["container"][
            "resources"
        ].keys()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("steps: {cpus: '1'}", "use cpu, memory"),
        ("steps: {cpu: 1}", "cpu is 1; write a text in quotes"),
        ("steps: {cpu: lots}", "write it as Kubernetes does"),
        ("steps: {memory: 2 GB}", "write it as Kubernetes does"),
        ("steps: {retries: '2'}", "retries is '2'; write a whole number"),
        ("steps: {labels: {a: 1}}", "write names and texts"),
        ("training: {tolerations: [{taint: x}]}", "write it as Kubernetes does"),
        ("pods: {}", "write 'steps:' and 'training:'"),
        ("[]", "write 'steps:' and 'training:'"),
        ("a: b: c", "unreadable pods"),
    ],
)
def test_what_is_no_request_is_refused(tmp_path, content, said):
    (tmp_path / "pods.yaml").write_text(content)
    with pytest.raises(MedmarkError, match="pods") as refused:
        read_pods(tmp_path / "pods.yaml")
    assert said in str(refused.value) and "\n" not in str(refused.value)
