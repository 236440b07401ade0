"""Training-aware compression with TensorFlow Model Optimization (TF-MOT)."""
