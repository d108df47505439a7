"""KFP components of the delivery room: expand a profile, draw a run's secrets, fetch what a run starts from, and publish what it made.

The steps that fetch and publish take the credentials of the object stores from their environment: MEDMARK_S3_ENDPOINT,
MEDMARK_S3_ACCESS_KEY and MEDMARK_S3_SECRET_KEY for releases, MEDMARK_S3_EVIDENCE_ENDPOINT and so on for evidence.
"""

from typing import NamedTuple

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def draw_secrets_component(
    seed: str, for_figures: bool, patients: dict, drawing: dict, drawn_for: str, secrets: dsl.Output[dsl.Artifact]
) -> None:
    """Draws the secrets of a run: seeds, from which the key of the mark follows, and the key of the patients' pseudonyms.

    For a drawing in an object store, the step takes the credentials for evidence from its environment.

    Args:
        seed: integer as text, from which all secrets follow but the key of the pseudonyms, for figures that can be repeated; everybody
            who may see the run reads it there and in its logs. Secrets are drawn at random when empty.
        for_figures: whoever starts the run vouches that nothing it makes will be released; a seed is refused without that.
        patients: ``file``, the path of a file with the key of the pseudonyms that the step can reach, and ``state``, any text
            that differs whenever the file differs (see ``source_state`` of ``ingest_component``). The key is drawn when empty.
        drawing: ``file``, where a drawing of ``medmark keys draw`` is (a path that the step can reach, or ``s3://bucket/name``),
            ``value``, where the time stamp or beacon's value is that completes it, and ``state``, as for ``patients``. The seed
            of the mark is drawn by the step when empty, and nobody can check then how.
        drawn_for: the key of the submission that the secrets are drawn for, or ``dsl.PIPELINE_JOB_ID_PLACEHOLDER``; public. KFP's cache finds
            the secrets of another run of the same pipeline only if that says the same and all else is the same.
        secrets: JSON file; private.
    """
    from medmark.components.base.errors import MedmarkError
    from medmark.components.evidence.secrets import draw_secrets
    from medmark.components.lineage.drawing import complete_places
    from medmark.components.lineage.step import step

    if seed and not for_figures:
        raise MedmarkError(
            "a seed gives the key of the mark to everybody who may see this run; leave seed empty, or set for_figures if nothing"
            " that the run makes will be released"
        )
    if not drawn_for:
        raise MedmarkError(
            "nothing says what the secrets are for, so two runs could share them; set drawn_for to the run's id"
        )
    with step("draw secrets", inputs={}, outputs={"secrets": secrets}):
        draw = complete_places(drawing["file"], drawing["value"]) if drawing else None
        draw_secrets(secrets.path, int(seed) if seed else None, patients.get("file"), draw)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def expand_profile_component(
    profile: str, overrides: dict, models_per_step: int, ingest_options: dict, name: str, drawn_for: str, run: str
) -> NamedTuple(  # type: ignore[valid-type]  # how KFP takes several outputs
    "Expanded",
    [
        ("drawn_for", str),
        ("ingest_options", dict),
        ("size", int),
        ("target_class", str),
        ("surrogates", list),
        ("benign_models", list),
        ("marked_models", list),
        ("generator_config", dict),
        ("control_config", dict),
        ("queries", int),
        ("hold_back", float),
        ("thresholds", dict),
        ("parameters", dict),
    ],
):
    """Expands a profile to what the steps of mark_release take, so that nobody has to write it.

    Args:
        profile: ``smoke``, ``standard`` or ``full``.
        overrides: values of the profile to replace, by name, as ``{"size": 224}``; see ``medmark.components.profiles.Profile``.
        models_per_step: models of a list that one step trains; all of them when 0.
        ingest_options: keyword arguments of ``medmark.components.dataset.ingest.ingest``, as ``{"label_column": "finding"}``.
        name: of the data, for the report and MLflow.
        drawn_for: what the run's secrets are drawn for, see ``draw_secrets_component``.
        run: the run's id.

    Returns:
        drawn_for: as given; the run's id if that was empty.
        ingest_options, size, target_class, queries, hold_back, thresholds: as the steps take them.
        surrogates, benign_models, marked_models: configurations of the models, a list for each step that trains some of them; seeds
            refer to the run's secrets.
        generator_config, control_config: likewise.
        parameters: of the run, as the report shows them.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.profiles import chosen_profile, grouped, marking_arguments, shown_parameters

    chosen = chosen_profile(profile, whole(overrides))
    given = marking_arguments(chosen, ingest_options)
    for configs in ("surrogate_configs", "benign_configs", "marked_configs"):
        given[configs] = grouped(given[configs], int(models_per_step))
    return (drawn_for or run, *given.values(), shown_parameters(profile, chosen, name))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_release_component(uri: str, digest: str, release: dsl.Output[dsl.Dataset]) -> None:
    """Fetches a release and checks its digest.

    Args:
        uri: ``s3://bucket/prefix/<digest>``, or a folder that the step can reach.
        digest: SHA-256 that its ``release.json`` must have.
        release: the release.
    """
    from medmark.components.delivery.publish import RELEASE
    from medmark.components.delivery.run_inputs import fetch_input

    fetch_input(RELEASE, uri, digest, release.path)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_evidence_component(uri: str, digest: str, evidence: dsl.Output[dsl.Artifact]) -> None:
    """Fetches the evidence of a release and checks its digest.

    Args:
        uri: ``s3://bucket/prefix/<digest>``, or a folder that the step can reach.
        digest: SHA-256 that its ``evidence.json`` must have.
        evidence: the evidence; private.
    """
    from medmark.components.delivery.publish import EVIDENCE
    from medmark.components.delivery.run_inputs import fetch_input

    fetch_input(EVIDENCE, uri, digest, evidence.path)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_previous_component(
    release_uri: str,
    evidence_uri: str,
    keep_uri: str,
    release_digest: str,
    evidence_digest: str,
    keep_digest: str,
    release: dsl.Output[dsl.Dataset],
    evidence: dsl.Output[dsl.Artifact],
    keep: dsl.Output[dsl.Artifact],
    manifest: dsl.Output[dsl.Dataset],
) -> None:
    """Fetches all that an update starts from, and checks the digests.

    Args:
        release_uri: the previous marked release: ``s3://bucket/prefix/<digest>``, or a folder that the step can reach.
        evidence_uri: its evidence, likewise.
        keep_uri: what was kept for its updates, likewise.
        release_digest: SHA-256 that ``release.json`` must have.
        evidence_digest: SHA-256 that ``evidence.json`` must have.
        keep_digest: SHA-256 that ``keep.json`` must have.
        release: the previous marked release.
        evidence: its evidence; private.
        keep: what was kept for its updates; private.
        manifest: the previous marked release without its images, with its signatures.
    """
    from medmark.components.dataset.release import copy_manifest
    from medmark.components.delivery.publish import EVIDENCE, KEEP, RELEASE
    from medmark.components.delivery.run_inputs import fetch_input

    fetch_input(RELEASE, release_uri, release_digest, release.path)
    fetch_input(EVIDENCE, evidence_uri, evidence_digest, evidence.path)
    fetch_input(KEEP, keep_uri, keep_digest, keep.path)
    copy_manifest(release.path, manifest.path)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def publish_component(
    subject: dsl.Input[dsl.Artifact],
    evidence: dsl.Input[dsl.Artifact],
    check: dsl.Input[dsl.Artifact],
    signatures: dsl.Input[dsl.Artifact],
    publish_uri: str,
    publish_evidence_uri: str,
    sign: bool,
    submission: dict,
    keep: dsl.Input[dsl.Artifact] = None,
    publish_weak: bool = False,
) -> str:
    """Publishes what a run made, unless its mark does not work or its locks do harm, and records the submission.

    Args:
        subject: the marked or locked release, or the marked model.
        evidence: its complete evidence, from the checking step; private.
        check: folder with ``verdict.json``, from the checking step; the verdict must be ``owned``, ``locked`` or ``unchanged``.
        signatures: signatures, from ``sign_component``.
        publish_uri: where the release or model goes, ``s3://bucket/prefix``.
        publish_evidence_uri: where evidence and keep go, ``s3://bucket/prefix`` in another bucket.
        sign: whether there are signatures to publish.
        submission: what the record says of the submission, see
            ``medmark.components.delivery.submission_records.new_record``; no record is written when empty.
        keep: what was kept for updates, if there can be any; private.
        publish_weak: publish a locked release with the verdict ``weak``, too.

    Returns:
        Digest of what was published; empty if the run changed nothing, so that nothing was published.
    """
    import json
    from pathlib import Path

    from medmark.components.base.parameters import whole
    from medmark.components.delivery.run_outputs import publish_run
    from medmark.components.storage.store import Store
    from medmark.components.tracking.connection import take_secret

    take_secret()
    digest = publish_run(
        json.loads(Path(check.path, "verdict.json").read_bytes()),
        subject.path,
        evidence.path,
        keep.path if keep else None,
        signatures_dir=signatures.path if sign else None,
        releases=publish_uri,
        evidence=publish_evidence_uri,
        store=Store.from_environment(),
        evidence_store=Store.from_environment("evidence"),
        submission=whole(submission),
        weak=publish_weak,
    )
    return digest or ""
