"""A pipeline of your own that uses one step of medmark: ingest x-rays, then count the images of each class in your own step.

Compile it with ``compile_pipeline(count_classes, "count-classes.yaml", read_images("digests.yaml"))`` of
``medmark.pipelines.compile``, and upload the file.
"""

from kfp import dsl
from medmark.components.base.image import IMAGE
from medmark.components.dataset.component import ingest_component


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # or an image of yours that has kfp and pyarrow
def count_images(release: dsl.Input[dsl.Dataset]) -> dict:
    import pyarrow.parquet as pq

    labels = pq.read_table(f"{release.path}/shards", columns=["label"])["label"].to_pylist()
    return {str(label): labels.count(label) for label in set(labels)}


@dsl.pipeline(name="count-classes")
def count_classes(source: str) -> dict:
    clean = ingest_component(source=source, source_state="", options={"name": "chest"})
    return count_images(release=clean.outputs["release"]).output
