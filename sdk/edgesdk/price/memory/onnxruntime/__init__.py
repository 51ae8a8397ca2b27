"""The memory that a network takes in ONNX Runtime."""
