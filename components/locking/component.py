"""KFP components of the locking room: expand a profile, lock a release, check the locks, and log the run."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def expand_lock_profile_component(
    profile: str, overrides: dict, ingest_options: dict, name: str, drawn_for: str, run: str
) -> NamedTuple(  # type: ignore[valid-type]  # how KFP takes several outputs
    "Expanded",
    [
        ("drawn_for", str),
        ("ingest_options", dict),
        ("configs", list),
        ("unseen_configs", list),
        ("segmenter_config", dict),
        ("search", dict),
        ("removal_steps", int),
        ("thresholds", dict),
        ("parameters", dict),
    ],
):
    """Expands a profile to what the steps of lock_release take, so that nobody has to write it.

    Args:
        profile: ``smoke``, ``standard`` or ``full``.
        overrides: values of the profile to replace, by name, as ``{"size": 224}``; see
            ``medmark.components.locking.profiles.LockProfile``.
        ingest_options: keyword arguments of ``medmark.components.dataset.ingest.ingest``, as ``{"lesions": true}``.
        name: of the data, for the report and MLflow.
        drawn_for: what the run's secrets are drawn for, see ``draw_secrets_component``.
        run: the run's id.

    Returns:
        drawn_for: as given; the run's id if that was empty.
        ingest_options, search, removal_steps, thresholds: as the steps take them.
        configs, unseen_configs, segmenter_config: likewise; seeds refer to the run's secrets.
        parameters: of the run, as the report shows them.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.locking.profiles import chosen_lock_profile, locking_arguments
    from medmark.components.profiles import shown_parameters

    chosen = chosen_lock_profile(profile, whole(overrides))
    given = locking_arguments(chosen, ingest_options)
    return (drawn_for or run, *given.values(), shown_parameters(profile, chosen, name))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_lesion_segmenter_component(
    release: dsl.Input[dsl.Dataset],
    config: dict,
    secrets: dsl.Input[dsl.Artifact],
    segmenter: dsl.Output[dsl.Model],
) -> bool:
    """Trains a segmenter that finds lesions where nobody has drawn them, if the release has enough masks of lesions.

    Args:
        release: release for classification.
        config: dictionary with the fields of ``medmark.components.segmentation.training.SegmenterConfig``; values may refer to the run's
            secrets.
        secrets: the run's secrets, from ``draw_secrets_component``.
        segmenter: folder with ``segmenter.json`` and, if one was trained, its weights.

    Returns:
        Whether one was trained.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.evidence.secrets import read_secrets, resolved
    from medmark.components.lineage.step import step
    from medmark.components.locking.lesion_segmenter import train_lesion_segmenter
    from medmark.components.segmentation.training import SegmenterConfig

    inputs, parameters = {"release": release, "secrets": secrets}, {"config": whole(config)}
    with step("train lesion segmenter", inputs=inputs, outputs={"segmenter": segmenter}, parameters=parameters):
        known = SegmenterConfig(**resolved(config, read_secrets(secrets.path)))
        stated = train_lesion_segmenter(release.path, segmenter.path, known)
    return stated["trained"]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def lock_release_component(
    clean: dsl.Input[dsl.Dataset],
    models: dsl.Input[dsl.Model],
    segmenter: dsl.Input[dsl.Model],
    secrets: dsl.Input[dsl.Artifact],
    version: str,
    text: str,
    logos: list,
    search: dict,
    recipients: dict,
    release: dsl.Output[dsl.Dataset],
    evidence: dsl.Output[dsl.Artifact],
) -> str:
    """Puts a logo onto every image, where it makes classifiers fail and touches no lesion, and seals what it hides.

    Args:
        clean: release for classification; private.
        models: the classifiers that are to fail.
        segmenter: finds lesions where there is no mask, from ``train_lesion_segmenter_component``.
        secrets: the run's secrets, from ``draw_secrets_component``; the key of the locks follows from them, and whoever keeps them can
            open every lock.
        version: of the locked release; public.
        text: for logos on a dark and a light plate, 1 to 24 printable characters; not used if there are ``logos``.
        logos: PNG files of one shape, each a dictionary with ``file``, a path that the step can reach or ``s3://bucket/name``, and
            ``sha256``, which it must have.
        search: dictionary with the fields of ``medmark.components.locking.search.SearchConfig``.
        recipients: text of ``locking.pub`` by name: who may unlock, the owner first.
        release: the locked release; public.
        evidence: private.

    Returns:
        Digest of the locked release: SHA-256 of ``release.json``.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.delivery.places import Places
    from medmark.components.evidence.secrets import read_secrets
    from medmark.components.lineage.step import step
    from medmark.components.locking.lock import LockOptions, lock_release
    from medmark.components.locking.logo import read_logos_of, text_logos
    from medmark.components.locking.search import SearchConfig

    parameters = {"version": version, "text": text, "logos": logos, "search": whole(search), "recipients": recipients}
    inputs = {"clean": clean, "models": models, "segmenter": segmenter, "secrets": secrets}
    outputs = {"release": release, "evidence": evidence}
    with step("lock", inputs=inputs, outputs=outputs, parameters=parameters, seed={"$secret": "seed"}):
        drawn = read_secrets(secrets.path)
        with Places() as places:
            given = [(places.read(logo["file"], raw=True, private=True), logo["sha256"]) for logo in logos]
            options = LockOptions(
                version=version,
                logos=read_logos_of(given) if given else text_logos(text),
                search=SearchConfig.of(whole(search)),
                mark_key=drawn.mark_key,
                seed=drawn.seed,
                recipients=recipients,
            )
        paths = (clean.path, models.path, release.path, evidence.path)
        made = lock_release(*paths, options, segmenter_dir=segmenter.path)
    release.metadata.update(digest=made["release_digest"])
    return made["release_digest"]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_locks_component(
    clean: dsl.Input[dsl.Dataset],
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    models: dsl.Input[dsl.Model],
    unseen: dsl.Input[dsl.Model],
    segmenter: dsl.Input[dsl.Model],
    secrets: dsl.Input[dsl.Artifact],
    search: dict,
    removal_steps: int,
    thresholds: dict,
    parameters: dict,
    check: dsl.Output[dsl.Artifact],
    complete: dsl.Output[dsl.Artifact],
    record: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> dict:
    """Measures what classifiers still see, tries to get past the locks, opens every one; completes the evidence and writes the report.

    Args:
        clean: release that was locked; private.
        release: the locked release, from ``lock_release_component``.
        evidence: its evidence, from ``lock_release_component``; private.
        models: the classifiers that it was locked against.
        unseen: classifiers that took no part, trained on the clean release.
        segmenter: finds lesions where there is no mask, as the locking step had it.
        secrets: the run's secrets, from ``draw_secrets_component``.
        search: dictionary with the fields of ``medmark.components.locking.search.SearchConfig``, as the locking step had it.
        removal_steps: batches that a network which removes logos is trained with.
        thresholds: dictionary with the fields of ``medmark.components.locking.verdict.LockThresholds``; fix them before the run.
        parameters: parameters of the run, to be shown.
        check: folder with ``verdict.json``; private.
        complete: the evidence with the verdict and the list of all steps; private.
        record: how the release was made; public.
        report: HTML file that opens without a network; private, because it shows images without their locks.
        summary: the verdict, its proofs, and what speaks against the locks; shows no image.
        metrics: the numbers by which runs are compared; ``works`` is 1 if the verdict is ``locked``, else 0.

    Returns:
        ``verdict``, ``release_digest`` and ``evidence_digest``.
    """
    from pathlib import Path

    from medmark.components.base.parameters import whole
    from medmark.components.evidence.secrets import read_secrets
    from medmark.components.lineage.events import artifact_digest
    from medmark.components.lineage.step import said_by, step
    from medmark.components.locking import summary as page
    from medmark.components.locking.check import CheckOptions, check_locks
    from medmark.components.locking.evidence import finish_lock_evidence
    from medmark.components.locking.report import report_locks
    from medmark.components.locking.search import SearchConfig
    from medmark.components.locking.verdict import LockThresholds

    own = {"draw_secrets": secrets, "ingest": clean, "train_classifiers": models, "train_unseen": unseen}
    own |= {"train_lesion_segmenter": segmenter, "lock": release}
    seconds = {name: made["seconds"] for name, made in said_by(own).items()}
    inputs = {"clean": clean, "release": release, "evidence": evidence, "models": models, "unseen": unseen}
    inputs |= {"segmenter": segmenter}
    given = {"thresholds": whole(thresholds), "search": whole(search), "removal_steps": removal_steps}
    with step("check locks", inputs=inputs, outputs={"check": check}, parameters=given, seed={"$secret": "seed"}):
        drawn = read_secrets(secrets.path)
        options = CheckOptions(
            mark_key=drawn.mark_key,
            seed=drawn.seed,
            search=SearchConfig.of(whole(search)),
            thresholds=LockThresholds(**whole(thresholds)),
            removal_steps=removal_steps,
        )
        paths = (clean.path, release.path, evidence.path, models.path, unseen.path, segmenter.path)
        verdict = check_locks(*paths, check.path, options, seconds=seconds)
    events = [made["lineage"] for made in said_by(own | {"check_locks": check}).values()]
    finish_lock_evidence(
        release.path, evidence.path, complete.path, record.path, verdict=verdict, events=events, drawn=drawn
    )
    verdict["seconds"]["check_locks"] = check.metadata["seconds"]
    shown = (clean.path, release.path, complete.path, models.path, segmenter.path)
    report_locks(*shown, verdict, report.path, whole(parameters), mark_key=drawn.mark_key)
    Path(summary.path).write_text(page.summary(verdict), encoding="utf-8")
    for name, value in page.metrics(verdict).items():
        metrics.log_metric(name, value)
    checked = {name: verdict[name] for name in ("verdict", "release_digest")}
    check.metadata.update(checked)
    return {**checked, "evidence_digest": artifact_digest(complete.path)}


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def track_locking_component(
    release: dsl.Input[dsl.Dataset],
    models: dsl.Input[dsl.Model],
    unseen: dsl.Input[dsl.Model],
    check: dsl.Input[dsl.Artifact],
    parameters: dict,
    kfp_run: str,
    unlogged: dsl.Output[dsl.Artifact],
) -> None:
    """Logs a run of lock_release to the MLflow server that the step's environment names, if it names one.

    A server that does not answer fails nothing: what it did not take becomes an output.

    Args:
        release: the locked release.
        models: the classifiers that it was locked against.
        unseen: classifiers that took no part.
        check: verdict, from ``check_locks_component``.
        parameters: of the run, without seeds.
        kfp_run: id of the run, which becomes the tag ``medmark.kfp_run``; no tag when empty.
        unlogged: folder with what MLflow did not take, for ``medmark track sync``.
    """
    import json
    from pathlib import Path

    from medmark.components.base.parameters import whole
    from medmark.components.locking.tracking import track_locking
    from medmark.components.tracking.connection import is_named, take_secret

    take_secret()
    Path(unlogged.path).mkdir(parents=True)
    if not is_named():
        return
    verdict = json.loads((Path(check.path) / "verdict.json").read_bytes())
    parts = {
        name: Path(artifact.path) for name, artifact in {"release": release, "models": models, "unseen": unseen}.items()
    }
    track_locking(Path(unlogged.path), parts, verdict, whole(parameters), kfp_run=kfp_run)
