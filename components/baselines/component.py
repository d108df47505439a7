"""KFP interface of the baselines room."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def compare_methods_component(
    release: dsl.Input[dsl.Dataset],
    release_digest: str,
    profile: dict,
    methods: list,
    seed: int,
    table: dsl.Output[dsl.Artifact],
):
    """Marks one data set by several methods and tries each against the same adversaries, benign models and tests.

    Args:
        release: the clean release.
        release_digest: its digest; part of the cache key, which ignores content.
        profile: dictionary of ``Profile`` of mark_release.
        methods: names; all when empty.
        seed: of everything.
        table: JSON file with a row a method, by name; private.
    """
    import tempfile

    from medmark.components.base.digests import canonical_json
    from medmark.components.base.parameters import whole
    from medmark.components.baselines.compare import compare_all
    from medmark.components.lineage.step import step
    from medmark.components.profiles import Profile

    parameters = {"profile": whole(profile), "methods": methods}
    with step("compare", inputs={"release": release}, outputs={"table": table}, parameters=parameters, seed=seed):
        with tempfile.TemporaryDirectory() as work, open(table.path, "wb") as file:
            file.write(canonical_json(compare_all(release.path, work, Profile(**whole(profile)), methods, seed=seed)))
    table.metadata.update(release_digest=release_digest)
