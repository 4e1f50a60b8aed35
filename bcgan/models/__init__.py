"""The networks: plain functions that return functional Keras models. One file, one network, read top to bottom.

Images go in as float32 RGB in [0, 1], (batch, side, side, 3); classifiers give one logit of malignancy a patch.
"""
