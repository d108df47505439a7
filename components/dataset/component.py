"""KFP components of the dataset room: make a clean release, prepare a release's images, and find out what a drop changes."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest_component(
    source: str,
    source_state: str,
    options: dict,
    release: dsl.Output[dsl.Dataset],
    origins: dsl.Output[dsl.Artifact],
    secrets: dsl.Input[dsl.Artifact] = None,
) -> str:
    """Makes a clean release from raw images.

    Args:
        source: folder per class, CSV file or existing release, as a path that the step can reach or as ``s3://bucket/prefix``.
        source_state: any text that differs whenever the source's files differ. A run on one machine skips a step whose
            arguments are those of a finished one, and would not notice changed files otherwise.
        options: keyword arguments of ``medmark.components.dataset.ingest.ingest``; values may refer to the run's secrets, as
            ``{"$secret": "ingest_seed"}``.
        release: the clean release: Parquet shards and ``release.json``; private, because its images carry no mark.
        origins: folder that says which file and which patient each image came from; private.
        secrets: the run's secrets, from ``draw_secrets_component``; needed only if ``options`` refers to them.

    Returns:
        Digest of the release: SHA-256 of ``release.json``.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.dataset.ingest import ingest
    from medmark.components.dataset.origin import drop_digest, read_origins, read_patient_key
    from medmark.components.delivery.places import Places
    from medmark.components.evidence.secrets import read_secrets, resolved
    from medmark.components.lineage.step import step

    # the events become part of the evidence, and an auditor needs no key of the pseudonyms
    parameters = {name: value for name, value in whole(options).items() if name != "patient_key"}
    inputs, outputs = {"secrets": secrets} if secrets else {}, {"clean": release, "origins": origins}
    with step("ingest", inputs=inputs, outputs=outputs, parameters=parameters) as running:
        known = resolved(options, read_secrets(secrets.path) if secrets else None)
        with Places() as places:
            read = places.read(source, raw=True, private=True)
            digest = ingest(read, release.path, private=origins.path, **known).digest
        known = read_origins(origins.path)
        running.inputs["source"] = drop_digest(known, read_patient_key(origins.path))
        running.source_files = len(known)
    release.metadata.update(digest=digest, source_state=source_state)
    return digest


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare_component(
    release: dsl.Input[dsl.Dataset],
    size: int,
    prepared: dsl.Output[dsl.Dataset],
    manifest: dsl.Output[dsl.Dataset],
) -> None:
    """Prepares the images of a release for all steps that learn from them, so that no other step has to download the release.

    Args:
        release: clean or marked release for classification.
        size: side that the images are squashed to, pixels.
        prepared: the images as shown, in 8 bits, with labels, splits and ids; as private as the release.
        manifest: the release without its images, for steps that want to know what the release is. It says of the
            steps before it what the release says, and of this one.
    """
    from medmark.components.dataset.prepared import prepare
    from medmark.components.dataset.release import copy_manifest
    from medmark.components.lineage.step import pass_on, passed_on, said_by, step

    inputs, outputs = {"release": release}, {"prepared": prepared}
    with step("prepare", inputs=inputs, outputs=outputs, parameters={"size": int(size)}):
        prepare(release.path, prepared.path, size=int(size))
    copy_manifest(release.path, manifest.path)
    manifest.metadata.update(release.metadata)
    pass_on({**passed_on(release), "prepare_release": said_by({"prepare": prepared})["prepare"]}, manifest)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def read_drop_component(
    source: str,
    source_state: str,
    options: dict,
    previous: dsl.Input[dsl.Dataset],
    keep: dsl.Input[dsl.Artifact],
    drop: dsl.Output[dsl.Artifact],
) -> int:
    """Finds out what a raw drop changes.

    Args:
        source: folder per class, CSV file, folder with a CSV file, or release, as a path that the step can reach; or
            ``s3://bucket/prefix`` of a folder with any of them.
        source_state: of a drop in an object store, the digest of its listing
            (``medmark.components.delivery.drops.listing_digest``), which must still be right when the step reads it; not
            checked when empty. Of any other drop, any text that differs whenever the drop's files differ, as for
            ``ingest_component``.
        options: keyword arguments of ``medmark.components.dataset.drop.read_drop``.
        previous: the previous marked release.
        keep: what was kept for updates of that release; private.
        drop: folder with the added and changed images, still without marks, and the list of all changes; private.

    Returns:
        Number of images that were added, changed or withdrawn, images of patients who are held back included.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.dataset.drop import CHANGES, read_drop
    from medmark.components.delivery.drops import raw_drop
    from medmark.components.lineage.step import step

    inputs = {"previous": previous, "keep": keep}
    with step("read drop", inputs=inputs, outputs={"drop": drop}, parameters=whole(options)) as running:
        with raw_drop(source, source_state) as read:
            found = read_drop(read, previous.path, keep.path, drop.path, **whole(options))
        running.inputs["source"], running.source_files = found["drop"], found["files"]
    drop.metadata.update(drop=found["drop"])
    return sum(len(found[kind]) for kind in CHANGES)
