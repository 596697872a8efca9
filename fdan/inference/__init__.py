"""A finished model: its folder, its ONNX file, its predictions."""
