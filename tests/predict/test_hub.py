"""The folder for a model hub has metadata that hubs read, and is a model of bcgan itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import bcgan
from bcgan import cli
from bcgan.errors import InputError
from bcgan.predict import hub
from bcgan.predict.formats import FORMAT_FILES
from bcgan.slides.patches import read_patch
from tests.predict.conftest import command


def test_the_folder_is_a_model_with_metadata_and_an_example(model, patches, tmp_path):
    out = hub.write(model, tmp_path, "Apache-2.0")
    assert out == tmp_path / FORMAT_FILES["hub"]
    head = yaml.safe_load((out / "README.md").read_text("utf-8").split("---")[1])
    assert head["license"] == "apache-2.0"
    assert head["pipeline_tag"] == "image-classification"
    test = next(result for result in head["model-index"][0]["results"] if result["dataset"]["split"] == "test")
    values = {metric["type"]: metric["value"] for metric in test["metrics"]}
    assert values["roc_auc"] == pytest.approx(model.card.metrics["test"]["roc_auc"]["value"], abs=1e-4)
    copy = bcgan.load(str(out))
    np.testing.assert_array_equal(copy.predict(patches[:3]).probability, model.predict(patches[:3]).probability)
    assert read_patch(out / hub.EXAMPLE, model.scale).shape == (50, 50, 3)
    assert command(out / hub.EXAMPLE, "--model", out) in (0, 3)  # the command of README.md; 3: the patch is refused
    text = (out / "README.md").read_text("utf-8")
    assert "A patch is benign up to" in text and " and malignant from " in text
    assert all(f"| {group} |" in text for group in model.card.metrics)
    # The metrics are at one threshold each, without a range that has no label.
    limits = (model.card.thresholds, model.card.spatial_context_thresholds)
    alone, among = (f"{limit.limits[1]:.4f}" for limit in limits)
    words = f"called malignant from {alone} on, with neighbouring patches from {among} on, also in the range without"
    assert words in " ".join(text.split())


def test_figures_of_other_networks_are_not_given_as_those_of_the_files(model, tmp_path):
    """The classifier that comes with bcgan was trained on the held-out patients of its figures too."""
    for classifier, is_trained_on_all in ((model, False), (bcgan.load(), True)):
        names = [result["dataset"]["name"] for result in hub.metadata(classifier, "MIT")["model-index"][0]["results"]]
        assert [name.endswith("by earlier networks that had not seen them") for name in names] == [
            is_trained_on_all
        ] * len(names)
        text = hub._readme(classifier, "MIT")
        assert ("these files were trained on them too" in text, "were not trained on them" in text) == (
            is_trained_on_all, not is_trained_on_all,
        )  # fmt: skip


def test_it_is_written_again_but_other_files_stay(model, tmp_path):
    out = hub.write(model, tmp_path, "MIT")
    (out / "README.md").write_text("")
    hub.write(model, tmp_path, "MIT")
    assert "license: mit" in (out / "README.md").read_text("utf-8")
    (out / "thesis.docx").write_text("x")
    with pytest.raises(InputError, match=r"thesis\.docx"):
        hub.write(model, tmp_path, "MIT")
    assert (out / "thesis.docx").exists()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("https://example.org/terms", {"license": "other", "license_link": "https://example.org/terms"}),
        ("Terms of our hospital", {"license": "other", "license_name": "Terms of our hospital"}),
        ("Proprietary", {"license": "other", "license_name": "Proprietary"}),
    ],
)
def test_licences_are_stated_as_hubs_know_them(name, fields):
    assert hub.license_fields(name) == fields


def test_without_a_licence_nothing_is_written(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", "--model", "shipped", "--format", "hub", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "--license" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_classifier_in_another_format_is_refused(model, tmp_path):
    foreign = SimpleNamespace(
        card=model.card.model_copy(update={"sha256": {"torchscript_model.pt": "x"}}), folder="zoo"
    )
    with pytest.raises(InputError, match="bcgan export"):
        hub.write(foreign, tmp_path, "MIT")
    assert not (tmp_path / "hub").exists()
