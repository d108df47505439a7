"""The steps of medmark, a package each: the algorithm in plain Python, and ``component.py``, its Kubeflow interface.

Three ways to use them. Every component with its ports is listed in ``docs/components.md``; which package may import which is
drawn in ``docs/architecture.md``.

Use one step in a pipeline of your own
--------------------------------------

A component is an ordinary KFP component. Take the one that you need and leave the rest:

```python
from kfp import dsl
from medmark.components.saliency.component import extract_saliency_component

@dsl.pipeline(name="heat-maps")
def heat_maps(release: dsl.Input[dsl.Dataset], models: dsl.Input[dsl.Model]):
    extract_saliency_component(release=release, surrogates=models)
```

Compile it with medmark's function instead of KFP's. It switches KFP's cache off, because a cached step would give your run images
that have changed since, and puts the image's reference in. ``digests.yaml`` says where that
is, ``medmark/python-cpu: registry/name@sha256:...``; ``docs/images.md`` shows how to build it.

```python
from medmark.pipelines.compile import compile_pipeline, read_images

compile_pipeline(heat_maps, "heat-maps.yaml", read_images("digests.yaml"))
```

Try a step on this machine before it goes to a cluster. ``examples/`` has a whole pipeline that joins a component of medmark with
one of yours.

```python
from kfp import local
from medmark.components.dataset.component import ingest_component
from medmark.components.dataset.phantoms import make_phantoms

local.init(local.SubprocessRunner(use_venv=False))
xrays = make_phantoms("xrays", count=60, size=64)
ingested = ingest_component(source=str(xrays), source_state="", options={"name": "phantoms"})
print(ingested.outputs["Output"], ingested.outputs["release"].path)
```

Call the functions from a notebook or a script
----------------------------------------------

Everything that a component does is one call of a function that knows nothing of KFP. Folders go in, folders come out.

Turn a folder per class into a release: checked, with new ids, split by patient. (Phantoms stand in for your x-rays here.)

```python
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_phantoms

xrays = make_phantoms("chest", count=120, size=64)
clean = ingest(xrays, "clean", name="chest")
print(clean.digest, clean.class_names, len(clean))
```

Mark it: train a surrogate, see where it looks, draw a mark and a control mark, and write the marked release and its private
evidence. Draw the seed and keep it secret, because the mark follows from it.

```python
import secrets

from medmark.components.generator.marker import Shape
from medmark.components.generator.train import GeneratorConfig, train_generator
from medmark.components.poisoning.poison import poison
from medmark.components.saliency.extract import extract
from medmark.components.surrogate.models import train_models
from medmark.components.surrogate.training import TrainConfig

seed, shape = secrets.randbits(48), Shape(size=64)
train_models("clean", "surrogates", configs=[TrainConfig("surrogate", size=64, epochs=1)])
extract("clean", "surrogates/surrogate.safetensors", "maps")
for index, name in enumerate(["generator", "control"]):
    config = GeneratorConfig(shape=shape, steps=0, marked_share=0.1, key_index=index)
    train_generator("clean", "surrogates", "maps", name, target_class="normal", config=config, seed=seed)
poison("clean", "generator", "control", "maps", "marked", "evidence", version="1")
```

Verify it: train models on both releases and ask them about marked images. A marked model is compared with the benign model of the
same configuration. One epoch and two benign models prove nothing, so this prints ``inconclusive`` or ``not_owned``;
``medmark.components.profiles`` has settings that work. Without ``workers=1``, several models are trained side by side in processes
of their own; a script then needs ``if __name__ == "__main__":`` around its calls.

```python
from medmark.components.verification.release_check import check_release
from medmark.components.verification.verdict import Thresholds

configs = [TrainConfig(f"model-{i}", size=64, epochs=1, seed=i) for i in range(2)]
train_models("clean", "benign-models", configs=configs, workers=1)
train_models("marked", "marked-models", configs=configs[:1])
folders = ["marked", "evidence", "benign-models", "marked-models", "check"]
checked = check_release(*folders, thresholds=Thresholds(), seconds={})
print(checked["verdict"])
```

Audit a suspect
---------------

You need the complete evidence of a release, as a finished ``medmark run mark-release`` leaves it, and a model that you may ask: an
ONNX file, ``https://host/v2/models/NAME``, or ``models:/NAME/VERSION`` of an MLflow registry.

```python
from medmark.components.verification.audit import audit

result = audit("evidence", ["suspect.onnx"], "audit")
print(result["suspects"][0]["verdict"])
```

Say what the suspect expects and gives, where it does not say so itself, how to ask it, and what was committed to before the release
went out. Without a commitment the verdict accuses nobody.

```python
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.http import Connection

result = audit(
    "evidence",
    ["suspect.onnx"],
    "audit-committed",
    contract=Contract(size=32, channels=1, answers="probabilities"),
    connection=Connection(batch_size=4, timeout=10.0),
    commitment="commitment.json",
    public_key="medmark.pub",
)
print(result["commitment"]["time_says"])
```

Question several suspects together: the tests are then corrected for their number. Answers are kept, so a second audit into the same
folder asks only what is new. The report is one HTML file.

```python
from medmark.components.report.audit_report import write_audit_report

result = audit("evidence", ["suspect.onnx", "other.onnx"], "audit")
write_audit_report("audit.html", result)
print({suspect["name"]: suspect["verdict"] for suspect in result["suspects"]})
```
"""
