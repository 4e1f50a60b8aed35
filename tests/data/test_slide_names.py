"""The slide of a patch is the same however its files are named, and never that of another patient."""

import numpy as np
import pandas as pd
import pytest

from bcgan import data
from bcgan.data.records import UNKNOWN
from bcgan.data.slide_names import name_image, name_slide, slide_names, slide_titles
from bcgan.evaluate import borders, derived
from bcgan.preprocess import checks
from bcgan.settings import Data
from bcgan.slides.coordinates import NAMED
from tests.conftest import write_png

CLASSES = (("benign", ("normal",)), ("malignant", ("tumor", "Car cinoma")))
SIDE, PATIENTS = 6, 6
PATTERNS = (  # of the files of one slide a patient; label is 0 or 1, name a class's name
    "{patient}/{label}/s_x{x}_y{y}_class{label}.png", "{patient}/{name}/s_x{x}_y{y}.png", "{patient}/s_x{x}_y{y}.png",
    "{name}/{patient}/s_x{x}_y{y}.tif", "{patient}/{number:03d}.png", "s_x{x}_y{y}_{patient}.jpg",
    "{name}_{number}_{patient}.png", "{patient}/s_{x}_{y}.png", "{patient}/s [d=2,x={x},y={y},w=100,h=100].ome.tif",
    "{patient}/{name}_{number}_7.png", "a/b/{patient}/{label}/s_tile_1_level0_{x}-{y}-9-9.png",
)  # fmt: skip


@pytest.mark.parametrize(
    ("key", "slide"),
    [
        ("10253_idx5_x51_y101_class0", "10253/10253_idx5"), ("10253_idx6_x51_y101_class0", "10253/10253_idx6"),
        ("P1/0/s_x51_y101.png", "10253/P1/s"), ("P1/TU MOR/s_x51_y101_class1.ome.tif", "10253/P1/s"),
        ("carcinoma/P1/b/s_x51_y101.png", "10253/P1/b/s"), ("a.zip!P1/normal/s_51_101.png", "10253/a.zip/P1/s"),
        ("s_51_102.png", "10253"), ("7.png", "10253"), ("P1/7.png", "10253/P1"), ("tumor_3_4.png", "10253"),
        ("P1/Tumor/b/7.png", "10253/P1/b"), ("a.zip!b/benign/3_4_5.png", "10253/a.zip/b"),
        ("s [d=2.5,x=640,y=1280,w=9,h=9,z=1].png", "10253/s,z=1 1 in 2.5"),
        ("s_tile_1_level0_51-101-9-9.png", "10253/s"),
    ],
)  # fmt: skip
def test_a_slide_is_named_by_its_patient_its_folders_and_the_file(key, slide):
    assert name_slide(key, "10253", (51, 101), CLASSES) == slide


def test_a_patch_of_unknown_place_is_a_slide_of_its_own_unless_its_name_states_one():
    assert name_slide("P1/0/7.png", "P1", (UNKNOWN, UNKNOWN), ()) == "P1/P1/0/7.png"
    assert name_slide("P1/0/s_x7_y8.png", "P1", (UNKNOWN, UNKNOWN), ()) == "P1/P1/s"


def test_no_two_patients_share_a_slide():
    """Whatever their names and those of the files are."""
    patients = ("a", "a/b", "a%2Fb", "a%", "1", "0", "")
    keys = ("b", "b/c_x1_y1.png", "c_x1_y1.png", "1/0/c_x1_y1.png", "a/b_x1_y1.png")
    by_patient = [{name_slide(key, name, (1, 1), ()) for key in keys} for name in patients]
    assert len(set().union(*by_patient)) == sum(map(len, by_patient))
    assert name_image("b/c", "a") != name_image("c", "a/b")


def test_titles_leave_out_the_patient_where_no_other_slide_has_them():
    slides = ["1/1_idx5", "2/2_idx5", "3/s", "4/s", "5", "1/1_idx5"]
    expected = {"1/1_idx5": "1_idx5", "2/2_idx5": "2_idx5", "3/s": "3/s", "4/s": "4/s", "5": "5"}
    assert slide_titles(slides) == expected


@pytest.mark.parametrize("pattern", ["P/{slide}/{number}.png", "{slide}/{label}/P/t_{number}_1.png"])
def test_slides_in_folders_are_those_that_names_would_state(pattern):
    """Two slides a patient, whose places are the same."""
    rows = [
        (pattern.format(slide=slide, number=number, label=number % 2), f"P/{slide}_x{x}_y{y}.png", x, y)
        for slide in "AB"
        for number, (x, y) in enumerate([(0, 0), (50, 0), (0, 50)])
    ]
    index = pd.DataFrame(rows, columns=["in_folders", "in_names", "x", "y"]).assign(patient="P")
    slides = [slide_names(index.assign(id=index[name], image=index[name]), ()) for name in ("in_folders", "in_names")]
    np.testing.assert_array_equal(*(pd.factorize(names)[0] for names in slides))
    assert len(set(slides[0])) == 2


@pytest.mark.parametrize("name", ["idc", "histology_phantom"])
def test_patches_of_the_archive_and_of_the_phantom_have_the_slides_that_their_keys_state(name, idc_folder):
    settings = Data(name=name, dir=idc_folder) if name == "idc" else Data(name=name)
    records = data.records(settings)
    index = pd.DataFrame(
        [(record.key, record.key, record.patient, record.x, record.y) for record in records],
        columns=["id", "image", "patient", "x", "y"],
    )
    slides = slide_names(index, ())
    by_key = [NAMED.fullmatch(record.key)["slide"] for record in records]
    titles = slide_titles(slides)
    assert [titles[slide] for slide in slides] == by_key and len(set(by_key)) > 5


def read_index(folder, pattern: str, labels: np.ndarray) -> pd.DataFrame:
    """Write a table of labels, x and y with images named by a pattern, and read it; rows are by patient, y and x."""
    rows = []
    for patient in range(PATIENTS):
        for number, label in enumerate(labels[patient].tolist()):
            y, x = (50 * position for position in divmod(number, SIDE))
            words = {"label": label, "name": ("normal", "Tumor")[label], "number": number, "x": x, "y": y}
            key = pattern.format(patient=f"P{patient}", **words)
            write_png(folder / "in" / key, np.zeros((2, 2, 3), np.uint8))
            rows.append((key, label, f"P{patient}", x, y))
    table = folder / "labels.csv"
    pd.DataFrame(rows, columns=["image", "label", "patient", "x", "y"]).to_csv(table, index=False)
    records = data.records(Data(name="patient_folder", dir=folder / "in", labels=table, classes=CLASSES))
    columns = ["id", "image", "patient", "label", "x", "y"]
    index = pd.DataFrame([(r.key, r.key, r.patient, r.label, r.x, r.y) for r in records], columns=columns)
    index["role"] = np.where(index["patient"] < "P3", "validation", "test")
    return index.sort_values(["patient", "y", "x"], ignore_index=True)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_neighbours_of_a_table_do_not_depend_on_the_names_of_its_files(tmp_path, pattern):
    """Context and borders are those of one slide a patient; labels are random, so that context tells nothing."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (PATIENTS, SIDE**2))
    index = read_index(tmp_path, pattern, labels)
    base = 1 / (1 + np.exp(-(index["label"].to_numpy() - 0.5 + rng.normal(size=len(index)))))
    plain = index.assign(id=[f"{row.patient}_x{row.x}_y{row.y}" for row in index.itertuples()])
    plain["image"] = plain["id"]
    refined, fitted = derived.refine_by_context(index, base, 50, CLASSES)
    expected, expected_fit = derived.refine_by_context(plain, base, 50, ())
    np.testing.assert_array_equal(refined, expected)
    assert fitted == expected_fit and max(map(abs, fitted.coefficients[1:])) > 0.01
    coords = index[["x", "y"]].to_numpy()
    at_border = [
        borders.find_border_patches(coords, index["label"].to_numpy(), slides, 50)
        for slides in (slide_names(index, CLASSES), index["patient"])
    ]
    np.testing.assert_array_equal(*at_border)


@pytest.mark.parametrize(
    ("pattern", "classes", "is_warned"),
    [
        ("{patient}/{name}/s_x{x}_y{y}.png", CLASSES, False), ("{patient}/s_x{x}_y{y}.png", (), False),
        ("{patient}/{name}/s_x{x}_y{y}.png", (), True), ("{name}/{patient}_x{x}_y{y}.png", (), True),
        ("{patient}/s_{name}_x{x}_y{y}.png", CLASSES, True), ("{patient}/{name}/s_{number}.png", (), True),
        ("{patient}/{name}/s_{number}.png", CLASSES, False), ("{patient}/s_{number}.png", (), False),
    ],
)  # fmt: skip
def test_names_that_state_a_class_unknown_to_the_settings_are_warned_of(tmp_path, caplog, pattern, classes, is_warned):
    """Their slides have one class each, so that neighbors would reveal it."""
    index = read_index(tmp_path, pattern, np.random.default_rng(0).integers(0, 2, (PATIENTS, SIDE**2)))
    caplog.clear()
    checks.warn_of_slides_of_one_class(index, Data(name="patient_folder", classes=classes))
    assert ("names state the class" in caplog.text) == is_warned
    if is_warned:
        assert f"but {PATIENTS} patients have" in caplog.text and "normal" in caplog.text and "Tumor" in caplog.text


@pytest.mark.parametrize("labels", [np.repeat([[0], [1]], [3, 3], 0), np.zeros((PATIENTS, 1), int)])
def test_patients_of_one_class_are_not_warned_of(tmp_path, caplog, labels):
    index = read_index(tmp_path, "{patient}/{name}/s_x{x}_y{y}.png", np.tile(labels, SIDE**2))
    caplog.clear()
    checks.warn_of_slides_of_one_class(index, Data(name="patient_folder"))
    assert not caplog.text
