"""KFP components of the poisoning room: mark a release, and mark what a drop adds to one."""

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
    """Writes the marked release, its evidence, and what the next update needs.

    Args:
        release: the clean release.
        generator: generator of the mark, from ``train_generator_component``.
        control: generator of another mark, which audits compare with, from ``train_generator_component``.
        maps: saliency maps, from ``extract_saliency_component``.
        origins: where the images came from, from ``ingest_component``; private.
        surrogates: benign models, from ``train_classifiers_component``; they say which images are hard, and are kept for updates.
        version: version of the marked release.
        queries: largest number of images that a suspect is asked about.
        secrets: the run's secrets, from ``draw_secrets_component``; the choice of the queries follows from them.
        marked: the marked release; the only public output.
        evidence: folder with all that an audit needs; private, keep it apart from the release.
        keep: folder with all that an update needs; private.

    Returns:
        Digest of the marked release: SHA-256 of ``release.json``.
    """
    from medmark.components.evidence.keep import keep_for_updates
    from medmark.components.evidence.secrets import read_secrets
    from medmark.components.lineage.step import pass_on, passed_on, said_by, step
    from medmark.components.poisoning.poison import poison

    inputs = {"clean": release, "generator": generator, "control": control, "maps": maps}
    outputs = {"marked": marked, "evidence": evidence}
    paths = [artifact.path for artifact in (*inputs.values(), *outputs.values())]
    inputs |= {"origins": origins, "surrogates": surrogates, "secrets": secrets}
    outputs, parameters = {**outputs, "keep": keep}, {"version": version, "queries": queries}
    with step("poison", inputs=inputs, outputs=outputs, parameters=parameters, seed={"$secret": "seed"}):
        seed = read_secrets(secrets.path).seed
        made = poison(*paths, version=version, queries=queries, seed=seed, surrogates_dir=surrogates.path)
        digest = made["release_digest"]
        keep_for_updates(release.path, marked.path, evidence.path, origins.path, surrogates.path, keep.path)
    before = dict(ingest=release, surrogates=surrogates, saliency=maps, generator=generator, control_generator=control)
    marked.metadata.update(digest=digest)
    pass_on({**passed_on(surrogates), **passed_on(maps), **said_by(before)}, marked)
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
    """Writes the next release: marks what the drop brings, and copies the rest.

    Args:
        previous: the previous marked release.
        evidence: its evidence; private.
        keep: what was kept for its updates; private.
        drop: what the drop changes, from ``read_drop_component``; private.
        version: version of the new release.
        marked: the new marked release; the previous one if nothing changed.
        new_evidence: evidence of the new release; private.
        new_keep: all that the next update needs; private.

    Returns:
        What changed, see ``medmark.components.poisoning.update.update``.
    """
    from medmark.components.lineage.step import pass_on, said_by, step
    from medmark.components.poisoning.update import update

    inputs = {"previous": previous, "evidence": evidence, "keep": keep, "drop": drop}
    outputs = {"marked": marked, "evidence": new_evidence, "keep": new_keep}
    with step("mark drop", inputs=inputs, outputs=outputs, parameters={"version": version}):
        paths = [artifact.path for artifact in (*inputs.values(), *outputs.values())]
        change = update(*paths, version=version)
    marked.metadata.update(digest=change["release_digest"])
    pass_on(said_by({"read_drop": drop}), marked)
    return change
