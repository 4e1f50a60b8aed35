import shutil

import keras
import numpy as np
import pytest
from keras import layers

from bcgan import experiment
from bcgan.evaluate import explanations
from bcgan.explain import saliency
from bcgan.models import weights
from bcgan.models.classifier import build_classifier
from bcgan.models.discriminator import discriminator
from bcgan.predict.export import build_ensemble
from bcgan.preprocess import store

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, (4, 50, 50, 3)).astype(np.float32)


def redness(place: slice) -> keras.Model:
    """A linear classifier whose logit is the redness of one corner, with maps that Grad-CAM can use."""
    image = keras.Input((50, 50, 3))
    weights = np.zeros((1, 1, 3, 16), np.float32)
    weights[0, 0, 0] = 1
    x = layers.Conv2D(16, 1, use_bias=False, name="maps")(image)
    corner = x[:, place, place, :]
    logit = layers.Dense(1, use_bias=False, name="logit")(layers.GlobalAveragePooling2D()(corner))
    network = keras.Model(image, logit)
    network.get_layer("maps").set_weights([weights])
    network.get_layer("logit").set_weights([np.full((16, 1), 10, np.float32)])
    return network


@pytest.mark.parametrize("method", saliency.METHODS)
def test_the_evidence_is_found_where_it_lies(method):
    images = IMAGES.copy()
    images[:, 5:10, 5:10, 0] = 1.0  # red raises the logit, above the patch's mean and above white glass
    images[:, :20, :20, 1:] = 0.0
    maps = np.abs(saliency.METHODS[method](redness(slice(0, 20)), images))
    assert maps.shape == (4, 50, 50)
    share = maps[:, :20, :20].sum((1, 2)) / maps.sum((1, 2))
    assert (share > {"grad_cam": 0.1}.get(method, 0.75)).all()  # Grad-CAM's weights do not depend on the place


def test_integrated_gradients_add_up_to_the_logit():
    network = redness(slice(0, 20))
    run = saliency.logits(network)
    maps = saliency.integrated_gradients(network, IMAGES)
    np.testing.assert_allclose(maps.sum((1, 2)), run(IMAGES) - run(np.ones_like(IMAGES)), rtol=1e-3)


def test_occlusion_of_irrelevant_pixels_has_no_effect():
    maps = saliency.occlusion(redness(slice(0, 10)), IMAGES)
    assert np.abs(maps[:, 25:, 25:]).max() < 1e-5
    assert np.abs(maps[:, :10, :10]).max() > 1e-3


@pytest.mark.parametrize("name", ["gan_resnet", "cnn"])
def test_grad_cam_reaches_into_networks_within_networks(name):
    network = build_classifier(name, discriminator=discriminator(8))
    assert saliency.grad_cam(network, IMAGES).shape == (4, 50, 50)


def test_the_map_of_an_ensemble_is_the_mean_of_its_members():
    members = [build_classifier("cnn"), build_classifier("resnet_table1")]
    expected = np.mean([saliency.grad_cam(member, IMAGES) for member in members], axis=0)
    np.testing.assert_allclose(saliency.grad_cam(build_ensemble(members), IMAGES), expected, rtol=1e-4, atol=1e-6)


def test_a_network_without_maps_is_named():
    with pytest.raises(ValueError, match="gan_only"):
        saliency.grad_cam(build_classifier("gan_only", discriminator=discriminator(8)), IMAGES)


def test_a_good_map_deletes_faster_and_inserts_faster_than_its_opposite():
    network = redness(slice(0, 20))
    images = IMAGES.copy()
    images[:, :20, :20, 0] = 1.0
    run, good = saliency.logits(network), np.zeros((4, 50, 50), np.float32)
    good[:, :20, :20] = 1
    centred = lambda x: run(x) / 20 - 6.5  # noqa: E731, so that the decision changes along the curve
    deleted = [explanations.perturbation_curve(centred, images, scores) for scores in (good, -good)]
    assert (deleted[0].mean(0) < deleted[1].mean(0)).all()
    np.testing.assert_allclose(deleted[0][[0, -1]], deleted[1][[0, -1]], atol=1e-5)  # no pixels and all pixels deleted
    inserted = [explanations.perturbation_curve(centred, images, scores, insert=True) for scores in (good, -good)]
    assert (inserted[0].mean(0) > inserted[1].mean(0)).all()


def test_a_map_of_the_nuclei_localizes_them_and_noise_does_not():
    settings = experiment.load("phantom", ("evaluate.bootstrap_samples=100",))
    images, masks, _ = explanations.phantom_patches(explanations.NUM_PHANTOM_PATCHES, 50, settings.seed, 4.0)
    assert 0.02 < masks.mean() < 0.6
    assert images[masks].mean() < images[~masks].mean()  # nuclei are dark
    methods = {
        "knows": lambda network, images: masks.astype(np.float32),
        "noise": lambda network, images: RNG.random(images.shape[:3]),
    }
    methods |= {
        "half negative": lambda network, images: np.where(np.arange(len(images)) % 2, 1, -1)[:, None, None] * masks,
        "negative": lambda network, images: -1.0 - RNG.random(images.shape[:3]),
        "constant": lambda network, images: np.ones(images.shape[:3]),
    }
    localization = explanations.localization_scores([None], methods, 50, settings)
    for kind in ("top5_hit_rate", "energy_pointing_game"):
        assert localization["knows"][kind]["low"] > 0.3
        assert abs(localization["noise"][kind]["value"]) < 0.03
        assert abs(localization["constant"][kind]["value"]) < 0.03
    # A map without positive values has no share of them on nuclei.
    knows, half = (localization[name]["energy_pointing_game"]["value"] for name in ("knows", "half negative"))
    assert half == pytest.approx(1 - masks[1::2].mean()) and knows == pytest.approx(1 - masks.mean())
    assert localization["negative"]["energy_pointing_game"] == {"value": None, "low": None, "high": None}
    # Several networks: the mean, with an interval that holds what they vary.
    signs = iter((1, -1, 1))
    varied = {"varied": lambda network, images: next(signs) * (2.0 * masks - 1)}
    spread = explanations.localization_scores([None] * 3, varied, 50, settings)["varied"]["top5_hit_rate"]
    assert spread["low"] < 0 < 1 < spread["high"]


def test_a_classifier_of_crops_is_explained_on_crops(finished, tmp_path):
    """The paper trains on crops: explained patches have the size of the network's input."""
    root = tmp_path / "tiny"
    shutil.copytree(finished / "runs/tiny", root)
    settings = experiment.load(str(finished / "tiny.yaml"), ("classify.crop_size=40",))
    weights.save_model(build_classifier("cnn", 40), root / f"classify/{settings.proposed}-seed0.keras")
    explanations.evaluate(settings, store.load(root / "preprocess"), root, tmp_path)
    with np.load(tmp_path / "explanations.npz") as saved:
        assert saved["real_images"].shape[1:] == saved["synthetic_images"].shape[1:] == (40, 40, 3)
        assert saved["real_occlusion"].shape[1:] == (40, 40)
