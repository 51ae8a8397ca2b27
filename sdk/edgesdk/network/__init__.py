"""A model as a graph of layers, as runtimes fuse them: from a module or an ONNX file."""
