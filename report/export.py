"""A trained run as files for others: ONNX, safetensors, and a model card written from the run's own numbers.

    python -m report.export RUN TARGET [VERIFICATION ...]

RUN is a folder of facelib.training, TARGET the new folder:

    model.onnx             input `images` (N, 3, 112, 112) float32 RGB in [-1, 1], output `embeddings` (N, D) float32,
                           any N; model.onnx.json declares its input (facelib.models.inputs)
    model.safetensors      the state dict, with backbone and input in its metadata
    README.md              the model card, with the results of each VERIFICATION, a verification's folder

`verify` takes both models as any other.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import nn

from facelib.faces.align import SIZE
from facelib.files import save_tensors, whole_folder, write_json
from facelib.models.pretrained import load_run
from report.card import card

FILES = ("model.onnx", "model.onnx.json", "model.safetensors", "README.md")
TAKES = {"colours": "RGB", "range": [-1, 1]}
CLOSE = 1e-4  # how far apart two embeddings of unit length may be


def export(run: str | Path, target: str | Path, verifications: tuple[str | Path, ...] = ()) -> None:
    """Write the target. Raises FileNotFoundError or ValueError, naming it, if one of the folders is none of its kind,
    and ValueError if ONNX's embeddings are not PyTorch's to CLOSE.
    """
    run, target = Path(run), Path(target)
    model = load_run(run, "cpu").model.to(memory_format=torch.contiguous_format)
    text = card(run, [Path(folder) for folder in verifications])
    with whole_folder(target, FILES) as folder:
        to_onnx(model, folder / "model.onnx")
        write_json(folder / "model.onnx.json", TAKES)
        backbone = json.loads((run / "parameters.json").read_text())["backbone"]
        metadata = {"backbone": backbone, "colours": TAKES["colours"], "range": json.dumps(TAKES["range"])}
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_tensors(state, folder / "model.safetensors", metadata)
        (folder / "README.md").write_text(text)


def to_onnx(model: nn.Module, file: Path) -> None:
    """Write the network as an ONNX graph for any number of images, and compare what both make of random ones.

    By PyTorch's exporter that traces: the newer one needs more packages and ten times the time, for what is one chain
    of layers.
    """
    images = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    any_number = {"images": {0: "n"}, "embeddings": {0: "n"}}
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        torch.onnx.export(
            model.eval(), (images[:2],), file, input_names=["images"], output_names=["embeddings"],
            dynamic_axes=any_number, dynamo=False,
        )  # fmt: skip
        expected = F.normalize(model(images)).numpy()
    (found,) = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(
        None, {"images": images.numpy()}
    )
    apart = np.abs(found / np.linalg.norm(found, axis=1, keepdims=True) - expected).max()
    if not apart <= CLOSE:
        raise ValueError(f"{file.name}: its embeddings are up to {apart:.2g} from PyTorch's, {CLOSE:g} is allowed")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        export(sys.argv[1], sys.argv[2], tuple(sys.argv[3:]))
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
    print(f"{sys.argv[2]}: {', '.join(FILES)}")
