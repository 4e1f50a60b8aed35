"""Breast histopathology with a GAN and a ResNet, evaluated by patient. Research use only."""

__version__ = "0.1.0"
