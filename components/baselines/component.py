"""KFP component of the baselines room: compares methods of marking."""

from kfp import dsl
from medmark.components.base.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def compare_methods_component(
    release: dsl.Input[dsl.Dataset],
    profile: dict,
    methods: list,
    seed: int,
    table: dsl.Output[dsl.Artifact],
) -> None:
    """Marks one data set by several methods and tries each against the same adversaries, benign models and tests.

    Args:
        release: the clean release.
        profile: dictionary with the fields of ``medmark.components.profiles.Profile``.
        methods: names of ``medmark.components.baselines.methods.METHODS``; all of them when empty.
        seed: seed of everything that is drawn at random.
        table: JSON file with one row per method, by name; private.
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
