"""Prediction from a checkpoint: with torch, as an ONNX graph, or as a scoring file."""
