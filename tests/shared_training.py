"""Trainings that several devices share."""

from pathlib import Path

import keras
import tensorflow as tf

from bcgan import distribute
from bcgan.classify.train import Patches, Recipe, TrainingData, train
from bcgan.data.histology_phantom.tissue import example_patches
from bcgan.gan import train as gan
from bcgan.models.classifier import build_classifier
from bcgan.settings import Classifier, Classify, Gan


def make_strategy(kind: str) -> tf.distribute.Strategy:
    """Make the strategy of 1 device, of 2 devices of one machine, or of one of 2 workers."""
    if kind != "devices":
        return distribute.make_strategy(kind)
    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    shares = strategy.experimental_local_results(strategy.run(lambda: distribute.replica_rows(tf.range(8))))
    assert [list(map(int, share)) for share in shares] == [[0, 2, 4, 6], [1, 3, 5, 7]], shares
    return strategy


def log_losses(kind: str) -> None:
    """Train a classifier and a GAN, and log the losses of every step in the current folder."""
    strategy, patches = make_strategy(kind), Patches(*example_patches(32))
    keras.utils.set_random_seed(0)
    with strategy.scope():
        classifier = Classifier(epochs=2, learning_rate=0.01)
        recipe = Recipe(Classify(batch_size=16, optimizer="sgd"), classifier)
        train(build_classifier("cnn"), TrainingData(patches, None, patches), recipe, Path("network.keras"))
        gan.LOG_EVERY = 1
        gan.recalibrate_batch_norm = lambda network, *arguments, **options: network  # only the log is read
        settings = Gan(steps=3, batch_size=8, base_channels=4, latent_dim=8, projected_discriminator_weight=0)
        gan.train(patches.images[:, :32, :32], patches.labels, settings, 0, Path(), False)
