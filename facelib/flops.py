"""What a backbone costs: parameters, FLOPs, activations, and the speed that this machine really reaches.

FLOPs are fvcore's: one multiply-add counts as one. Convolutions, linear layers, batch norms and adaptive pooling are
counted; activation functions, additions and products of feature maps are not.
"""

import logging
import statistics
import time

import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

from facelib import provenance
from facelib.models import SIZE, create_model, first_line
from facelib.output import whole_folder, write_json

FILES = ("metrics.json", "environment.json")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def count(name: str, embedding_size: int = 512, size: int = SIZE) -> dict:
    """Parameters, FLOPs and activations of one image (3, size, size), counted in eval mode.

    Activations are the elements that convolutions and linear layers put out. `flops_of` has the FLOPs by fvcore's names
    of the operators, `uncounted` the names of those that it leaves out. Raises ValueError if the model is unknown or
    does not take this size.
    """
    model = create_model(name, embedding_size, size).eval()
    image = torch.zeros(1, 3, size, size)
    logging.getLogger("fvcore").setLevel(logging.ERROR)  # it warns of every operator that it does not count
    try:
        flops = FlopCountAnalysis(model, image).unsupported_ops_warnings(False)
        flops_of, uncounted = flops.by_operator(), flops.unsupported_ops()
        activations = ActivationCountAnalysis(model, image).unsupported_ops_warnings(False).total()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{name} does not take images of {size}x{size} pixels: {first_line(error)}") from error
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
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        with torch.set_grad_enabled(training), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            embeddings = model(images)
            if training:
                embeddings.float().square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return batch_size / statistics.median(seconds[1:])


def convolutions_and_linear(name: str, embedding_size: int = 512, size: int = SIZE) -> int:
    """Multiply-adds of one image by the textbook: k^2 c d / groups for each pixel of a convolution's output,
    c d for a linear layer."""
    model = create_model(name, embedding_size, size).eval()
    total = 0

    def add(module, inputs, output):
        nonlocal total
        weights = module.weight.numel()  # k^2 c d / groups, or c d
        total += weights * (output[0, 0].numel() if output.ndim == 4 else 1)

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(add)
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    return total


def measure(heavy: str, light: str, output: str, embedding_size: int = 512, batch_size: int = 8) -> dict:
    """Cost and speed of two backbones; writes metrics.json and environment.json into the folder `output`.

    Speeds are in images/s, one for each of LAYOUTS: which is faster depends on backbone and processor.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    for role, name in (("heavy", heavy), ("light", light)):
        found[role] = {"backbone": name, **count(name, embedding_size)}
        for key, training in (("inference_speed", False), ("training_speed", True)):
            found[role][key] = {
                words: speed(name, training, layout, embedding_size, device, batch_size)
                for words, layout in LAYOUTS.items()
            }
    with whole_folder(output, FILES) as folder:
        write_json(folder / "environment.json", provenance.environment(device))
        write_json(folder / "metrics.json", found)
    return found
