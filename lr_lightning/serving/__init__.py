"""Inference from a checkpoint: with torch, as an ONNX graph, as a scoring file."""
