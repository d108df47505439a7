"""The DAG of update_release."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.dataset.component import read_drop_component
from medmark.components.poisoning.component import update_component
from medmark.components.verification.component import check_update_component


class Made(NamedTuple):
    """What the pipeline gives back; all but ``release`` is private."""

    release: dsl.Dataset
    evidence: dsl.Artifact
    keep: dsl.Artifact
    check: dsl.Artifact


@dsl.pipeline(
    name="update-release",
    description="Marks what a new drop of raw images brings, and checks that the mark still works.",
)
def update_release(
    source: str,
    source_state: str,
    drop_options: dict,
    previous_uri: str,
    evidence_uri: str,
    keep_uri: str,
    previous_digest: str,
    version: str,
    seed: int,
) -> Made:
    """See ``medmark run update-release``.

    If the drop changes nothing, the release that comes out is the previous one, with its digest: there is nothing to publish.

    Args:
        source: the drop, as the first step can reach it.
        source_state: another text whenever the drop's files are others, so that the cache notices.
        drop_options: keyword arguments of ``read_drop``.
        previous_uri, evidence_uri, keep_uri: folders of the previous marked release, its evidence, and what was kept for
            updates, as the cluster can reach them.
        previous_digest: digest of the previous marked release, so that the cache notices another.
        version: of the new release.
        seed: of the model that checks the mark.
    """
    given = {
        name: dsl.importer(artifact_uri=uri, artifact_class=kind, reimport=True)
        for name, uri, kind in (
            ("previous", previous_uri, dsl.Dataset),
            ("evidence", evidence_uri, dsl.Artifact),
            ("keep", keep_uri, dsl.Artifact),
        )
    }
    for name, task in given.items():
        task.set_display_name(name)
    previous, evidence, keep = (given[name].output for name in ("previous", "evidence", "keep"))
    drop = read_drop_component(
        source=source,
        source_state=source_state,
        options=drop_options,
        previous=previous,
        keep=keep,
        previous_digest=previous_digest,
    )
    drop.set_display_name("read the drop")
    updated = update_component(
        previous=previous, evidence=evidence, keep=keep, drop=drop.outputs["drop"], version=version
    )
    updated.set_display_name("mark what is new")
    check = check_update_component(
        release=updated.outputs["marked"],
        evidence=updated.outputs["new_evidence"],
        keep=updated.outputs["new_keep"],
        change=updated.outputs["Output"],
        seed=seed,
        drop=drop.outputs["drop"],
    )
    check.set_display_name("check the mark")
    return Made(
        release=updated.outputs["marked"],
        evidence=check.outputs["complete"],
        keep=updated.outputs["new_keep"],
        check=check.outputs["check"],
    )
