"""Trained models in .onnx files, as embedders."""

from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor

from facelib.faces.align import SIZE
from facelib.files import first_line
from facelib.models.embedder import Embedder
from facelib.models.inputs import Input, declaration_file, declared, of_range, read_declaration

ONNX_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
# Operators that only move, repeat or rename pixels: what follows them still sees the input's range.
MOVES = "Identity Cast Transpose Gather Slice Split Concat Pad Reshape Unsqueeze Squeeze".split()


class OnnxEmbedder(Embedder):
    """An .onnx file with input (N, 3, 112, 112) float: RGB in the range that its graph tells, unless declared.

    Raises ValueError, naming the file, if it is not such a model, or for a wrong declaration.
    """

    def __init__(self, path: Path, device: str = "cpu"):
        given = read_declaration(path)
        try:
            graph = onnx.load(path, load_external_data=False).graph
            providers = ["CUDAExecutionProvider"] if device == "cuda" else []
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()  # else all cores, whatever OMP_NUM_THREADS says
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the core
            self.session = onnxruntime.InferenceSession(path, options, providers=[*providers, "CPUExecutionProvider"])
        except Exception as error:  # onnx and onnxruntime raise many kinds, none of which they share
            raise ValueError(f"{path}: not an ONNX model ({first_line(error)})") from error
        inputs = self.session.get_inputs()
        fits = len(inputs) == 1 and len(inputs[0].shape) == 4
        # A size that the graph leaves open is a name, or nothing, in the place of a number.
        fits = fits and all(n == m or not isinstance(n, int) for n, m in zip(inputs[0].shape[1:], (3, SIZE, SIZE)))
        if not fits or inputs[0].type not in ONNX_FLOATS:
            shapes = ", ".join(f"{i.name} {i.shape} {i.type}" for i in inputs)
            raise ValueError(f"{path}: input must be (N, 3, {SIZE}, {SIZE}) float, found {shapes}")
        self.input = inputs[0].name
        self.dtype = ONNX_FLOATS[inputs[0].type]
        range_in_graph = Input(**of_range(*input_range(graph, self.input)))
        super().__init__(path.stem, device, declared(given, range_in_graph), path)
        self.declaration = str(declaration_file(path))
        batch = inputs[0].shape[0]
        self.fixed_batch = isinstance(batch, int) and batch > 0
        if self.fixed_batch:
            self.batch_size = batch
        elif self.rows(1) != 1 or self.rows(2) != 2:  # the graph says that it takes any number, but doesn't
            self.batch_size, self.fixed_batch = 1, True
        if self.rows(self.batch_size if self.fixed_batch else 1) is None:
            raise ValueError(f"{path}: does not embed an image (N, 3, {SIZE}, {SIZE}) as a row of numbers (N, D)")

    def rows(self, count: int) -> int | None:
        """How many embeddings the graph makes of so many black images; None if it fails or they are no rows."""
        try:
            output = self.session.run(None, {self.input: np.zeros((count, 3, SIZE, SIZE), self.dtype)})[0]
        except Exception:  # whatever onnxruntime raises for a graph that can't be run
            return None
        return len(output) if np.ndim(output) > 1 and np.size(output) else None

    def _embed(self, values: Tensor) -> Tensor:
        count, batch = len(values), values
        if count < self.batch_size and self.fixed_batch:
            empty = batch.new_zeros(self.batch_size - count, *batch.shape[1:])
            batch = torch.cat([batch, empty])  # the graph takes full batches only
        embeddings = self.session.run(None, {self.input: batch.numpy().astype(self.dtype)})[0][:count]
        return torch.from_numpy(embeddings).float().flatten(1)


def input_range(graph: onnx.GraphProto, name: str) -> tuple[float, float]:
    """The range of pixel values that the graph takes as its input `name`: (-1, 1), (0, 1) or (0, 255).

    A graph whose first steps shift or scale the input normalises it itself, from a range that the constant tells:
    x - 127.5 and x / 255 start from 255, x - 0.5 and x / 0.5 from 1. Where the constant is computed it is 255, as
    insightface's reader has it, which goes by a Sub and a Mul among the first nodes (arcface_onnx.py).
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            value = onnx.helper.get_attribute_value(node.attribute[0])
            is_tensor = isinstance(value, onnx.TensorProto)
            constants[node.output[0]] = numpy_helper.to_array(value) if is_tensor else np.asarray(value)
        elif node.op_type in ("Identity", "Cast") and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
        if name not in node.input or node.op_type == "Shape":
            continue
        if node.op_type in MOVES:
            name = node.output[0]
            continue
        if node.op_type not in ("Sub", "Add", "Mul", "Div", "BatchNormalization"):
            break
        # A batch normalisation's inputs are x, scale, bias, mean and variance.
        other = node.input[3] if node.op_type == "BatchNormalization" else next(x for x in node.input if x != name)
        size = np.abs(constants[other]).mean() if other in constants else 255
        if node.op_type == "BatchNormalization" and size < 0.1:  # already centred on 0
            break
        of_bytes = size < 0.1 if node.op_type == "Mul" and other in constants else size > 2
        return (0.0, 255.0) if of_bytes else (0.0, 1.0)
    return -1.0, 1.0
