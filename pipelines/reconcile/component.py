"""KFP component that sweeps over the drops.

It is no component of a room, because it submits runs of a pipeline, and no room knows the pipelines. As in a room, its body is one call
of what may lie above it.
"""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def reconcile_component(
    drops: str,
    releases: str,
    evidence: str,
    drop_options: dict,
    sign: bool,
    endpoint: str,
    namespace: str,
    pipeline_root: str,
    service_account: str,
    pods: dict,
    timeout: float,
) -> list:
    """Makes a release of every complete drop that has none, in the order of the drops' names, each on top of the newest release.

    The step finds the newest release itself, submits a run of ``update-release`` for a drop to the KFP API server, waits for it, and
    goes on; it ends at the first that fails. A drop that was done, or whose run is on its way, is not submitted again.

    The step takes the credentials of the object stores from its environment, as the steps that fetch and publish, and a token for the
    server from KFP_TOKEN or the file KF_PIPELINES_SA_TOKEN_PATH. KFP_INSECURE=1 allows http to the server. The runs have the image that
    the step runs in.

    Args:
        drops: place of the drops, ``s3://bucket/prefix`` with a folder for each.
        releases: place of the marked releases, ``s3://bucket/prefix``.
        evidence: place of evidence, keep and records of submissions, ``s3://bucket/prefix`` in another bucket.
        drop_options: keyword arguments of ``medmark.components.dataset.drop.read_drop``, as ``{"label_column": "finding"}``.
        sign: whether the runs sign what they make, with the key in the secret ``medmark-signing``.
        endpoint: address of the KFP API server, as the step reaches it.
        namespace: of the runs, on a server with several users; empty on any other.
        pipeline_root: where the server keeps what the steps of the runs pass on, all of it private; where it does by default when empty.
        service_account: of the runs' pods; the server's default when empty.
        pods: what the runs' pods ask for, as in the file of ``--pods``: ``steps`` and ``training``; medmark's defaults when empty.
        timeout: seconds to wait for each run.

    Returns:
        A line for each drop: what became of it.
    """
    from medmark.pipelines.submitting.sweep import sweep_from_a_step

    return sweep_from_a_step(
        drops,
        releases,
        evidence,
        drop_options=drop_options,
        sign=sign,
        endpoint=endpoint,
        namespace=namespace,
        pipeline_root=pipeline_root,
        service_account=service_account,
        pods=pods,
        timeout=timeout,
    )
