"""A class cannot have a name that results use for something else: it would overwrite a column or a key."""

import pandas as pd
import pytest

import bcgan
from bcgan import experiment
from bcgan.classes import RESERVED_NAMES
from bcgan.errors import InputError
from bcgan.predict import assess, model, summary
from bcgan.predict.model import VERDICTS, Card
from bcgan.settings import Data
from tests.predict.test_foreign import make

SPELLINGS = [*RESERVED_NAMES, "Tissue", "NO_TISSUE"]


@pytest.mark.parametrize("name", SPELLINGS)
def test_reserved_names_are_refused_in_experiments_and_cards(name):
    words = f"{name!r} has another meaning in results; give the class another name"
    with pytest.raises(ValueError, match=f"classes: {words}"):
        Data(name="patient_folder", classes={"other": [], name: []})
    with pytest.raises(ValueError, match=words):
        Card.model_validate(bcgan.load().card.model_dump() | {"classes": ("other", name)})
    data = Data(name="patient_folder", classes={"other": [], "stroma": [name]})  # as a name in the data
    assert data.class_names == ("other", "stroma")


def test_reserved_names_of_a_network_in_wsinfers_format_are_refused():
    with pytest.raises(InputError, match=r"class_names: 'tissue' has another meaning .*config\.json"):
        make(("background", "tissue"))
    assert make(("background", "tumor", "no_tissue"), [0.1, 0.2, 0.7]).card.classes == ("background", "tumor")


def test_the_error_of_a_card_says_what_is_wrong_with_it(tmp_path):
    text = (model.SHIPPED / model.CARD).read_text("utf-8")
    for path in model.SHIPPED.iterdir():
        if path.name != model.CARD:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / model.CARD).write_text(text.replace('"malignant"', '"tissue"', 1), "utf-8")
    with pytest.raises(InputError, match=r"no card of a classifier \(.*'tissue' has another meaning in results"):
        bcgan.load(tmp_path)
    (tmp_path / model.CARD).write_text("{", "utf-8")
    with pytest.raises(InputError, match=r"no card of a classifier \(.*JSON"):
        bcgan.load(tmp_path)


def test_all_columns_and_keys_that_a_class_could_overwrite_are_reserved():
    card = bcgan.load().card.model_copy(update={"classes": ("a", "b")})
    columns = {name for name in summary.summary_columns({}, 1, card) if not name.startswith("b_")}
    ends = ("_mm2", "_fraction", "_fraction_low", "_fraction_high")
    stems = {name.removesuffix(end) for name in columns for end in ends if name.endswith(end)}
    keys = set(assess._metrics(experiment.load("phantom"), pd.DataFrame(columns=["label", "patient"]))) - {"malignant"}
    assert stems == {"tissue"} and "by_class" in keys
    assert stems | keys | set(VERDICTS) == set(RESERVED_NAMES)
