"""8 bits: ranges from images, rounding in torch, and the int8 or fp16 twin of any ONNX file."""
