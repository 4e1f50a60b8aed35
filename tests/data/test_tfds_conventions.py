"""The TFDS test case for builders on dummy data: registration, checksums, tags, features and splits."""

from pathlib import Path

import tensorflow_datasets as tfds

from bcgan.data.breakhis.breakhis_dataset_builder import Builder as Breakhis
from bcgan.data.histology_phantom import histology_phantom_dataset_builder as phantom
from bcgan.data.idc.idc_dataset_builder import Builder as Idc
from bcgan.data.patient_folder.patient_folder_dataset_builder import Builder as PatientFolder

DUMMY = Path(__file__).parent / "dummy_data"


class IdcTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Idc
    EXAMPLE_DIR = DUMMY / "idc"
    SPLITS = {"train": 2, "validation": 2, "test": 2, "unlisted": 1}


class BreakhisTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Breakhis
    EXAMPLE_DIR = DUMMY / "breakhis"
    BUILDER_CONFIG_NAMES_TO_TEST = ["all", "40x"]
    SPLITS = {"train": 2}


class PatientFolderTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = PatientFolder
    EXAMPLE_DIR = DUMMY / "patient_folder"
    SPLITS = {"train": 2}


class PhantomTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = phantom.Builder
    EXAMPLE_DIR = DUMMY
    BUILDER_CONFIG_NAMES_TO_TEST = ["tiny"]
    SPLITS = {"train": 120}
    SKIP_CHECKSUMS = True  # nothing is downloaded
