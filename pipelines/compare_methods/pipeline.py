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
    """See ``benchmarks/compare_methods.py``.

    Args:
        source: raw images, as the ingest step can reach them.
        source_state: another text whenever the source's files are others, so that the cache notices.
        ingest_options: keyword arguments of ingest.
        profile: dictionary of ``Profile`` of mark_release.
        seed: of everything.
        methods: names; all when empty.
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
