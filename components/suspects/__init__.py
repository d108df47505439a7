"""Suspect models behind one contract: HTTP endpoints, ONNX files and registered models, each in a process of its own."""
