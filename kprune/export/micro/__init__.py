"""C arrays for TensorFlow Lite Micro."""
