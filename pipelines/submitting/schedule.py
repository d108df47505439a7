"""Sweeps that a KFP API server starts itself, at set times."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

from medmark.components.storage.place import parse
from medmark.pipelines.pods import Pods
from medmark.pipelines.submitting.kfp_server import KfpServer


def schedule_sweeps(
    server: KfpServer,
    drops: str,
    releases: str,
    evidence: str,
    *,
    cron: str,
    options: dict,
    sign: bool,
    inside: str | None,
    namespace: str | None,
    pipeline_root: str | None,
    service_account: str | None,
    sweep_account: str | None,
    pods: Pods,
    timeout: float,
) -> str:
    """Lets a server run the pipeline ``reconcile`` at set times, in place of what was scheduled for these drops before.

    Args:
        server: server that starts the sweeps.
        drops, releases, evidence: see :func:`medmark.pipelines.submitting.reconcile.reconcile`.
        cron: see :meth:`medmark.pipelines.submitting.kfp_server.KfpServer.schedule`.
        options: keyword arguments of :func:`medmark.components.dataset.drop.read_drop`.
        sign: whether the runs sign what they make.
        inside: address of the server for the sweeps' pods; the pipeline's default when None.
        namespace: on a server with several users.
        pipeline_root, service_account, pods: of the runs that a sweep submits; the server's defaults when None.
        sweep_account: service account of the sweeps' own pods; that of the runs when None.
        timeout: seconds to wait for each run.

    Returns:
        A line that says what was done, and a line with the address of the page that shows it.

    Raises:
        MedmarkError: the places are malformed, or the server refuses.
    """
    from medmark.pipelines.reconcile.pipeline import reconcile

    places = [str(parse(place)) for place in (drops, releases, evidence)]
    arguments = {
        **dict(zip(("drops", "releases", "evidence"), places, strict=True)),
        "drop_options": options,
        "sign": sign,
        **({"endpoint": inside} if inside else {}),
        "namespace": namespace or "",
        "pipeline_root": pipeline_root or "",
        "service_account": service_account or "",
        "pods": asdict(pods),
        "timeout": timeout,
    }
    name = f"reconcile-{hashlib.sha256(places[0].encode()).hexdigest()[:16]}"
    run, new, replaced = server.schedule(
        name,
        f"sweeps {places[0]} at '{cron}'",
        reconcile,
        arguments,
        cron=cron,
        service_account=sweep_account or service_account,
    )
    what = "scheduled" if new else "scheduled before, nothing to do"
    if replaced:
        plural = "s" if replaced > 1 else ""
        what += f", {replaced} earlier one{plural} replaced" if new else f", {replaced} other{plural} removed"
    return f"{what}: sweeps of {places[0]} at '{cron}', {name}\n{server.schedule_url(run)}"
