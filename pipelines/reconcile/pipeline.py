"""Define the pipeline reconcile."""

from kfp import dsl, kubernetes
from medmark.pipelines.kubernetes_secrets import EVIDENCE, RELEASES, give
from medmark.pipelines.reconcile.component import reconcile_component


@dsl.pipeline(
    name="reconcile",
    description="Makes a release of every complete drop that has none, each on top of the newest release.",
)
def reconcile(
    drops: str,
    releases: str,
    evidence: str,
    drop_options: dict = {},  # noqa: B006
    sign: bool = False,
    endpoint: str = "http://ml-pipeline.kubeflow.svc.cluster.local:8888",
    namespace: str = "",
    pipeline_root: str = "",
    service_account: str = "",
    pods: dict = {},  # noqa: B006
    timeout: float = 86400.0,
) -> list:
    """Sweeps over the drops, as ``medmark reconcile`` does.

    Let a recurring run start it: ``medmark reconcile --cron``. However often it runs, a drop is done once.

    Args:
        drops: place of the drops, ``s3://bucket/prefix`` with a folder for each.
        releases: place of the marked releases, ``s3://bucket/prefix``.
        evidence: place of evidence, keep and records of submissions, ``s3://bucket/prefix`` in another bucket.
        drop_options: keyword arguments of ``medmark.components.dataset.drop.read_drop``, as ``{"label_column": "finding"}``.
        sign: whether the runs sign what they make, with the key in the secret ``medmark-signing``.
        endpoint: address of the KFP API server, as a pod reaches it.
        namespace: of the runs, on a server with several users; empty on any other.
        pipeline_root: where the server keeps what the steps of the runs pass on, all of it private; where it does by default when empty.
        service_account: of the runs' pods; the server's default when empty.
        pods: what the runs' pods ask for, as in the file of ``--pods``: ``steps`` and ``training``; medmark's defaults when empty.
        timeout: seconds to wait for each run.

    Returns:
        A line for each drop: what became of it.
    """
    swept = reconcile_component(
        drops=drops,
        releases=releases,
        evidence=evidence,
        drop_options=drop_options,
        sign=sign,
        endpoint=endpoint,
        namespace=namespace,
        pipeline_root=pipeline_root,
        service_account=service_account,
        pods=pods,
        timeout=timeout,
    )
    swept.set_display_name("sweep")
    give(swept, RELEASES, EVIDENCE)
    swept.set_caching_options(False)  # there may be new drops
    swept.set_env_variable("KFP_INSECURE", "1")  # plain http inside the cluster
    kubernetes.add_pod_label(
        swept, "access-ml-pipeline", "true"
    )  # by it Kubeflow with several users gives the step a token
    return swept.output
