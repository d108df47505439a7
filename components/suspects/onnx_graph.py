"""The graph of an ONNX model: where its last convolution is, for whoever wants to know where the model looks."""

from __future__ import annotations

import onnx
from medmark.components.base.errors import MedmarkError

CONVOLUTIONS = ("Conv", "FusedConv")
Side = int | str | None  # a number, a name that stands for one, or unknown


def last_convolution(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Returns the model with one output: what its last convolution gives, after all that follows at the same height and width.

    That is the layer that EigenCAM reads, behind normalisation, activation and the sum of a residual block. Convolutions of one position,
    such as those behind a pooling, do not count.

    Args:
        model: checked by onnx; its external data need not be loaded.
        where: what to call the model in messages.

    Raises:
        MedmarkError: it has no convolution of images.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sides = {value.name: _sides(value) for value in (*inferred.value_info, *inferred.output)}
    graph = model.graph  # in an order in which each node comes after those that it needs: the checker refuses any other
    convolutions = [
        node.output[0]
        for node in graph.node
        if node.op_type in CONVOLUTIONS and sides.get(node.output[0]) not in (None, (1, 1))
    ]
    if not convolutions:
        raise MedmarkError(f"no convolution of images in ONNX model {where}; EigenCAM needs a convolutional network")
    last = convolutions[-1]
    height_and_width, behind = sides[last], {last}
    for node in graph.node:
        same = [name for name in node.output if name and sides.get(name) == height_and_width]
        if same and not behind.isdisjoint(node.input) and None not in (height_and_width or (None,)):
            behind.update(same)
            last = same[-1]
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    del kept.graph.output[:]
    kept.graph.output.extend(value for value in (*inferred.value_info, *inferred.output) if value.name == last)
    return kept


def _sides(value: onnx.ValueInfoProto) -> tuple[Side, Side] | None:
    """Height and width of a tensor of images; None if it is something else."""
    dimensions = value.type.tensor_type.shape.dim
    if len(dimensions) != 4:
        return None
    height, width = (d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dimensions[2:])
    return height, width
