"""The classifier zoo: images in [0, 1] to logits.

Every network takes (B, C, H, W) float32 in [0, 1], C being 1 or 3, normalises inside, and names in ``cam_layer`` the module whose
activations EigenCAM reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

Make = Callable[
    [int, int, int], tuple[nn.Module, nn.Module]
]  # classes, side and channels to a network and the layer that EigenCAM reads
MAX_SIZE = 1024  # arbitrary bound on what an untrusted file may ask us to build
MAX_CLASSES = 1000  # arbitrary, likewise


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class SmallCNN(nn.Module):
    """Seven convolutions, 290 thousand parameters: the network of the CPU profiles (ours).

    (B, C, H, W) -> features (B, 128, H/16, W/16) -> logits (B, K).
    """

    def __init__(self, num_classes: int, channels: int = 1, width: int = 16):
        super().__init__()
        w = width
        self.features = nn.Sequential(
            _conv(channels, w, 2),
            *(_conv(w, 2 * w, 2), _conv(2 * w, 2 * w, 1)),
            *(_conv(2 * w, 4 * w, 2), _conv(4 * w, 4 * w, 1)),
            *(_conv(4 * w, 8 * w, 2), _conv(8 * w, 8 * w, 1)),
        )
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(8 * w, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean(dim=(2, 3)))


class Classifier(nn.Module):
    """A network with its normalisation: [0, 1] is mapped to [-2, 2].

    Attributes:
        network: the network proper.
        cam_layer: module whose output EigenCAM reads.
        architecture: name in :data:`ARCHITECTURES`.
        num_classes: K.
        size: side of the images it was built for.
        channels: C.
    """

    def __init__(
        self,
        network: nn.Module,
        cam_layer: nn.Module,
        architecture: str,
        num_classes: int,
        size: int,
        channels: int = 1,
    ):
        super().__init__()
        self.network = network
        self._cam_layer = [cam_layer]  # in a list so that it is not registered twice
        self.architecture = architecture
        self.num_classes = num_classes
        self.size = size
        self.channels = channels

    @property
    def cam_layer(self) -> nn.Module:
        return self._cam_layer[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.network((x - 0.5) / 0.25)
        return logits[0] if isinstance(logits, tuple) else logits  # MONAI's ViT also returns its hidden states


def _small_cnn(num_classes: int, size: int, channels: int) -> tuple[nn.Module, nn.Module]:
    network = SmallCNN(num_classes, channels)
    return network, network.features[-1]


def _small_cnn_wide(num_classes: int, size: int, channels: int) -> tuple[nn.Module, nn.Module]:
    network = SmallCNN(num_classes, channels, width=24)
    return network, network.features[-1]


def _monai_resnet_tiny(num_classes: int, size: int, channels: int) -> tuple[nn.Module, nn.Module]:
    from monai.networks.nets.resnet import ResNet

    network = ResNet("basic", [1, 1, 1, 1], [16, 32, 64, 128], spatial_dims=2, n_input_channels=channels, conv1_t_stride=2,
                     num_classes=num_classes)  # fmt: skip
    return network, network.layer4[-1]


def _torchvision(name: str) -> Make:
    def make(num_classes: int, size: int, channels: int) -> tuple[nn.Module, nn.Module]:
        import torchvision

        network = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
        if name.startswith("resnet"):
            network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
            return network, network.layer4[-1]
        stem = network.features[0][0]  # EfficientNet, MobileNet
        network.features[0][0] = nn.Conv2d(channels, stem.out_channels, 3, 2, 1, bias=False)
        return network, network.features[-1]

    return make


def _densenet121(num_classes: int, size: int, channels: int) -> tuple[nn.Module, nn.Module]:
    from monai.networks.nets.densenet import DenseNet121

    network = DenseNet121(spatial_dims=2, in_channels=channels, out_channels=num_classes)
    # norm5 comes before an in-place ReLU that would overwrite what a hook has seen; the last dense block does not
    return network, network.features.get_submodule("denseblock4")


def _vit(num_classes: int, size: int, channels: int) -> tuple[nn.Module, nn.Module]:
    from monai.networks.nets.vit import ViT

    network = ViT(in_channels=channels, img_size=(size, size), patch_size=(16, 16), hidden_size=192, mlp_dim=768, num_layers=6,
                  num_heads=3, classification=True, num_classes=num_classes, spatial_dims=2,
                  post_activation="none")  # fmt: skip
    return network, network.blocks[-1].get_submodule("norm1")


ARCHITECTURES: dict[str, Make] = {
    "small_cnn": _small_cnn,
    "small_cnn_wide": _small_cnn_wide,
    "resnet_tiny": _monai_resnet_tiny,
    "resnet18": _torchvision("resnet18"),
    "resnet50": _torchvision("resnet50"),
    "densenet121": _densenet121,
    "efficientnet_b0": _torchvision("efficientnet_b0"),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small"),
    "vit": _vit,
}


def build(
    architecture: str,
    *,
    num_classes: int,
    size: int,
    seed: int,
    weights: str | Path | None = None,
    channels: int = 1,
) -> Classifier:
    """Makes a classifier with random weights, or with weights that the user supplies.

    Args:
        architecture: name in :data:`ARCHITECTURES`.
        num_classes: K >= 2.
        size: side of the square input, pixels; a multiple of 16 for ``vit``.
        seed: of the random weights.
        weights: safetensors file of pretrained weights for ``Classifier.network``; tensors whose name or shape does not
            fit (a head for other classes, a colour stem) keep their random values.
        channels: C, 1 or 3.

    Raises:
        MedmarkError: unknown architecture, or a size it cannot take.
    """
    if architecture not in ARCHITECTURES:
        raise MedmarkError(f"unknown architecture: {architecture!r}; use one of {', '.join(ARCHITECTURES)}")
    if not 32 <= size <= MAX_SIZE or (architecture == "vit" and size % 16):
        raise MedmarkError(
            f"image size {size} does not fit {architecture}; use 32 to {MAX_SIZE}, for vit a multiple of 16"
        )
    if channels not in (1, 3):
        raise MedmarkError(f"{channels} channels asked of {architecture}; use 1 or 3")
    if not 2 <= num_classes <= MAX_CLASSES:
        raise MedmarkError(f"{num_classes} classes asked of {architecture}; use 2 to {MAX_CLASSES}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, cam_layer = ARCHITECTURES[architecture](num_classes, size, channels)
    if weights is not None:
        own = network.state_dict()
        given = read_tensors(weights)
        fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
        if not fitting:
            raise MedmarkError(f"no tensor of {weights} fits {architecture}; supply weights of that network")
        network.load_state_dict({**own, **fitting})
    model = Classifier(network, cam_layer, architecture, num_classes, size, channels)
    return model.to(memory_format=torch.channels_last)


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file.

    Raises:
        MedmarkError: missing, or not safetensors. Pickled weights are never opened.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise MedmarkError(f"not a safetensors file: {path} ({error}); convert the weights to safetensors") from error


def load_foreign(path: str | Path, architecture: str, size: int) -> Classifier:
    """Reads weights that somebody else trained, as safetensors with the names that the network's library gives them.

    The numbers of classes and channels follow from the tensors. The classifier normalises as medmark's do: what was trained with another
    normalisation is to be asked through ``network``.

    Args:
        path: of the file.
        architecture: name in :data:`ARCHITECTURES`.
        size: side of the images that it was trained on, pixels.

    Raises:
        MedmarkError: not safetensors, or not the weights of that network, all of them.
    """
    given = read_tensors(path)
    own = build(architecture, num_classes=2, size=size, seed=0).network.state_dict()
    stem, head = next(name for name, tensor in own.items() if tensor.ndim == 4), list(own)[-1]
    try:
        classes, channels = len(given[head]), given[stem].shape[1]
        model = build(architecture, num_classes=classes, size=size, seed=0, channels=channels)
        model.network.load_state_dict(given)
    except (KeyError, TypeError, IndexError, RuntimeError) as error:
        raise MedmarkError(
            f"not the weights of {architecture}: {path} ({reason_of(error)}); give the architecture that they are of, or export to ONNX"
        ) from error
    return model.eval().requires_grad_(False)


def save_classifier(model: Classifier, path: str | Path, **metadata: object) -> None:
    """Writes weights and what is needed to build the network again, as safetensors."""
    header = {"architecture": model.architecture, "num_classes": model.num_classes, "size": model.size, **metadata}
    if model.channels != 1:  # grey classifiers keep the files and digests that they always had
        header["channels"] = model.channels
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()}
    # one JSON string: safetensors writes several keys in an order that changes from run to run
    save_file(tensors, str(path), metadata={"medmark": json.dumps(header, sort_keys=True)})


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What medmark wrote into a safetensors file beside the tensors.

    Raises:
        MedmarkError: not a safetensors file that medmark wrote.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})["medmark"])
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise MedmarkError(
            f"not weights that medmark wrote: {path} ({error!r}); supply such a safetensors file"
        ) from error
    if not isinstance(header, dict):
        raise MedmarkError(f"not weights that medmark wrote: {path}; supply such a safetensors file")
    return header


def is_medmarks(path: str | Path) -> bool:
    """Whether a safetensors file says of itself what :func:`save_classifier` writes.

    Raises:
        MedmarkError: not a safetensors file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return "medmark" in (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise MedmarkError(f"not a safetensors file: {path} ({error}); convert the weights to safetensors") from error


def load_classifier(path: str | Path) -> Classifier:
    """Reads a classifier, ready for evaluation, without gradients.

    Raises:
        MedmarkError: the file is not a classifier's.
    """
    header = read_metadata(path)
    try:
        architecture, classes, size = str(header["architecture"]), int(header["num_classes"]), int(header["size"])
        model = build(architecture, num_classes=classes, size=size, seed=0, channels=int(header.get("channels", 1)))
        model.network.load_state_dict(read_tensors(path))
    except (KeyError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        reason = reason_of(error)
        raise MedmarkError(f"weights do not fit their network: {path} ({reason}); get the file again") from error
    return model.eval().requires_grad_(False)
