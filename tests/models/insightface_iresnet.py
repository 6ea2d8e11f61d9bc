"""insightface's ResNet from its own description: the tensors of its checkpoints, and what it computes with them."""

import numpy as np
import torch
import torch.nn.functional as F

BLOCKS = {  # in each of the four layers
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}


def insightface_layout(blocks, embedding_size: int = 512) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in insightface's checkpoints, as arcface_torch's iresnet.py builds them."""
    layout = {}

    def batch_norm(name, channels):
        layout.update({f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")})
        layout[f"{name}.num_batches_tracked"] = ()

    layout["conv1.weight"] = (64, 3, 3, 3)
    batch_norm("bn1", 64)
    layout["prelu.weight"] = (64,)
    before = 64
    for layer, (count, channels) in enumerate(zip(blocks, (64, 128, 256, 512)), 1):
        for block in range(count):
            name = f"layer{layer}.{block}"
            batch_norm(f"{name}.bn1", before)
            layout[f"{name}.conv1.weight"] = (channels, before, 3, 3)
            batch_norm(f"{name}.bn2", channels)
            layout[f"{name}.prelu.weight"] = (channels,)
            layout[f"{name}.conv2.weight"] = (channels, channels, 3, 3)
            batch_norm(f"{name}.bn3", channels)
            if block == 0:
                layout[f"{name}.downsample.0.weight"] = (channels, before, 1, 1)
                batch_norm(f"{name}.downsample.1", channels)
            before = channels
    batch_norm("bn2", 512)
    layout |= {"fc.weight": (embedding_size, 512 * 7 * 7), "fc.bias": (embedding_size,)}
    batch_norm("features", embedding_size)
    return layout


def random_state(layout: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Numbers as in a trained model: no statistic at its initial 0 or 1, every layer's output of order 1."""
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in layout.items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1000)
        elif len(shape) > 1:
            state[key] = noise * (2 / np.prod(shape[1:])) ** 0.5
        elif key.endswith("running_var"):
            state[key] = 0.5 + noise.abs()
        elif "prelu" in key:
            state[key] = 0.25 + 0.1 * noise
        else:
            state[key] = 0.2 * noise + (1 if key.endswith("weight") else 0)
    return state


def iresnet_forward(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """insightface's forward pass, from the numbers of a checkpoint alone."""

    def batch_norm(name, x):
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    x = F.prelu(batch_norm("bn1", x), state["prelu.weight"])
    for layer in (1, 2, 3, 4):
        for block in range(100):
            name = f"layer{layer}.{block}"
            if f"{name}.conv1.weight" not in state:
                break
            stride = 2 if block == 0 else 1
            y = F.conv2d(batch_norm(f"{name}.bn1", x), state[f"{name}.conv1.weight"], padding=1)
            y = F.prelu(batch_norm(f"{name}.bn2", y), state[f"{name}.prelu.weight"])
            y = batch_norm(f"{name}.bn3", F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1))
            if block == 0:
                shortcut = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=2)
                x = batch_norm(f"{name}.downsample.1", shortcut)
            x = x + y
    x = F.linear(batch_norm("bn2", x).flatten(1), state["fc.weight"], state["fc.bias"])
    return batch_norm("features", x)


def same(embeddings: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal but for float32's rounding, which differs with the order of additions: by a share of each one's length."""
    return bool(((embeddings - expected).norm(dim=1) < 1e-5 * expected.norm(dim=1)).all())
