"""The networks: plain functions that return functional Keras models. One file, one network, read top to bottom.

Inputs are float32 RGB in [0, 1], (batch, size, size, 3); classifiers return one logit of malignancy for each patch.
"""
