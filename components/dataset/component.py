"""KFP interface of the dataset room."""

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
    """Makes a release of a source.

    Args:
        source: folder per class, CSV or release, here or ``s3://``.
        source_state: another text whenever the source's files are others; part of the cache key, which ignores content.
        options: keyword arguments of ``medmark.components.dataset.ingest.ingest``; may refer to secrets.
        release: the release.
        origins: where its images came from; private.
        secrets: of the run.

    Returns:
        Its digest.
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
def read_drop_component(
    source: str,
    source_state: str,
    options: dict,
    previous: dsl.Input[dsl.Dataset],
    keep: dsl.Input[dsl.Artifact],
    previous_digest: str,
    drop: dsl.Output[dsl.Artifact],
) -> int:
    """Finds out what a raw drop changes.

    Args:
        source: the drop: folder per class, folder with a CSV, or release, here or ``s3://``; a CSV here.
        source_state: another text whenever the drop's files are others; part of the cache key. Of a drop in a store it must be
            the digest of its listing (``medmark.components.delivery.drops.listing_digest``), or empty.
        options: keyword arguments of ``medmark.components.dataset.drop.read_drop``.
        previous: the previous marked release.
        keep: what was kept with it.
        previous_digest: its digest; part of the cache key.
        drop: the added and changed images without marks, and the list; private.

    Returns:
        Images added, changed or withdrawn.
    """
    from medmark.components.base.parameters import whole
    from medmark.components.dataset.drop import read_drop
    from medmark.components.delivery.drops import raw_drop
    from medmark.components.lineage.step import step

    inputs = {"previous": previous, "keep": keep}
    with step("read drop", inputs=inputs, outputs={"drop": drop}, parameters=whole(options)) as running:
        with raw_drop(source, source_state) as read:
            found = read_drop(read, previous.path, keep.path, drop.path, **whole(options))
        running.inputs["source"], running.source_files = found["drop"], found["files"]
    drop.metadata.update(drop=found["drop"], previous_digest=previous_digest)
    return sum(len(found[kind]) for kind in ("added", "changed", "withdrawn"))
