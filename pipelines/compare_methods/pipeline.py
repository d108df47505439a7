"""The DAG of compare_methods."""

from kfp import dsl
from medmark.components.baselines.component import compare_methods_component
from medmark.components.dataset.component import ingest_component
from medmark.pipelines.kubernetes_secrets import EVIDENCE, give


@dsl.pipeline(
    name="compare-methods",
    description="Marks one data set by several methods, and tries each against the same adversaries and benign models.",
)
def compare_methods(
    source: str,
    source_state: str,
    ingest_options: dict,
    profile: dict,
    seed: int,
    methods: list = [],  # noqa: B006
) -> dsl.Artifact:
    """Compares methods of marking, as ``benchmarks/compare_methods.py`` does.

    Args:
        source: raw images, as the ingest step can reach them.
        source_state: any text that differs whenever the source's files differ, see ``ingest_component``.
        ingest_options: keyword arguments of ``medmark.components.dataset.ingest.ingest``.
        profile: dictionary with the fields of ``medmark.components.profiles.Profile``.
        seed: seed of everything that is drawn at random.
        methods: names of ``medmark.components.baselines.methods.METHODS``; all of them when empty.
    """
    clean = ingest_component(source=source, source_state=source_state, options=ingest_options)
    clean.set_display_name("ingest")
    give(clean, EVIDENCE)
    compared = compare_methods_component(
        release=clean.outputs["release"],
        profile=profile,
        methods=methods,
        seed=seed,
    )
    compared.set_display_name("compare")
    return compared.outputs["table"]
