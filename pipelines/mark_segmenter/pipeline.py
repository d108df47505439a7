"""Define the pipeline mark_segmenter."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.dataset.component import ingest_component
from medmark.components.delivery.component import draw_secrets_component
from medmark.components.segmentation.component import (
    check_segmenter_component,
    mark_segmenter_component,
    track_segmenter_component,
    train_segmenters_component,
)
from medmark.pipelines.kubernetes_secrets import EVIDENCE, MLFLOW, RUN, give


class Made(NamedTuple):
    """Outputs of the pipeline. Only ``model`` is public."""

    release: dsl.Dataset
    model: dsl.Model
    unmarked: dsl.Model
    evidence: dsl.Artifact
    check: dsl.Artifact
    report: dsl.HTML
    unlogged: dsl.Artifact


@dsl.pipeline(
    name="mark-segmenter",
    description="Trains a segmenter that shows its owner's text in its uncertainty under a secret trigger, and checks it.",
)
def mark_segmenter(
    source: str,
    source_state: str,
    ingest_options: dict,
    unmarked_configs: list,
    config: dict,
    text: str,
    trigger: str,
    name: str,
    version: str,
    queries: int,
    thresholds: dict,
    parameters: dict,
    weights_sha256: str = "",
    seed: str = "",
    for_figures: bool = False,
    patients: dict = {},  # noqa: B006
    drawing: dict = {},  # noqa: B006
) -> Made:
    """Trains a marked segmenter from images and masks, as ``medmark run mark-segmenter`` does on one machine.

    ``medmark.pipelines.mark_segmenter.run.pipeline_arguments`` makes the arguments from a profile.

    Args:
        source: raw images with masks, as the ingest step can reach them.
        source_state: any text that differs whenever the source's files differ, see ``ingest_component``.
        ingest_options: keyword arguments of ``medmark.components.dataset.ingest.ingest``; ``task`` is ``segmentation``.
        unmarked_configs: configurations of the segmenters without a mark, the unmarked twin first.
        config: configuration of the marked segmenter.
        text: of the owner, 1 to 16 printable bytes.
        trigger: see ``mark_segmenter_component``.
        name: of the model; public.
        version: of the model; public.
        queries: test images that suspects are asked about, at most.
        thresholds: thresholds of the verdict, fixed before the run.
        parameters: parameters of the run, for the report.
        weights_sha256: of the trained segmenter to mark; empty if one is trained from scratch.
        seed: integer as text from which the run's secrets follow, see ``draw_secrets_component``; drawn when empty.
        for_figures: whoever starts the run vouches that nothing it makes will be handed out; a seed is refused without that.
        patients: where the key of the pseudonyms is, see ``draw_secrets_component``; drawn when empty.
        drawing: where a drawing is from which the key of the mark follows, see ``draw_secrets_component``; self-drawn when empty.
    """
    draw = draw_secrets_component(seed=seed, for_figures=for_figures, patients=patients, drawing=drawing)
    draw.set_display_name("draw secrets")
    give(draw, EVIDENCE, RUN)
    secrets = draw.outputs["secrets"]
    ingest = ingest_component(source=source, source_state=source_state, options=ingest_options, secrets=secrets)
    give(ingest.set_display_name("ingest"), EVIDENCE, RUN)
    release = ingest.outputs["release"]
    train = train_segmenters_component(release=release, configs=unmarked_configs, secrets=secrets)
    unmarked = train.set_display_name("train unmarked segmenters").outputs["models"]
    mark = mark_segmenter_component(
        release=release,
        secrets=secrets,
        config=config,
        text=text,
        trigger=trigger,
        name=name,
        version=version,
        queries=queries,
        weights_sha256=weights_sha256,
    ).set_display_name("mark segmenter")
    model = mark.outputs["model"]
    check = check_segmenter_component(
        release=release,
        model=model,
        evidence=mark.outputs["evidence"],
        unmarked=unmarked,
        secrets=secrets,
        thresholds=thresholds,
        parameters=parameters,
    ).set_display_name("check segmenter")
    tracked = track_segmenter_component(
        release=release,
        model=model,
        unmarked=unmarked,
        evidence=check.outputs["complete"],
        check=check.outputs["check"],
        parameters=parameters,
        kfp_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    ).set_display_name("track")
    for task in (train, mark, check):
        give(task, RUN)
    give(tracked, MLFLOW)
    tracked.set_caching_options(False)  # the server may have been away
    return Made(
        release=release,
        model=model,
        unmarked=unmarked,
        evidence=check.outputs["complete"],
        check=check.outputs["check"],
        report=check.outputs["report"],
        unlogged=tracked.outputs["unlogged"],
    )
