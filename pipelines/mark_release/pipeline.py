"""The DAG of mark_release."""

from typing import NamedTuple

from kfp import dsl
from medmark.components.dataset.component import ingest_component
from medmark.components.delivery.component import draw_secrets_component
from medmark.components.generator.component import train_generator_component
from medmark.components.poisoning.component import poison_component
from medmark.components.report.component import report_component, track_marking_component
from medmark.components.saliency.component import extract_saliency_component
from medmark.components.surrogate.component import train_classifiers_component
from medmark.components.verification.component import check_release_component
from medmark.pipelines.kubernetes_secrets import EVIDENCE, MLFLOW, give
from medmark.pipelines.sign_and_publish import sign_and_publish


class Made(NamedTuple):
    """What the pipeline gives back; all but ``release`` and ``record`` is private."""

    clean: dsl.Dataset
    surrogates: dsl.Model
    benign_models: dsl.Model
    generator: dsl.Model
    control: dsl.Model
    release: dsl.Dataset
    evidence: dsl.Artifact
    keep: dsl.Artifact
    marked_models: dsl.Model
    check: dsl.Artifact
    record: dsl.Artifact
    report: dsl.HTML


@dsl.pipeline(
    name="mark-release",
    description="Marks a data set so that models trained on it can be recognised, and checks that the mark works.",
)
def mark_release(
    source: str,
    source_state: str,
    ingest_options: dict,
    target_class: str,
    surrogate_configs: list,
    benign_configs: list,
    marked_configs: list,
    generator_config: dict,
    control_config: dict,
    version: str,
    queries: int,
    thresholds: dict,
    parameters: dict,
    seed: str = "",
    patients: dict = {},  # noqa: B006
    publish_uri: str = "",
    publish_evidence_uri: str = "",
    sign: bool = False,
    submission: dict = {},  # noqa: B006
) -> Made:
    """See ``medmark run mark-release``; the parameters are made by ``components/profiles.py``.

    Args:
        source: raw images, as the ingest step can reach them.
        source_state: another text whenever the source's files are others, so that the cache notices.
        ingest_options: keyword arguments of ingest; like the next ones, they may refer to the run's secrets, see
            ``components/evidence/secrets.py``.
        target_class: class that the mark stands for; the first class when empty.
        surrogate_configs: classifiers that the generator trains against.
        innocent_configs: classifiers that calibrate the verdict.
        victim_configs: classifiers trained on the marked release.
        generator_config: of the mark.
        control_config: of the control mark.
        version: of the marked release.
        queries: images a suspect is asked about, at most.
        thresholds: of the verdict, fixed beforehand.
        parameters: of the run, for the report.
        seed: all secrets but the key of the pseudonyms follow from it, and it stands in the logs; empty: they are drawn.
        patients: where that key lies, see ``draw_secrets_component``; empty: it is drawn.
        publish_uri: where the release is published, ``s3://bucket/prefix``, if its mark works; empty: nothing is published
            or tracked in MLflow.
        publish_evidence_uri: where evidence and keep are then published, in another bucket.
        sign: whether to commit to the evidence and sign the lineage before.
        submission: what is recorded then, see ``publish_component``.
    """
    draw = draw_secrets_component(seed=seed, patients=patients)
    draw.set_display_name("draw secrets")
    secrets = draw.outputs["secrets"]
    clean = ingest_component(source=source, source_state=source_state, options=ingest_options, secrets=secrets)
    clean.set_display_name("ingest")
    give(clean, EVIDENCE)
    release = {"release": clean.outputs["release"]}
    surrogates = train_classifiers_component(configs=surrogate_configs, secrets=secrets, **release)
    surrogates.set_display_name("train surrogates")
    benign_models = train_classifiers_component(configs=benign_configs, secrets=secrets, **release)
    benign_models.set_display_name("train benign models")
    maps = extract_saliency_component(surrogates=surrogates.outputs["models"], **release)
    maps.set_display_name("extract saliency")
    inputs = {**release, "surrogates": surrogates.outputs["models"], "maps": maps.outputs["maps"], "secrets": secrets}
    generator = train_generator_component(target_class=target_class, config=generator_config, **inputs)
    generator.set_display_name("train generator")
    control = train_generator_component(target_class=target_class, config=control_config, **inputs)
    control.set_display_name("train control generator")
    marked = poison_component(
        release=clean.outputs["release"],
        generator=generator.outputs["generator"],
        control=control.outputs["generator"],
        maps=maps.outputs["maps"],
        origins=clean.outputs["origins"],
        surrogates=surrogates.outputs["models"],
        version=version,
        queries=queries,
        secrets=secrets,
    )
    marked.set_display_name("poison")
    marked_models = train_classifiers_component(
        release=marked.outputs["marked"],
        configs=marked_configs,
        secrets=secrets,
    )
    marked_models.set_display_name("train marked models")
    check = check_release_component(
        release=marked.outputs["marked"],
        evidence=marked.outputs["evidence"],
        benign_models=benign_models.outputs["models"],
        marked_models=marked_models.outputs["models"],
        thresholds=thresholds,
        secrets=secrets,
    )
    check.set_display_name("verify")
    report = report_component(
        clean=clean.outputs["release"],
        marked=marked.outputs["marked"],
        evidence=marked.outputs["evidence"],
        maps=maps.outputs["maps"],
        generator=generator.outputs["generator"],
        benign_models=benign_models.outputs["models"],
        marked_models=marked_models.outputs["models"],
        check=check.outputs["check"],
        parameters=parameters,
    )
    report.set_display_name("report")
    with dsl.If(publish_uri != "", name="publish"):
        tracked = track_marking_component(
            clean=clean.outputs["release"],
            surrogates=surrogates.outputs["models"],
            benign_models=benign_models.outputs["models"],
            generator=generator.outputs["generator"],
            control=control.outputs["generator"],
            release=marked.outputs["marked"],
            evidence=check.outputs["complete"],
            marked_models=marked_models.outputs["models"],
            check=check.outputs["check"],
            record=check.outputs["record"],
            parameters=parameters,
        )
        tracked.set_display_name("track")
        give(tracked, MLFLOW)
        sign_and_publish(
            check,
            tracked=tracked,
            publish_uri=publish_uri,
            publish_evidence_uri=publish_evidence_uri,
            sign=sign,
            submission=submission,
            release=marked.outputs["marked"],
            keep=marked.outputs["keep"],
        )
    return Made(
        clean=clean.outputs["release"],
        surrogates=surrogates.outputs["models"],
        benign_models=benign_models.outputs["models"],
        generator=generator.outputs["generator"],
        control=control.outputs["generator"],
        release=marked.outputs["marked"],
        evidence=check.outputs["complete"],
        keep=marked.outputs["keep"],
        marked_models=marked_models.outputs["models"],
        check=check.outputs["check"],
        record=check.outputs["record"],
        report=report.outputs["report"],
    )
