"""KFP interface of the dataset room."""

from kfp import dsl
from medmark.components.platform.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest_component(source: str, source_state: str, options: dict, release: dsl.Output[dsl.Dataset]) -> str:
    """Makes a release of a source.

    Args:
        source: folder per class, CSV or release.
        source_state: another text whenever the source's files are others; part of the cache key, which ignores content.
        options: keyword arguments of ``medmark.components.dataset.ingest.ingest``.
        release: the release.

    Returns:
        Its digest.
    """
    import time

    from medmark.components.dataset.ingest import ingest
    from medmark.components.platform.parameters import whole

    started = time.monotonic()
    digest = ingest(source, release.path, **whole(options)).digest
    release.metadata.update(seconds=time.monotonic() - started, digest=digest, source_state=source_state)
    return digest
