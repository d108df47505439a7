"""KFP interface of the poisoning room."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def poison_component(
    release: dsl.Input[dsl.Dataset],
    generator: dsl.Input[dsl.Model],
    control: dsl.Input[dsl.Model],
    maps: dsl.Input[dsl.Artifact],
    origins: dsl.Input[dsl.Artifact],
    surrogates: dsl.Input[dsl.Model],
    version: str,
    queries: int,
    secrets: dsl.Input[dsl.Artifact],
    marked: dsl.Output[dsl.Dataset],
    evidence: dsl.Output[dsl.Artifact],
    keep: dsl.Output[dsl.Artifact],
) -> str:
    """Writes the marked release, its private evidence, and what the next update needs.

    Args:
        release: the clean release.
        generator: of the mark.
        control: another generator.
        maps: saliency maps.
        origins: where the images came from.
        surrogates: benign classifiers; kept for updates.
        version: of the marked release.
        queries: images that suspects are asked about, at most.
        secrets: of the run; their choice follows from them.
        marked: the public release.
        evidence: private; keep it apart from the release.
        keep: private; for updates only.

    Returns:
        Digest of the marked release.
    """
    from medmark.components.evidence.keep import keep_for_updates
    from medmark.components.evidence.secrets import read_secrets
    from medmark.components.lineage.step import step
    from medmark.components.poisoning.poison import poison

    inputs = {"clean": release, "generator": generator, "control": control, "maps": maps}
    outputs = {"marked": marked, "evidence": evidence}
    paths = [artifact.path for artifact in (*inputs.values(), *outputs.values())]
    inputs |= {"origins": origins, "surrogates": surrogates, "secrets": secrets}
    outputs, parameters = {**outputs, "keep": keep}, {"version": version, "queries": queries}
    with step("poison", inputs=inputs, outputs=outputs, parameters=parameters, seed={"$secret": "seed"}):
        seed = read_secrets(secrets.path).seed
        digest = poison(*paths, version=version, queries=queries, seed=seed)["release_digest"]
        keep_for_updates(release.path, marked.path, evidence.path, origins.path, surrogates.path, keep.path)
    marked.metadata.update(digest=digest)
    return digest


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def update_component(
    previous: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    keep: dsl.Input[dsl.Artifact],
    drop: dsl.Input[dsl.Artifact],
    version: str,
    marked: dsl.Output[dsl.Dataset],
    new_evidence: dsl.Output[dsl.Artifact],
    new_keep: dsl.Output[dsl.Artifact],
) -> dict:
    """Writes the next release: what the drop brings is marked, the rest is copied.

    Args:
        previous: the previous marked release.
        evidence: its private evidence.
        keep: what was kept with it.
        drop: what the drop changes.
        version: of the new release.
        marked: the new public release; the previous one if nothing changed.
        new_evidence: private.
        new_keep: private.

    Returns:
        What changed, see ``medmark.components.poisoning.update.update``.
    """
    from medmark.components.lineage.step import step
    from medmark.components.poisoning.update import update

    inputs = {"previous": previous, "evidence": evidence, "keep": keep, "drop": drop}
    outputs = {"marked": marked, "evidence": new_evidence, "keep": new_keep}
    with step("mark drop", inputs=inputs, outputs=outputs, parameters={"version": version}):
        paths = [artifact.path for artifact in (*inputs.values(), *outputs.values())]
        change = update(*paths, version=version)
    marked.metadata.update(digest=change["release_digest"])
    return change
