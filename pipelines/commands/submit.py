"""``medmark submit`` and ``reconcile``: start pipelines from CI, each at most once for the same input."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from medmark.components.base.errors import MedmarkError
from medmark.pipelines.commands.options import (
    Debug,
    Drawing,
    DrawnWith,
    Images,
    Label,
    LogoText,
    OwnerText,
    PathColumn,
    PatientColumn,
    PatientPattern,
    PodsFile,
    Quarantine,
    Recipients,
    Uncertain,
    Unpinned,
    Where,
    drop_options,
    pairs,
)

if TYPE_CHECKING:
    from medmark.pipelines.pods import Pods
    from medmark.pipelines.submitting.cluster import ClusterTarget
    from medmark.pipelines.submitting.kfp_server import KfpServer
    from medmark.pipelines.submitting.local import Target
    from medmark.pipelines.submitting.submission import Submission

STORES = "MEDMARK_S3_CREDENTIALS opens releases and drops, MEDMARK_S3_EVIDENCE_CREDENTIALS evidence."
app = typer.Typer()
submit_app = typer.Typer(
    no_args_is_help=True,
    help=f"Start a pipeline on what is in the object store, unless the same was submitted before. {STORES}",
)
app.add_typer(submit_app, name="submit")

ReleaseJson = Annotated[str, typer.Option("--release-json", help="Address s3://.../<digest>/release.json.")]
Publish = Annotated[str, typer.Option("--publish", help="Publish the release, or the model, under s3://bucket/prefix.")]
PublishEvidence = Annotated[
    str, typer.Option("--publish-evidence", help="Store evidence and keep under s3://bucket/prefix, in another bucket.")
]
PublishWeak = Annotated[
    bool,
    typer.Option(
        "--publish-weak",
        help="Publish the release, too, if classifiers see more of it than they may (verdict weak); never one that is unsafe.",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        envvar="KFP_ENDPOINT",
        help="Run on the KFP API server at this address; the environment variable KFP_TOKEN gives its token.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", envvar="KFP_NAMESPACE", help="Use this namespace of a KFP with several users."),
]
PipelineRoot = Annotated[
    str | None,
    typer.Option(
        "--pipeline-root",
        envvar="KFP_PIPELINE_ROOT",
        help="Keep what the steps pass on under this address, s3://bucket/prefix or as the server's store has it; all of it is private.",
    ),
]
ServiceAccount = Annotated[
    str | None,
    typer.Option("--service-account", envvar="KFP_SERVICE_ACCOUNT", help="Run the pods under this service account."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the run on the server has ended.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait for a run on the server.")]
Local = Annotated[bool, typer.Option("--local", help="Run on this machine and publish what comes out.")]
Work = Annotated[
    Path, typer.Option("--work", help="With --local: private folder for everything that is made until it is published.")
]
Key = Annotated[Path | None, typer.Option("--key", help="With --local: sign what comes out with this medmark.key.")]
Sign = Annotated[
    bool, typer.Option("--sign", help="On the server: sign what comes out with the key in the secret medmark-signing.")
]
Anew = Annotated[
    bool,
    typer.Option(
        "--anew",
        help="On the server: if this submission failed before, begin with the first step and draw other secrets, instead of going on"
        " with what succeeded.",
    ),
]
Cron = Annotated[
    str | None,
    typer.Option(
        "--cron",
        help="Do not sweep now: let the server sweep at these times, as '17 2 * * *' for 02:17 UTC every day, in place of what was"
        " scheduled for these drops before.",
    ),
]
Inside = Annotated[
    str | None,
    typer.Option(
        "--inside",
        help="With --cron: the server's address as its pods reach it, http://ml-pipeline.kubeflow.svc.cluster.local:8888 if not given.",
    ),
]
SweepAccount = Annotated[
    str | None,
    typer.Option(
        "--sweep-account",
        help="With --cron: service account of the sweeps' own pods; that of --service-account if not given.",
    ),
]
WORK, DAY = Path("medmark-work"), 86400.0


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Where submissions run and publish, as the options of a command say.

    Attributes:
        releases: where releases go, ``s3://bucket/prefix``.
        evidence: where evidence, keep and records go, ``s3://bucket/prefix`` in another bucket.
        local: run on this machine; goes before an endpoint of the environment.
        key: ``medmark.key`` that signs on this machine.
        work: private folder on this machine for what is made meanwhile.
        endpoint: address of a KFP API server.
        sign: sign on the server.
        namespace: of a server with several users.
        pipeline_root: where the server keeps what the steps pass on; its own default when None.
        service_account: of the pods; the server's default when None.
        images, unpinned: see :func:`medmark.pipelines.compile.read_images`.
        pods: file, see :func:`medmark.pipelines.pods.read_pods`; the defaults when None.
        debug: show all that the steps print.
        publish_weak: whether a locked release may go out whose locks are weak.
        anew: on the server, begin a submission that failed with its first step.

    Raises:
        MedmarkError: no place to run, a key for the other place, one bucket for releases and evidence, or a pipeline root that is no
            address or lies in the bucket of the releases.
    """

    releases: str
    evidence: str
    local: bool
    key: Path | None
    work: Path
    endpoint: str | None
    sign: bool
    namespace: str | None
    pipeline_root: str | None
    service_account: str | None
    images: str | None
    unpinned: bool
    pods: str | None
    debug: bool
    publish_weak: bool = False
    anew: bool = False

    def __post_init__(self) -> None:
        from medmark.pipelines.submitting.cluster import check_places

        if not self.local and not self.endpoint:
            raise MedmarkError("no place to run; give --local, or --endpoint of a KFP API server")
        if self.sign and self.local:
            raise MedmarkError("--sign is for a server; with --local give the key with --key")
        if self.anew and self.local:
            raise MedmarkError(f"--anew is for a server; with --local remove what the failed run left in {self.work}")
        if self.key and not self.local:
            raise MedmarkError(
                "a key does not travel to a server; store it there as the secret medmark-signing, give --sign"
            )
        check_places(self.releases, self.evidence, None if self.local else self.pipeline_root)

    def here(self) -> Target:
        """Returns this machine as a target."""
        from medmark.components.storage.store import Store
        from medmark.pipelines.submitting.local import Target

        return Target(
            releases=self.releases,
            evidence=self.evidence,
            store=Store.from_environment(),
            evidence_store=Store.from_environment("evidence"),
            work=self.work,
            key=self.key,
            publish_weak=self.publish_weak,
            debug=self.debug,
        )

    def asked(self) -> Pods:
        """Returns what the pods ask for."""
        from medmark.pipelines.pods import Pods, read_pods

        return read_pods(self.pods) if self.pods else Pods()

    def server(self) -> KfpServer:
        """Connects to the server."""
        from medmark.pipelines.compile import read_images
        from medmark.pipelines.submitting.kfp_server import KfpServer

        images = read_images(self.images, unpinned=self.unpinned)
        place = {"pipeline_root": self.pipeline_root, "service_account": self.service_account}
        return KfpServer(self.endpoint or "", self.namespace, images=images, pods=self.asked(), **place)

    def on_server(self) -> ClusterTarget:
        """Returns the server as a target; connects to it."""
        from medmark.components.storage.store import Store
        from medmark.pipelines.submitting.cluster import ClusterTarget

        return ClusterTarget(
            self.server(),
            self.releases,
            self.evidence,
            Store.from_environment("evidence"),
            self.sign,
            publish_weak=self.publish_weak,
            anew=self.anew,
        )


@submit_app.command("mark-release")
def submit_mark_release(
    release_json: ReleaseJson,
    publish: Publish,
    publish_evidence: PublishEvidence,
    profile: Annotated[str, typer.Option("--profile", help="smoke, standard or full.")] = "standard",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Set a parameter of the profile, as name=value; may be repeated.")
    ] = None,
    version: Annotated[str, typer.Option("--version", help="Version of the marked release.")] = "1",
    drawing: Drawing = None,
    drawn_with: DrawnWith = None,
    local: Local = False,
    key: Key = None,
    work: Work = WORK,
    endpoint: Endpoint = None,
    sign: Sign = False,
    anew: Anew = False,
    namespace: Namespace = None,
    pipeline_root: PipelineRoot = None,
    service_account: ServiceAccount = None,
    images: Images = None,
    unpinned: Unpinned = False,
    pods: PodsFile = None,
    wait: Wait = False,
    timeout: Timeout = DAY,
    debug: Debug = False,
) -> None:
    """Mark a release that 'medmark ingest' made, unless that was submitted before.

    MEDMARK_S3_EVIDENCE_CREDENTIALS opens the ingested release and the drawing, too: they are private. A server takes the drawing
    and what completes it from s3://... only.
    """
    from medmark.components.profiles import read_settings
    from medmark.components.storage.store import Store
    from medmark.pipelines.submitting.submission import of_mark_release

    runner = Runner(
        releases=publish,
        evidence=publish_evidence,
        local=local,
        key=key,
        work=work,
        endpoint=endpoint,
        sign=sign,
        anew=anew,
        namespace=namespace,
        pipeline_root=pipeline_root,
        service_account=service_account,
        images=images,
        unpinned=unpinned,
        pods=pods,
        debug=debug,
    )
    settings, private = read_settings(pairs(set_, "--set")), Store.from_environment("evidence")
    submission = of_mark_release(
        release_json,
        private,
        profile=profile,
        settings=settings,
        version=version,
        drawing=drawing_of(drawing, drawn_with, runner),
    )
    start(submission, runner, timeout if wait else None)


def drawing_of(drawing: str | None, drawn_with: str | None, runner: Runner) -> dict:
    """Returns the pipeline's argument ``drawing``; refuses files of this machine for a server, which cannot reach them."""
    from medmark.pipelines.run_arguments import drawing_argument

    refuse_unreachable([drawing, drawn_with], runner)
    return drawing_argument(drawing, drawn_with)


def refuse_unreachable(files: Iterable[str | None], runner: Runner) -> None:
    """Refuses files of this machine for a server, which cannot reach them."""
    from medmark.components.delivery.places import is_place

    for text in files:
        if text is not None and not runner.local and not is_place(text):
            raise MedmarkError(
                f"the server cannot read {text}; store it in the evidence's bucket and give s3://bucket/name"
            )


@submit_app.command("lock-release")
def submit_lock_release(
    release_json: ReleaseJson,
    recipient: Recipients,
    publish: Publish,
    publish_evidence: PublishEvidence,
    publish_weak: PublishWeak = False,
    text: LogoText = "NOT FOR ANALYSIS",
    logo: Annotated[
        list[str] | None,
        typer.Option(
            "--logo",
            help="PNG file of a logo in place of the text; may be repeated, for a choice of one shape. A server takes it from"
            " s3://bucket/name.",
        ),
    ] = None,
    profile: Annotated[str, typer.Option("--profile", help="smoke, standard or full.")] = "standard",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Set a parameter of the profile, as name=value; may be repeated.")
    ] = None,
    version: Annotated[str, typer.Option("--version", help="Version of the locked release.")] = "1-locked",
    local: Local = False,
    key: Key = None,
    work: Work = WORK,
    endpoint: Endpoint = None,
    sign: Sign = False,
    anew: Anew = False,
    namespace: Namespace = None,
    pipeline_root: PipelineRoot = None,
    service_account: ServiceAccount = None,
    images: Images = None,
    unpinned: Unpinned = False,
    pods: PodsFile = None,
    wait: Wait = False,
    timeout: Timeout = DAY,
    debug: Debug = False,
) -> None:
    """Lock a release, unless that was submitted before.

    MEDMARK_S3_EVIDENCE_CREDENTIALS opens the release without locks and the logos, too: they are private.
    """
    from medmark.components.delivery.places import Places
    from medmark.components.locking.profiles import LockProfile
    from medmark.components.profiles import read_settings
    from medmark.components.storage.store import Store
    from medmark.pipelines.lock_release.run import read_recipients
    from medmark.pipelines.submitting.submission import of_lock_release

    runner = Runner(
        releases=publish,
        evidence=publish_evidence,
        local=local,
        key=key,
        work=work,
        endpoint=endpoint,
        sign=sign,
        anew=anew,
        namespace=namespace,
        pipeline_root=pipeline_root,
        service_account=service_account,
        images=images,
        unpinned=unpinned,
        pods=pods,
        debug=debug,
        publish_weak=publish_weak,
    )
    refuse_unreachable(logo or [], runner)
    with Places() as places:
        keys = {name: places.read(file, raw=True) for name, file in pairs(recipient, "--recipient").items()}
        recipients = read_recipients(keys)
    submission = of_lock_release(
        release_json,
        Store.from_environment("evidence"),
        recipients=recipients,
        text=text,
        logos=logo or [],
        profile=profile,
        settings=read_settings(pairs(set_, "--set"), LockProfile),
        version=version,
    )
    start(submission, runner, timeout if wait else None)


@submit_app.command("mark-segmenter")
def submit_mark_segmenter(
    release_json: ReleaseJson,
    text: OwnerText,
    publish: Publish,
    publish_evidence: PublishEvidence,
    profile: Annotated[str, typer.Option("--profile", help="smoke, standard or full.")] = "standard",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Set a parameter of the profile, as name=value; may be repeated.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the model.")] = "segmenter",
    version: Annotated[str, typer.Option("--version", help="Version of the model.")] = "1",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Trained segmenter to mark, a safetensors file; trained from scratch if not given. A server takes it from"
            " s3://bucket/name. Give its architecture and size with --set unless medmark wrote it.",
        ),
    ] = None,
    drawing: Drawing = None,
    drawn_with: DrawnWith = None,
    local: Local = False,
    key: Key = None,
    work: Work = WORK,
    endpoint: Endpoint = None,
    sign: Sign = False,
    anew: Anew = False,
    namespace: Namespace = None,
    pipeline_root: PipelineRoot = None,
    service_account: ServiceAccount = None,
    images: Images = None,
    unpinned: Unpinned = False,
    pods: PodsFile = None,
    wait: Wait = False,
    timeout: Timeout = DAY,
    debug: Debug = False,
) -> None:
    """Train a marked segmenter, or mark a trained one, unless that was submitted before.

    MEDMARK_S3_EVIDENCE_CREDENTIALS opens the release for segmentation, the trained segmenter and the drawing, too: they are private.
    """
    from medmark.components.profiles import read_settings
    from medmark.components.segmentation.profiles import SegmenterProfile
    from medmark.components.storage.store import Store
    from medmark.pipelines.submitting.submission import of_mark_segmenter

    runner = Runner(
        releases=publish,
        evidence=publish_evidence,
        local=local,
        key=key,
        work=work,
        endpoint=endpoint,
        sign=sign,
        anew=anew,
        namespace=namespace,
        pipeline_root=pipeline_root,
        service_account=service_account,
        images=images,
        unpinned=unpinned,
        pods=pods,
        debug=debug,
    )
    refuse_unreachable([model], runner)
    submission = of_mark_segmenter(
        release_json,
        Store.from_environment("evidence"),
        text=text,
        profile=profile,
        settings=read_settings(pairs(set_, "--set"), SegmenterProfile),
        name=name,
        version=version,
        model=model,
        drawing=drawing_of(drawing, drawn_with, runner),
    )
    start(submission, runner, timeout if wait else None)


@submit_app.command("update-release")
def submit_update_release(
    release_json: ReleaseJson,
    drop: Annotated[str, typer.Option("--drop", help="The raw drop, s3://bucket/prefix.")],
    evidence: Annotated[str, typer.Option("--evidence", help="Evidence of the release, s3://.../<digest>.")],
    keep: Annotated[str, typer.Option("--keep", help="What was kept for updates of the release, s3://.../<digest>.")],
    publish: Publish,
    publish_evidence: PublishEvidence,
    version: Annotated[
        str | None, typer.Option("--version", help="Version of the new release; the next number if not given.")
    ] = None,
    label_column: Label = None,
    path_column: PathColumn = None,
    patient_column: PatientColumn = None,
    patient_pattern: PatientPattern = None,
    where: Where = None,
    uncertain: Uncertain = "ignore",
    quarantine: Quarantine = False,
    local: Local = False,
    key: Key = None,
    work: Work = WORK,
    endpoint: Endpoint = None,
    sign: Sign = False,
    anew: Anew = False,
    namespace: Namespace = None,
    pipeline_root: PipelineRoot = None,
    service_account: ServiceAccount = None,
    images: Images = None,
    unpinned: Unpinned = False,
    pods: PodsFile = None,
    wait: Wait = False,
    timeout: Timeout = DAY,
    debug: Debug = False,
) -> None:
    """Make the next release from a drop, unless that was submitted before."""
    from medmark.components.storage.store import Store
    from medmark.pipelines.submitting.submission import of_update_release

    runner = Runner(
        releases=publish,
        evidence=publish_evidence,
        local=local,
        key=key,
        work=work,
        endpoint=endpoint,
        sign=sign,
        anew=anew,
        namespace=namespace,
        pipeline_root=pipeline_root,
        service_account=service_account,
        images=images,
        unpinned=unpinned,
        pods=pods,
        debug=debug,
    )
    options = given_only(
        drop_options(
            label_column=label_column,
            path_column=path_column,
            patient_column=patient_column,
            patient_pattern=patient_pattern,
            root=None,
            where=where,
            uncertain=uncertain,
            quarantine=quarantine,
        )
    )
    submission = of_update_release(
        release_json,
        Store.from_environment(),
        drop=drop,
        drop_store=Store.from_environment("evidence"),
        evidence=evidence,
        keep=keep,
        options=options,
        version=version,
    )
    start(submission, runner, timeout if wait else None)


def start(submission: Submission, runner: Runner, timeout: float | None) -> None:
    """Runs a submission on this machine, or starts it on a server, and prints what became of it.

    Args:
        submission: what to run.
        runner: where.
        timeout: seconds to wait for a run on a server; None: do not wait.
    """
    from medmark.components.delivery.submission_records import read_record
    from medmark.components.storage.store import Store
    from medmark.pipelines.submitting.cluster import submit_to_server, wait_for_record
    from medmark.pipelines.submitting.local import submit_locally

    record: dict | None
    before = f"done before, nothing to do: submission {submission.key}"
    if runner.local:
        record, new = submit_locally(submission, runner.here())
        print(f"done: submission {submission.key}" if new else before)
    elif record := read_record(submission.key, runner.evidence, Store.from_environment("evidence")):
        print(before)
    else:
        target = runner.on_server()
        run, new = submit_to_server(submission, target)
        print(f"{'submitted' if new else 'submitted before, nothing to do'}: {submission.name}")
        print(target.server.url(run), flush=True)
        record = wait_for_record(run, submission, target, timeout) if timeout is not None else None
    if record:
        made = "model" if submission.pipeline == "mark-segmenter" else "release"
        print(f"{made}: {record['result'] or 'nothing changed, nothing published'}")


@app.command("reconcile")
def reconcile_command(
    drops: Annotated[str, typer.Option("--drops", help="s3://bucket/prefix with one folder per drop.")],
    releases: Annotated[str, typer.Option("--releases", help="s3://bucket/prefix of the marked releases.")],
    evidence: Annotated[str, typer.Option("--evidence", help="s3://bucket/prefix of evidence and keep.")],
    label_column: Label = None,
    path_column: PathColumn = None,
    patient_column: PatientColumn = None,
    patient_pattern: PatientPattern = None,
    where: Where = None,
    uncertain: Uncertain = "ignore",
    quarantine: Quarantine = False,
    local: Local = False,
    key: Key = None,
    work: Work = WORK,
    endpoint: Endpoint = None,
    sign: Sign = False,
    namespace: Namespace = None,
    pipeline_root: PipelineRoot = None,
    service_account: ServiceAccount = None,
    images: Images = None,
    unpinned: Unpinned = False,
    pods: PodsFile = None,
    timeout: Timeout = DAY,
    cron: Cron = None,
    inside: Inside = None,
    sweep_account: SweepAccount = None,
    debug: Debug = False,
) -> None:
    """Make a release from every complete drop that has none yet, in the order of the drops' names.

    MEDMARK_S3_CREDENTIALS opens releases and drops, MEDMARK_S3_EVIDENCE_CREDENTIALS evidence. With --cron the server does it at
    the times that are given, with the secrets of its namespace, and this command needs no credentials of a store.
    """
    from medmark.components.storage.store import Store
    from medmark.pipelines.submitting.reconcile import reconcile

    if cron is not None and local:
        raise MedmarkError("--cron is for a server; let this machine's own scheduler start the command with --local")
    if cron is None and (inside is not None or sweep_account is not None):
        raise MedmarkError("--inside and --sweep-account are for sweeps that the server starts; give --cron, too")

    runner = Runner(
        releases=releases,
        evidence=evidence,
        local=local,
        key=key,
        work=work,
        endpoint=endpoint,
        sign=sign,
        namespace=namespace,
        pipeline_root=pipeline_root,
        service_account=service_account,
        images=images,
        unpinned=unpinned,
        pods=pods,
        debug=debug,
    )
    options = given_only(
        drop_options(
            label_column=label_column,
            path_column=path_column,
            patient_column=patient_column,
            patient_pattern=patient_pattern,
            root=None,
            where=where,
            uncertain=uncertain,
            quarantine=quarantine,
        )
    )
    if cron is not None:
        from medmark.pipelines.submitting.schedule import schedule_sweeps

        shown = schedule_sweeps(
            runner.server(),
            drops,
            releases,
            evidence,
            cron=cron,
            options=options,
            sign=sign,
            inside=inside,
            namespace=namespace,
            pipeline_root=pipeline_root,
            service_account=service_account,
            sweep_account=sweep_account,
            pods=runner.asked(),
            timeout=timeout,
        )
        print(shown)
        return
    stores = {"store": Store.from_environment(), "evidence_store": Store.from_environment("evidence")}
    for line in reconcile(drops, releases, evidence, **stores, options=options, submit=submitter(runner, timeout)):
        print(line, flush=True)


def submitter(runner: Runner, timeout: float) -> Callable[[Submission], dict]:
    """Returns a function that does a submission, waits for it, and returns its record."""
    from medmark.pipelines.submitting.cluster import submit_to_server, wait_for_record
    from medmark.pipelines.submitting.local import submit_locally

    if runner.local:
        here = runner.here()
        return lambda submission: submit_locally(submission, here)[0]
    server = runner.on_server()
    return lambda submission: wait_for_record(submit_to_server(submission, server)[0], submission, server, timeout)


def given_only(options: dict) -> dict:
    """Returns the options that were given: those that are not would change the key of a submission."""
    return {name: value for name, value in options.items() if value not in (None, {})}
