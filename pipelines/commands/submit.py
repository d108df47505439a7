"""Starting pipelines from CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medmark.components.base.errors import MedmarkError
from medmark.pipelines.commands.options import (
    Debug,
    Label,
    PathColumn,
    PatientColumn,
    Quarantine,
    Uncertain,
    Where,
    ingest_options,
    pairs,
)

app = typer.Typer()

Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint", envvar="KFP_ENDPOINT", help="Of a KFP API server; its token: environment variable KFP_TOKEN."
    ),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", envvar="KFP_NAMESPACE", help="Of a KFP with several users.")
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait for a run on the server.")]
Local = Annotated[bool, typer.Option("--local", help="Run on this machine and publish what comes out.")]
Work = Annotated[Path, typer.Option("--work", help="With --local: private folder for what is made meanwhile.")]
Key = Annotated[Path | None, typer.Option("--key", help="With --local: medmark.key that signs what comes out.")]
Sign = Annotated[
    bool, typer.Option("--sign", help="On the server: sign what comes out with the key in the secret medmark-signing.")
]
DAY = 86400.0


@app.command("submit")
def submit_command(
    pipeline: Annotated[str, typer.Argument(help="mark-release or update-release.")],
    release_json: Annotated[
        str, typer.Option("--release-json", help="s3://.../<digest>/release.json, ingested or (update) marked.")
    ],
    publish: Annotated[str, typer.Option("--publish", help="Where the release goes: s3://bucket/prefix.")],
    publish_evidence: Annotated[
        str,
        typer.Option("--publish-evidence", help="Where evidence and keep go: s3://bucket/prefix, in another bucket."),
    ],
    drop: Annotated[
        str | None, typer.Option("--drop", help="Of an update: s3://bucket/prefix of the raw drop.")
    ] = None,
    evidence: Annotated[
        str | None,
        typer.Option("--evidence", help="Of an update: where that release's evidence lies, s3://.../<digest>."),
    ] = None,
    keep: Annotated[
        str | None, typer.Option("--keep", help="Of an update: where what was kept for it lies, s3://.../<digest>.")
    ] = None,
    profile: Annotated[str, typer.Option("--profile", help="Of mark-release: smoke, standard or full.")] = "standard",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Of mark-release: name=value; repeatable.")] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Of the release that comes out; else 1, or the next number.")
    ] = None,
    label_column: Label = None,
    path_column: PathColumn = None,
    patient_column: PatientColumn = None,
    where: Where = None,
    uncertain: Uncertain = "ignore",
    quarantine: Quarantine = False,
    local: Local = False,
    key: Key = None,
    work: Work = Path("medmark-work"),
    endpoint: Endpoint = None,
    sign: Sign = False,
    namespace: Namespace = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the run on the server has ended.")] = False,
    timeout: Timeout = DAY,
    debug: Debug = False,
) -> None:
    """Start a pipeline on what lies in the object store, unless the same was submitted before.

    MEDMARK_S3_CREDENTIALS opens releases and drops, MEDMARK_S3_EVIDENCE_CREDENTIALS evidence.
    """
    from medmark.components.delivery.passing import check_apart
    from medmark.components.delivery.submissions import read_record
    from medmark.components.storage.store import Store
    from medmark.pipelines.submitting.cluster import ClusterTarget, submit_to_server, wait_for_record
    from medmark.pipelines.submitting.kfp_server import KfpServer
    from medmark.pipelines.submitting.local import Target, submit_locally
    from medmark.pipelines.submitting.submission import of_mark_release, of_update_release

    update = {"--drop": drop, "--evidence": evidence, "--keep": keep}
    if pipeline not in ("mark-release", "update-release"):
        raise MedmarkError(f"unknown pipeline: {pipeline!r}; use mark-release or update-release")
    if any(update.values()) and pipeline == "mark-release" or not all(update.values()) and pipeline == "update-release":
        raise MedmarkError(f"{', '.join(update)} go with update-release, all three; give them there and only there")
    where_to_run(local, endpoint, key, sign)
    check_apart(publish, publish_evidence)
    private = Store.from_environment("evidence")
    if pipeline == "mark-release":
        submission = of_mark_release(
            release_json, private, profile=profile, settings=pairs(set_, "--set"), version=version or "1"
        )
    else:
        options = drop_options(label_column, path_column, patient_column, where, uncertain, quarantine)
        submission = of_update_release(
            release_json,
            Store.from_environment(),
            drop=drop,
            drop_store=private,
            evidence=evidence,
            keep=keep,
            options=options,
            version=version,
        )
    if local:
        target = Target(publish, publish_evidence, Store.from_environment(), private, work, key, debug)
        record, new = submit_locally(submission, target)
        print(f"{'done' if new else 'done before, nothing to do'}: submission {submission.key}")
        print(f"release: {record['result'] or 'nothing changed, nothing published'}")
        return
    record = read_record(submission.key, publish_evidence, private)
    if record:
        print(f"done before, nothing to do: submission {submission.key}")
    else:
        server = KfpServer(endpoint, namespace)
        target = ClusterTarget(server, publish, publish_evidence, private, sign)
        run, new = submit_to_server(submission, target)
        print(f"{'submitted' if new else 'submitted before, nothing to do'}: {submission.name}")
        print(server.url(run), flush=True)
        record = wait_for_record(run, submission, target, timeout) if wait else None
    if record:
        print(f"release: {record['result'] or 'nothing changed, nothing published'}")


@app.command("reconcile")
def reconcile_command(
    drops: Annotated[str, typer.Option("--drops", help="s3://bucket/prefix with a folder a drop.")],
    releases: Annotated[str, typer.Option("--releases", help="s3://bucket/prefix of the marked releases.")],
    evidence: Annotated[str, typer.Option("--evidence", help="s3://bucket/prefix of evidence and what was kept.")],
    label_column: Label = None,
    path_column: PathColumn = None,
    patient_column: PatientColumn = None,
    where: Where = None,
    uncertain: Uncertain = "ignore",
    quarantine: Quarantine = False,
    local: Local = False,
    key: Key = None,
    work: Work = Path("medmark-work"),
    endpoint: Endpoint = None,
    sign: Sign = False,
    namespace: Namespace = None,
    timeout: Timeout = DAY,
    debug: Debug = False,
) -> None:
    """Make a release of every complete drop that has none yet, in the order of their names.

    MEDMARK_S3_CREDENTIALS opens releases and drops, MEDMARK_S3_EVIDENCE_CREDENTIALS evidence.
    """
    from medmark.components.delivery.passing import check_apart
    from medmark.components.storage.store import Store
    from medmark.pipelines.submitting.cluster import ClusterTarget, submit_to_server, wait_for_record
    from medmark.pipelines.submitting.kfp_server import KfpServer
    from medmark.pipelines.submitting.local import Target, submit_locally
    from medmark.pipelines.submitting.reconcile import reconcile

    where_to_run(local, endpoint, key, sign)
    check_apart(releases, evidence)
    store, evidence_store = Store.from_environment(), Store.from_environment("evidence")
    if local:
        target = Target(releases, evidence, store, evidence_store, work, key, debug)

        def submit(submission):
            return submit_locally(submission, target)[0]

    else:
        cluster = ClusterTarget(KfpServer(endpoint, namespace), releases, evidence, evidence_store, sign)

        def submit(submission):
            return wait_for_record(submit_to_server(submission, cluster)[0], submission, cluster, timeout)

    options = drop_options(label_column, path_column, patient_column, where, uncertain, quarantine)
    for line in reconcile(
        drops, releases, evidence, store=store, evidence_store=evidence_store, options=options, submit=submit
    ):
        print(line, flush=True)


def where_to_run(local: bool, endpoint: str | None, key: Path | None, sign: bool) -> None:
    """Refuses neither place, and a key of the other; ``--local`` goes before an endpoint of the environment."""
    if not local and not endpoint:
        raise MedmarkError("no place to run; give --local, or --endpoint of a KFP API server")
    if sign and local:
        raise MedmarkError("--sign is for a server; with --local give the key with --key")
    if key and not local:
        raise MedmarkError(
            "a key does not travel to a server; store it there as the secret medmark-signing, give --sign"
        )


def drop_options(label_column, path_column, patient_column, where, uncertain, quarantine) -> dict:
    """How to read a drop, without what is not given."""
    options = ingest_options(label_column, path_column, patient_column, None, where, None, uncertain, quarantine)
    given = {name: options[name] for name in options if name not in ("root", "class_names")}
    return {name: value for name, value in given.items() if value not in (None, {})}
