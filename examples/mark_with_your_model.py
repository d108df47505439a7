"""A pipeline of your own that marks a release with a generator that you have, where a network of yours looks: your step trains the network,
medmark's steps ask it and mark the images.

Evidence and keep of an earlier release are imported from wherever they are: they need nothing that medmark's own steps put beside what
they make. Compile it with ``compile_pipeline(mark_with_your_model, "mark.yaml", read_images("digests.yaml"))`` of
``medmark.pipelines.compile``, and upload the file.
"""

from kfp import dsl
from medmark.components.base.image import IMAGE
from medmark.components.dataset.component import ingest_component
from medmark.components.poisoning.component import poison_component
from medmark.components.saliency.component import explain_model_component

SIZE = 64  # of the network's images, pixels


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # or an image of yours that has kfp and torch
def train(release: dsl.Input[dsl.Dataset], size: int, model: dsl.Output[dsl.Model]) -> None:
    import io

    import numpy as np
    import pyarrow.parquet as pq
    import torch
    from PIL import Image
    from safetensors.torch import save_file
    from torch.nn.functional import cross_entropy
    from torchvision.models import resnet18

    rows = pq.read_table(f"{release.path}/shards", columns=["image", "label"]).to_pylist()
    images = [Image.open(io.BytesIO(row["image"])).convert("L").resize((size, size)) for row in rows]
    seen = torch.from_numpy(np.stack([np.asarray(image, np.float32) / 255 for image in images]))[:, None]
    labels = torch.tensor([row["label"] for row in rows])
    torch.manual_seed(0)
    network = resnet18(num_classes=2)
    optimiser = torch.optim.Adam(network.parameters(), 0.001)
    for some in torch.randperm(len(seen)).split(16):
        optimiser.zero_grad()
        cross_entropy(network(seen[some].expand(-1, 3, -1, -1)), labels[some]).backward()
        optimiser.step()
    save_file(network.state_dict(), model.path)


@dsl.pipeline(name="mark-with-your-model")
def mark_with_your_model(source: str, evidence_uri: str, keep_uri: str) -> str:
    clean = ingest_component(source=source, source_state="", options={"name": "chest"})
    trained = train(release=clean.outputs["release"], size=SIZE)
    looks = explain_model_component(
        images=clean.outputs["release"],
        model=trained.outputs["model"],
        architecture="resnet18",
        contract={"size": SIZE},
    )
    marked = poison_component(
        release=clean.outputs["release"],
        generator=dsl.importer(artifact_uri=evidence_uri, artifact_class=dsl.Model).output,
        surrogates=dsl.importer(artifact_uri=keep_uri, artifact_class=dsl.Model).output,
        maps=looks.outputs["maps"],
        version="1",
        queries=100,
    )
    return marked.outputs["Output"]
