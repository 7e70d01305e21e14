"""Exports students: calibrated confidence and ONNX files."""
