"""The TFDS builders on small data sets that the tests write."""

import types

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bcgan.data import prepared
from bcgan.data.breakhis import breakhis_dataset_builder as breakhis
from bcgan.data.histology_phantom import histology_phantom_dataset_builder as phantom
from bcgan.data.idc import idc_dataset_builder as idc
from bcgan.data.idc.scan import OFFICIAL_LISTS
from bcgan.data.patient_folder import patient_folder_dataset_builder as patient_folder
from bcgan.slides.decode import decode_image
from tests.conftest import write_png

KINDS = ("png", "jpg", "bmp", "webp", "jp2", "tif")
RNG = np.random.default_rng(0)


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def load(module, manual, tmp_path, config=None):
    builder = module.Builder(data_dir=tmp_path / "tfds", config=config)
    settings = tfds.download.DownloadConfig(manual_dir=manual)
    builder.download_and_prepare(download_config=settings)
    return builder


def test_idc_splits_by_the_official_lists(tmp_path):
    patients = [(OFFICIAL_LISTS / f"{role}.txt").read_text().split()[0] for role in ("train", "validation", "test")]
    for patient in [*patients, "1"]:
        for label in (0, 1):
            name = f"{patient}_idx5_x101_y{51 + label}_class{label}.png"
            write_png(tmp_path / "raw" / patient / str(label) / name, noise(50, 50 if label else 1))
    builder = load(idc, tmp_path / "raw", tmp_path)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == dict.fromkeys(
        ("train", "validation", "test", "unlisted"), 2
    )
    examples = list(tfds.as_numpy(builder.as_dataset(split="unlisted")))
    assert {example["image"].shape for example in examples} == {(50, 50, 3), (50, 1, 3)}
    assert {(example["x"], example["patient"]) for example in examples} == {(101, b"1")}


def test_breakhis_configurations_are_magnifications(tmp_path):
    for scale in (40, 400):
        folder = tmp_path / f"raw/benign/SOB/adenosis/SOB_B_A_14-22549AB/{scale}X"
        write_png(folder / f"SOB_B_A-14-22549AB-{scale}-001.png", noise(46, 70))
    builder = load(breakhis, tmp_path / "raw", tmp_path, "40x")
    (example,) = tfds.as_numpy(builder.as_dataset(split="train"))
    assert example["magnification"] == 40
    assert example["patient"] == b"22549"
    assert builder.info.features["tumour"].int2str(example["tumour"]) == "adenosis"


def test_a_patient_folder_is_read(tmp_path):
    write_png(tmp_path / "raw/p/malignant/a.png", noise(20, 30))
    (example,) = tfds.as_numpy(load(patient_folder, tmp_path / "raw", tmp_path).as_dataset(split="train"))
    assert example["label"] == 1


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "webp", "jp2", "tif", "16 bits", "grey", "palette", "alpha"])
def test_every_type_of_image_is_read_back(tmp_path, kind):
    pixels = noise(64, 70)
    path = tmp_path / f"raw/p/malignant/a.{kind if kind in KINDS else 'png'}"
    path.parent.mkdir(parents=True)
    if kind == "palette":
        picture = Image.fromarray(pixels).quantize(16)
        pixels = np.asarray(picture.convert("RGB"))
        picture.save(path)
    else:
        arrays = {"16 bits": pixels.astype(np.uint16) * 257, "grey": pixels[..., 0],
                 "alpha": np.dstack([pixels[..., ::-1], np.full((64, 70), 255, np.uint8)])}  # fmt: skip
        lossless = {"webp": [cv2.IMWRITE_WEBP_QUALITY, 101], "jp2": [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]}
        array = arrays.get(kind, pixels[..., ::-1])
        array = array[..., ::-1] if kind == "16 bits" else array
        path.write_bytes(cv2.imencode(path.suffix, array, lossless.get(kind, []))[1].tobytes())
        pixels = np.repeat(pixels[..., :1], 3, 2) if kind == "grey" else pixels
    (example,) = tfds.as_numpy(load(patient_folder, tmp_path / "raw", tmp_path).as_dataset(split="train"))
    # JPEG is lossy: the decoded file is the reference.
    expected = decode_image(path.read_bytes(), path.name) if kind == "jpg" else pixels
    np.testing.assert_array_equal(example["image"], expected)


def test_a_transparent_colour_becomes_white(tmp_path):
    """A PNG of type RGB may declare one colour transparent, which the decoder of TFDS ignores."""
    path = tmp_path / "raw/p/malignant/a.png"
    path.parent.mkdir(parents=True)
    pixels = noise(20, 30)
    pixels[:10] = (1, 2, 3)
    Image.fromarray(pixels).save(path, transparency=(1, 2, 3))
    (example,) = tfds.as_numpy(load(patient_folder, tmp_path / "raw", tmp_path).as_dataset(split="train"))
    assert (example["image"][:10] == 255).all()
    np.testing.assert_array_equal(example["image"], decode_image(path.read_bytes(), path.name))


def test_the_phantom_is_reproducible_and_has_ground_truth(tmp_path):
    once, again = (
        list(tfds.as_numpy(load(phantom, None, tmp_path / name, "tiny").as_dataset(split="train", shuffle_files=False)))
        for name in ("once", "again")
    )
    assert len(once) == 120
    for first, second in zip(once, again, strict=True):
        np.testing.assert_array_equal(first["image"], second["image"])
        assert first["nuclei"].shape[1] == 4
        assert 0 <= first["density"] <= 1
    assert len({example["patient"] for example in once}) == 10


def test_records_of_prepared_data_sets_read_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom.Builder, "BUILDER_CONFIGS", [phantom.PhantomConfig(name="two", patients=2, patches=3)])
    records = prepared.phantom_records((tmp_path,), 50, 4.0)
    assert len({record.key for record in records}) == 6
    assert records[-1].read()[:4] == b"\x89PNG"
    assert records[0].read() != records[-1].read()


@pytest.mark.parametrize("module", [idc, breakhis, phantom, patient_folder])
def test_builders_describe_and_cite_themselves(module, tmp_path):
    info = module.Builder(data_dir=tmp_path).info
    assert len(info.description) > 50
    if module is not patient_folder:
        assert "title=" in info.citation


class FakePatchCamelyon:
    """The parts of the TFDS builder that the adapter uses, without its download of 7 GB."""

    name = "patch_camelyon"
    info = types.SimpleNamespace(splits={"test": None, "train": None, "validation": None})

    def download_and_prepare(self):
        self.prepared = True

    def as_data_source(self, split, decoders):
        return [{"id": f"{split}-{n}".encode(), "label": n, "image": b"png"} for n in range(2) if self.prepared]


def test_patch_camelyon_keeps_its_official_split_and_has_no_patients(monkeypatch):
    monkeypatch.setattr(tfds, "builder", lambda name, **kwargs: FakePatchCamelyon())
    records = prepared.patch_camelyon_records(())
    assert [record.official_split for record in records] == ["test"] * 2 + ["train"] * 2 + ["validation"] * 2
    assert all(record.patient == record.key for record in records)
    assert records[0].read() == b"png"
