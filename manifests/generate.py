"""Writes what the manifests take from the code and from ``images/digests.yaml``; commit what comes out.

    python manifests/generate.py

========================================  ======================================================================================
``components/image/kustomization.yaml``   the references of all images, which kustomize puts in
``components/kfp/digests.yaml``           that of the steps, for ``medmark reconcile``
``components/pipelines/*.yaml``           ``Pipeline`` and ``PipelineVersion`` of every pipeline but audits of suspects; a version's
                                          name has the digest of its spec, because KFP refuses to change the spec of a version
========================================  ======================================================================================
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path

import yaml
from medmark.components.base.digests import canonical_json
from medmark.components.base.image import IMAGE
from medmark.pipelines.compile import compile_pipeline, pipelines, read_images
from medmark.pipelines.pods import read_pods

HERE = Path(__file__).parent
MADE = "# Made by manifests/generate.py; do not edit.\n"
REFERENCE = re.compile(r"(?P<name>[^@]+?)(:(?P<tag>[\w][\w.-]*))?(@(?P<digest>sha256:[0-9a-f]{64}))?")
# audits run as Argo's workflows: KFP's launcher would need its API server and its store from within the step that questions a suspect
NOT_HERE = ("audit-segmenter", "audit-suspect")


def generated(images: Path | None = None) -> dict[Path, str]:
    """Returns the content of each file.

    Args:
        images: file with references; ``images/digests.yaml`` when None.
    """
    references = read_images(images, unpinned=True)
    files = {
        HERE / "components/image/kustomization.yaml": _kustomize_images(references),
        HERE / "components/kfp/digests.yaml": MADE + yaml.safe_dump({IMAGE: references[IMAGE]}),
    }
    made = _pipelines(references)
    files |= {HERE / "components/pipelines" / name: text for name, text in made.items()}
    listed = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "resources": sorted(made),
    }
    files[HERE / "components/pipelines/kustomization.yaml"] = MADE + yaml.safe_dump(listed, sort_keys=False)
    return files


def _kustomize_images(references: dict[str, str]) -> str:
    entries = []
    for name, reference in references.items():
        parts = REFERENCE.fullmatch(reference)
        assert parts, reference
        entry = {"name": name, "newName": parts["name"], "digest": parts["digest"]}
        if not parts["digest"]:
            entry = {"name": name, "newName": parts["name"], "newTag": parts["tag"] or "latest"}
        entries.append(entry)
    listed = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "configurations": ["fields.yaml"],
        "images": entries,
    }
    return MADE + yaml.safe_dump(listed, sort_keys=False)


def _pipelines(references: dict[str, str]) -> dict[str, str]:
    from kfp.compiler import Compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    pods, made = read_pods(HERE / "components/kfp/pods.yaml"), {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "compiled.yaml"
        for pipeline in [pipeline for pipeline in pipelines() if pipeline.name not in NOT_HERE]:
            compile_pipeline(pipeline, file, references, pods)
            spec, *platform = yaml.safe_load_all(file.read_text())
            digest = hashlib.sha256(canonical_json([spec, *platform])).hexdigest()
            options = KubernetesManifestOptions(
                pipeline_version_name=f"{pipeline.name}-{digest[:12]}",
                namespace="medmark-signing",
                include_pipeline_manifest=True,
            )
            Compiler().compile(
                pipeline, str(file), kubernetes_manifest_format=True, kubernetes_manifest_options=options
            )
            documents = list(yaml.safe_load_all(file.read_text()))
            # older versions stay, for a rollback and for runs that are scheduled on them
            documents[1]["metadata"]["annotations"] = {"argocd.argoproj.io/sync-options": "Prune=false"}
            # as medmark compiles it: with the image, without caching
            documents[1]["spec"] |= {"pipelineSpec": spec} | ({"platformSpec": platform[0]} if platform else {})
            made[f"{pipeline.name}.yaml"] = MADE + yaml.safe_dump_all(documents, width=120)
    return made


def main() -> None:
    for path, text in generated().items():
        path.write_text(text)
        print(path.relative_to(HERE))


if __name__ == "__main__":
    main()
