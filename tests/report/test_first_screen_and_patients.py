"""The figures of the first screen and of the patients against the run's tables."""

import re

import numpy as np
import pandas as pd
import pytest

from bcgan.report import overview_figures, patient_figures, style


def test_every_test_patient_has_a_cell_a_classifier(run, test_rows):
    axes = patient_figures.per_patient(run).figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        style.SHORT_NAMES[name] for name in run.classifier_names
    ]
    patients = [label.get_text() for label in axes.get_xticklabels()]
    assert sorted(patients) == sorted(test_rows["patient"].unique())
    cells = np.asarray(axes.collections[0].get_array()).reshape(len(run.classifier_names), -1)
    for row, name in zip(cells, run.classifier_names, strict=True):
        accuracies = run.patient_accuracies(name)
        np.testing.assert_allclose(row, [accuracies[patient] for patient in patients])
    assert (np.diff(cells[0]) <= 1e-12).all()  # the proposed classifier's best patient first


def test_limits_of_agreement_are_bland_and_altmans():
    table = pd.DataFrame({"annotated": [0.1, 0.5, 0.9], "estimated": [0.2, 0.5, 0.7]})
    low, high = patient_figures._limits_of_agreement(table)
    differences = np.array([0.1, 0.0, -0.2])
    assert (low + high) / 2 == pytest.approx(differences.mean())
    assert high - low == pytest.approx(2 * 1.96 * differences.std(ddof=1))


def test_a_patients_name_is_not_read_as_a_formula(run):
    """Matplotlib reads text between dollar signs as a formula, and raises if it is none."""
    named = run.probabilities.assign(patient=run.probabilities["patient"].map(lambda name: f"p$\\frac{name}$"))
    drawn = patient_figures.per_patient(run._replace(probabilities=named))
    drawn.figure.canvas.draw()


def test_the_forest_has_every_classifier_the_best_on_top(run):
    drawn = overview_figures.forest(run)
    names = [text.get_text() for text in drawn.figure.axes[0].texts]
    values = [float(text) for text in names if re.fullmatch(r"0\.\d{3}|1\.000", text)]
    assert values == sorted(values) and len(values) == len(run.classifier_names)  # drawn from below
    measured = {name: run.metrics[name]["sets"]["test"]["roc_auc"]["value"] for name in run.classifier_names}
    drawn_values = drawn.numbers[drawn.numbers["role"] == "test"].set_index("classifier")["value"]
    assert drawn_values.to_dict() == measured


def test_the_flow_has_every_patient_and_patch_once(run):
    table = overview_figures.patient_flow(run).numbers
    numbers, index = table.pivot_table(index="role", columns="unit", values="count"), run.store.index
    assert numbers["patients"].sum() == index["patient"].nunique()
    assert numbers["patches"].sum() == len(index)
