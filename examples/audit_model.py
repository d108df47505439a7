"""A pipeline of your own that asks whether a model of yours was trained on a marked release: your step trains it, medmark's step audits it.

The evidence is imported from wherever it is: it needs nothing that medmark's own steps put beside what they make.
Compile it with ``compile_pipeline(audit_model, "audit-model.yaml", read_images("digests.yaml"))`` of
``medmark.pipelines.compile``, and upload the file.
"""

from kfp import dsl
from medmark.components.base.image import IMAGE
from medmark.components.dataset.component import ingest_component
from medmark.components.verification.component import audit_component


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # or an image of yours that has kfp and torch
def train_and_export(release: dsl.Input[dsl.Dataset], size: int, model: dsl.Output[dsl.Model]) -> None:
    import io

    import numpy as np
    import pyarrow.parquet as pq
    import torch
    from PIL import Image
    from torch.nn import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, ReLU, Sequential
    from torch.nn.functional import cross_entropy

    rows = pq.read_table(f"{release.path}/shards", columns=["image", "label"]).to_pylist()
    images = [Image.open(io.BytesIO(row["image"])).convert("L").resize((size, size)) for row in rows]
    seen = torch.from_numpy(np.stack([np.asarray(image, np.float32) / 255 for image in images]))[:, None]
    labels = torch.tensor([row["label"] for row in rows])
    torch.manual_seed(0)
    network = Sequential(Conv2d(1, 16, 5, stride=2), ReLU(), AdaptiveAvgPool2d(2), Flatten(), Linear(64, 2))
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(20):
        optimiser.zero_grad()
        cross_entropy(network(seen), labels).backward()
        optimiser.step()
    free = ({0: torch.export.Dim("images")},)
    torch.onnx.export(network.eval(), (seen[:2],), model.path, dynamo=True, dynamic_shapes=free, external_data=False)


@dsl.pipeline(name="audit-model")
def audit_model(source: str, evidence_uri: str, size: int = 128) -> dict:
    clean = ingest_component(source=source, source_state="", options={"name": "chest"})
    trained = train_and_export(release=clean.outputs["release"], size=size)
    evidence = dsl.importer(artifact_uri=evidence_uri, artifact_class=dsl.Artifact)
    audit = audit_component(
        evidence=evidence.output,
        suspects=[],
        contract={"answers": "logits"},
        connection={},
        commitment={},
        model=trained.outputs["model"],
    )
    return audit.outputs["Output"]
