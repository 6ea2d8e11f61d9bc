"""Which files in a folder of weights are released embedders, told by their names."""

MODELS = (".onnx", ".pth", ".pt", ".safetensors")
# What insightface packs beside its embedders: detectors, landmarks, attributes.
NOT_EMBEDDERS = ("det_", "scrfd", "1k3d68", "2d106det", "genderage")
