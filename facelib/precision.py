"""In which numbers a network is computed: bf16 or fp16 under autocast, or float32."""

import torch

NAMES = ("bf16", "fp16", "float32")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}


def precision_of(precision: str, device: str) -> str:
    """One of NAMES, for auto bf16 where the device is faster in it.

    A CPU without bf16 arithmetic emulates it, several times slower than float32. AVX-512's bf16 dot products alone
    don't help either: on an Intel Xeon without AMX both backbones train at 0.5 to 0.7 times the images/s of float32.
    """
    if precision != "auto":
        return precision
    if device != "cpu":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu.get_capabilities().get("amx_bf16", False)
    return "bf16" if fast else "float32"


def autocast(precision: str, device: str) -> torch.autocast:
    """What the forward pass runs under on a device, cpu or cuda."""
    return torch.autocast(device, DTYPES[precision], enabled=precision != "float32")
