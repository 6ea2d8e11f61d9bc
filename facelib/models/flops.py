"""What a backbone costs: parameters, FLOPs, activations, and the speed that this machine really reaches.

FLOPs are fvcore's: one multiply-add counts as one. Convolutions, linear layers, batch norms and adaptive pooling are
counted; activation functions, additions and products of feature maps are not.
"""

import logging
import math
import statistics
import timeit
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

from facelib import records
from facelib.faces.align import SIZE
from facelib.files import first_line
from facelib.models.backbones import create_model
from facelib.models.onnx import OnnxEmbedder
from facelib.models.pretrained import load_embedder

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def count(name: str, embedding_size: int = 512, size: int = SIZE) -> dict:
    """Parameters, FLOPs and activations of one image (3, size, size), counted in eval mode.

    Activations are the elements that convolutions and linear layers put out. `flops_of` has the FLOPs by fvcore's names
    of the operators, `uncounted` the names of those that it leaves out. Raises ValueError if the model is unknown or
    does not take this size.
    """
    return count_model(create_model(name, embedding_size, size).eval(), name, (size, size))


def count_model(model: torch.nn.Module, name: str, size: tuple[int, int]) -> dict:
    """count() of a model in eval mode that takes images of this height and width."""
    image = torch.zeros(1, 3, *size)
    logging.getLogger("fvcore").setLevel(logging.ERROR)  # it warns of every operator that it does not count
    try:
        flops = FlopCountAnalysis(model, image).unsupported_ops_warnings(False)
        flops_of, uncounted = flops.by_operator(), flops.unsupported_ops()
        activations = ActivationCountAnalysis(model, image).unsupported_ops_warnings(False).total()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{name} does not take images of {size[1]}x{size[0]} pixels: {first_line(error)}") from error
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": int(flops.total()),
        "flops_of": {operator: int(number) for operator, number in flops_of.items()},
        "uncounted": sorted(operator.removeprefix("aten::").rstrip("_") for operator in uncounted),
        "activations": int(activations),
    }


def speed(
    name: str,
    training: bool,
    layout: torch.memory_format = torch.contiguous_format,
    embedding_size: int = 512,
    device: str = "cpu",
    batch_size: int = 16,
    repeats: int = 3,
) -> float:
    """Images/s of a forward pass, or of forward, backward and SGD step if `training`: the median of `repeats`.

    float32 and random images on a CPU, bf16 autocast on CUDA; loading is not in it.
    """
    model = create_model(name, embedding_size).to(device, memory_format=layout).train(training)
    images = torch.randn(batch_size, 3, SIZE, SIZE, device=device).contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step():
        with torch.set_grad_enabled(training), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            embeddings = model(images)
            if training:
                embeddings.float().square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return batch_size / median_seconds(step, repeats)


def median_seconds(step: Callable[[], None], repeats: int) -> float:
    """What a call lasts, the median of `repeats` after a first one that is not counted."""
    return statistics.median(timeit.repeat(step, number=1, repeat=repeats + 1)[1:])


def count_onnx(path: str | Path) -> dict:
    """Parameters and FLOPs of one image in an .onnx file, convolutions and linear layers by the textbook.

    Raises ValueError, naming the file, if the size of a convolution's output can't be inferred.
    """
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model).graph
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer if tensor.data_type in FLOATS}
    sizes = {}
    for value in [*graph.value_info, *graph.output]:
        sizes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    flops, measured = 0, set()
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            measured |= {*node.input[3:5]}  # means and variances are not parameters
        if node.op_type == "Conv":
            pixels = math.prod(sizes.get(node.output[0], [])[2:])
            if not pixels or len(sizes[node.output[0]]) != 4:
                raise ValueError(f"{path}: the output size of {node.name or node.output[0]} can't be inferred")
            flops += weights[node.input[1]] * pixels
        elif node.op_type in ("Gemm", "MatMul") and node.input[1] in weights:
            flops += weights[node.input[1]]
    return {"parameters": sum(number for name, number in weights.items() if name not in measured), "flops": flops}


FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


def measure_released(model: str, device: str = "cpu", batch_size: int = 8) -> dict:
    """Cost and inference speed of a released model, an .onnx file or a checkpoint, as its embedder uses it."""
    embedder = load_embedder(model, device)
    if isinstance(embedder, OnnxEmbedder):
        counted = count_onnx(model)
    else:
        counted = count_model(embedder.model, embedder.name, embedder.takes.size)
    images = torch.randint(0, 256, (batch_size, 3, SIZE, SIZE), dtype=torch.uint8)
    return {
        "backbone": embedder.name,
        "parameters": counted["parameters"],
        "flops": counted["flops"],
        "inference_speed": {"as released": batch_size / median_seconds(lambda: embedder.embed(images), 5)},
        "latency": {"as released": median_seconds(lambda: embedder.embed(images[:1]), 20)},
    }


def convolutions_and_linear(name: str, embedding_size: int = 512, size: int = SIZE) -> int:
    """Multiply-adds of one image by the textbook: k^2 c d / groups for each pixel of a convolution's output,
    c d for a linear layer."""
    model = create_model(name, embedding_size, size).eval()
    costs = []

    def add(module, inputs, output):
        pixels = output[0, 0].numel() if output.ndim == 4 else 1
        costs.append(module.weight.numel() * pixels)  # weights are k^2 c d / groups, or c d

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(add)
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    return sum(costs)


def measure(
    heavy: str, light: str, output: str, embedding_size: int = 512, batch_size: int = 8, released: str = ""
) -> dict:
    """Cost and speed of two backbones and, if there is one, of a released model; writes the folder `output`.

    Speeds are in images/s, latencies (of one image at a time) in seconds, one for each of LAYOUTS: which is faster
    depends on backbone and processor. Raises FileNotFoundError or ValueError, naming it, if `released` is no model.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parameters = {"heavy": heavy, "light": light, "embedding_size": embedding_size, "batch_size": batch_size}
    options = {"embedding_size": embedding_size, "device": device}
    with records.save_result(output, parameters | {"released": released}, device) as result:
        for role, name in (("heavy", heavy), ("light", light)):
            cost = {"backbone": name, **count(name, embedding_size)}
            cost |= {"inference_speed": {}, "training_speed": {}, "latency": {}}
            for words, layout in LAYOUTS.items():
                cost["inference_speed"][words] = speed(name, False, layout, batch_size=batch_size, **options)
                cost["training_speed"][words] = speed(name, True, layout, batch_size=batch_size, **options)
                cost["latency"][words] = 1 / speed(name, False, layout, batch_size=1, repeats=20, **options)
            result.metrics[role] = cost
        if released:
            result.metrics["released"] = measure_released(released, device, batch_size)
    return result.metrics
