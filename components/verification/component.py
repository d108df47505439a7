"""KFP interface of the verification room."""

from kfp import dsl
from medmark.components.platform.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_release_component(
    release: dsl.Input[dsl.Dataset],
    evidence: dsl.Input[dsl.Artifact],
    innocents: dsl.Input[dsl.Model],
    victims: dsl.Input[dsl.Model],
    clean: dsl.Input[dsl.Dataset],
    surrogates: dsl.Input[dsl.Model],
    maps: dsl.Input[dsl.Artifact],
    generator: dsl.Input[dsl.Model],
    control: dsl.Input[dsl.Model],
    thresholds: dict,
    seeds: dict,
    check: dsl.Output[dsl.Artifact],
) -> str:
    """Runs the three scenarios and writes ``verdict.json``.

    Args:
        release: the marked release.
        evidence: its private evidence.
        innocents: models trained on the clean release.
        victims: models trained on the marked release.
        clean, surrogates, maps, generator, control: only their recorded times are read.
        thresholds: dictionary of ``Thresholds``.
        seeds: of the run.
        check: folder with ``verdict.json`` and ``scores.parquet``.

    Returns:
        The verdict.
    """
    import time

    from medmark.components.platform.parameters import whole
    from medmark.components.verification.release_check import check_release
    from medmark.components.verification.verdict import Thresholds

    started = time.monotonic()
    steps = dict(ingest=clean, surrogates=surrogates, innocents=innocents, saliency=maps, generator=generator)
    steps |= dict(control_generator=control, poison=release, victims=victims)
    seconds = {name: artifact.metadata["seconds"] for name, artifact in steps.items()}
    inputs = (release.path, evidence.path, innocents.path, victims.path, check.path)
    verdict = check_release(*inputs, thresholds=Thresholds(**whole(thresholds)), seeds=whole(seeds), seconds=seconds)
    check.metadata.update(seconds=time.monotonic() - started, verdict=verdict["verdict"])
    return verdict["verdict"]
