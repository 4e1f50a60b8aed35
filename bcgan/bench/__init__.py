"""`make bench`: training, inference and preparation compared with PyTorch, plain Keras and the hardware's limit."""
