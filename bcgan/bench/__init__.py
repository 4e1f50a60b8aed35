"""`make bench`: training, inference and preparation beside PyTorch, plain Keras and the machine's limit."""
