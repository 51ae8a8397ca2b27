"""TFLite files: an ONNX model lowered, its operators by kind, the file's writer, and what checks it."""
