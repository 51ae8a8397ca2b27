"""An ONNX file as a module that trains, translated node by node; ONNX Runtime on the file is its reference."""
