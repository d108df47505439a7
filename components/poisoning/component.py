"""KFP components of the poisoning room: mark a release, and mark what a drop adds to one."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def poison_component(
    release: dsl.Input[dsl.Dataset],
    generator: dsl.Input[dsl.Model],
    maps: dsl.Input[dsl.Artifact],
    version: str,
    queries: int,
    marked: dsl.Output[dsl.Dataset],
    evidence: dsl.Output[dsl.Artifact],
    keep: dsl.Output[dsl.Artifact],
    control: dsl.Input[dsl.Model] = None,
    surrogates: dsl.Input[dsl.Model] = None,
    origins: dsl.Input[dsl.Artifact] = None,
    hold_back: float = 0.0,
) -> str:
    """Writes the marked release, its evidence, and what the next update needs.

    Args:
        release: the clean release.
        generator: generator of the mark, from ``train_generator_component``, or the evidence of a release that it has marked; private.
            With the evidence of another release, as large a share of this one is marked.
        maps: saliency maps of the release, from ``extract_saliency_component`` or ``explain_model_component``.
        version: version of the marked release.
        queries: largest number of images that a suspect is asked about.
        marked: the marked release; the only public output.
        evidence: folder with all that an audit needs; private, keep it apart from the release.
        keep: folder with all that an update needs; private. Empty without ``origins`` or ``surrogates``.
        control: generator of another mark, which audits compare with, from ``train_generator_component``; without it, the generator
            makes that mark, too.
        surrogates: benign models, from ``train_classifiers_component``, or a keep with them; kept for updates. A generator of another
            release needs them, and without them the evidence has no variants.
        origins: where the images came from, from ``ingest_component``; private.
        hold_back: chance of a training patient without mark and decoy never to be published, 0 to 0.5; needs ``surrogates``. An audit asks
            whether a suspect knows the others better.

    Returns:
        Digest of the marked release: SHA-256 of ``release.json``.
    """
    from pathlib import Path

    from medmark.components.evidence.keep import keep_for_updates, surrogates_in
    from medmark.components.lineage.step import pass_on, passed_on, said_by, step
    from medmark.components.poisoning.poison import poison

    optional = {"control": control, "surrogates": surrogates, "origins": origins}
    inputs = {"clean": release, "generator": generator, "maps": maps} | {n: a for n, a in optional.items() if a}
    outputs, parameters = (
        {"marked": marked, "evidence": evidence, "keep": keep},
        {"version": version, "queries": queries, "hold_back": hold_back},
    )
    paths = (release.path, generator.path, control.path if control else None, maps.path, marked.path, evidence.path)
    panel = surrogates_in(surrogates.path) if surrogates else None
    with step("poison", inputs=inputs, outputs=outputs, parameters=parameters):
        digest = poison(*paths, version=version, queries=queries, surrogates_dir=panel, hold_back=hold_back)[
            "release_digest"
        ]
        if panel and origins:
            keep_for_updates(release.path, marked.path, evidence.path, origins.path, panel, keep.path)
        else:
            Path(keep.path).mkdir(parents=True)
    before = {"ingest": release, "saliency": maps, "generator": generator}
    before |= {n: a for n, a in (("surrogates", surrogates), ("control_generator", control)) if a}
    known = {**(passed_on(surrogates) if surrogates else {}), **passed_on(maps), **said_by(before)}
    marked.metadata.update(digest=digest)
    pass_on(known, marked)
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
    manifest: dsl.Output[dsl.Dataset],
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
        manifest: the new marked release without its images, for steps that do not need them.

    Returns:
        What changed, see ``medmark.components.poisoning.update.update``.
    """
    from medmark.components.dataset.release import copy_manifest
    from medmark.components.lineage.step import pass_on, said_by, step
    from medmark.components.poisoning.update import update

    inputs = {"previous": previous, "evidence": evidence, "keep": keep, "drop": drop}
    outputs = {"marked": marked, "evidence": new_evidence, "keep": new_keep}
    with step("mark drop", inputs=inputs, outputs=outputs, parameters={"version": version}):
        paths = [artifact.path for artifact in (*inputs.values(), *outputs.values())]
        change = update(*paths, version=version)
    marked.metadata.update(digest=change["release_digest"])
    pass_on(said_by({"read_drop": drop}), marked)
    copy_manifest(marked.path, manifest.path)
    manifest.metadata.update(marked.metadata)
    return change
