"""Breast histopathology with a GAN and a ResNet, evaluated by patient. Research use only."""

__version__ = "0.2.0"


def load(folder: str | None = None, engine: str = "auto", neighbours: bool = True, fast: bool = False):
    """Load a classifier as a `predict.model.Model`; arguments and errors are those of `predict.loading.load`."""
    from bcgan import machine

    machine.prepare_environment()
    from bcgan.predict import loading

    return loading.load(folder, engine, neighbours=neighbours, fast=fast)
