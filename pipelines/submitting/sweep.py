"""A sweep from within a cluster: what the step of the pipeline ``reconcile`` does."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from medmark.components.base.errors import MedmarkError
from medmark.components.base.image import IMAGE, NOT_IN_AN_IMAGE, RUNS_IN, running_image
from medmark.components.base.parameters import whole
from medmark.components.storage.store import Store
from medmark.pipelines.pods import pods_of
from medmark.pipelines.submitting.cluster import ClusterTarget, check_places, submit_to_server, wait_for_record
from medmark.pipelines.submitting.kfp_server import KfpServer
from medmark.pipelines.submitting.reconcile import reconcile
from medmark.pipelines.submitting.submission import DROP_OPTIONS, Submission

CUT_DOWN = "_KFP_RUNTIME"  # KFP sets it in a step: kfp is loaded without what compiles and submits


def sweep_from_a_step(*places: str, **given: Any) -> list[str]:
    """Calls :func:`sweep` in a process of its own, whose kfp is whole.

    Args:
        places, given: see :func:`sweep`.

    Returns:
        The lines.

    Raises:
        MedmarkError: as :func:`sweep`, or that process was killed.
    """
    cut_down = os.environ.pop(CUT_DOWN, None)  # the new process takes over the environment when it starts
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(sweep, *places, **given).result()
    except BrokenProcessPool as error:
        raise MedmarkError("the sweep was ended from outside, perhaps for want of memory; give its pod more") from error
    finally:
        if cut_down is not None:
            os.environ[CUT_DOWN] = cut_down


def sweep(
    drops: str,
    releases: str,
    evidence: str,
    *,
    drop_options: dict,
    sign: bool,
    endpoint: str,
    namespace: str,
    pipeline_root: str,
    service_account: str,
    pods: dict,
    timeout: float,
) -> list[str]:
    """Does what ``medmark reconcile --endpoint`` does, and prints a line for each drop as soon as it is done.

    The runs have the image that this process runs in, as the step was told when it was compiled.

    Args:
        drops, releases, evidence: see :func:`medmark.pipelines.submitting.reconcile.reconcile`.
        drop_options: keyword arguments of :func:`medmark.components.dataset.drop.read_drop`; those that are not given are as the
            command's, so that both find each other's submissions.
        sign: whether the runs sign what they make.
        endpoint: address of the KFP API server.
        namespace: on a server with several users; empty on any other.
        pipeline_root, service_account: of the runs; the server's defaults when empty.
        pods: what the runs' pods ask for, as in the file of :func:`medmark.pipelines.pods.read_pods`.
        timeout: seconds to wait for each run.

    Returns:
        The lines.

    Raises:
        MedmarkError: this process was not told its image, or as :func:`medmark.pipelines.submitting.reconcile.reconcile`.
    """
    image, root = running_image(), pipeline_root or None
    if image == NOT_IN_AN_IMAGE:
        raise MedmarkError(f"no image for the runs; compile the pipeline with 'medmark compile', which sets {RUNS_IN}")
    check_places(releases, evidence, root)
    evidence_store = Store.from_environment("evidence")
    asked: Any = whole(pods)
    server = KfpServer(
        endpoint,
        namespace or None,
        images={IMAGE: image},
        pods=pods_of(asked, "the parameter pods"),
        pipeline_root=root,
        service_account=service_account or None,
    )
    target = ClusterTarget(server, releases, evidence, evidence_store, sign)

    def submit(submission: Submission) -> dict:
        return wait_for_record(submit_to_server(submission, target)[0], submission, target, timeout)

    lines = []
    options = DROP_OPTIONS | whole(drop_options)
    stores = {"store": Store.from_environment(), "evidence_store": evidence_store}
    for line in reconcile(drops, releases, evidence, **stores, options=options, submit=submit):
        print(line, flush=True)
        lines.append(line)
    return lines
