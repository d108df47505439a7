"""``medmark compile``."""

from __future__ import annotations

from pathlib import Path

import typer
from medmark.pipelines.commands.options import Debug, Images, Out, PodsFile, Unpinned

app = typer.Typer()


@app.command("compile")
def compile_command(
    out: Out, images: Images = None, unpinned: Unpinned = False, pods: PodsFile = None, debug: Debug = False
) -> None:
    """Compile every pipeline and every component to IR YAML, for a Kubeflow cluster."""
    from medmark.components.delivery.places import Places, shown
    from medmark.pipelines.compile import compile_all, read_images
    from medmark.pipelines.pods import read_pods

    references, asked = read_images(images, unpinned=unpinned), read_pods(pods) if pods else None
    with Places() as places:
        folder = Path(places.write(out))
        for path in compile_all(folder, references, asked):
            print(shown(out, path.relative_to(folder).as_posix()))
