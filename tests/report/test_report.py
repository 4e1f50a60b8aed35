"""The report of a small run: its files, null for unknown values, no patients' tissue where it is not allowed."""

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bcgan import artifacts, cli, experiment
from bcgan.evaluate import metrics, synthetic
from bcgan.gan import watch
from bcgan.report import alerts, cards, page, style
from bcgan.report.gan_tables import GAN_NAMES
from bcgan.report.run import Run
from bcgan.report.run_files import read
from bcgan.report.style import CLASSIFIER_NAMES
from bcgan.settings import Classifier
from tests.conftest import draw_coarsely

FIGURES = (
    "fig01_examples", "fig03_system_architecture", "fig04_gan", "fig05_resnet_features", "fig06_integration",
    "embedding", "fig07_count_plot", "fig08_image_properties", "fig09_density", "fig10_accuracy_loss",
    "fig11_convergence", "gan_samples", "gan_evolution", "gan_scores", "confusion_matrix", "roc",
    "precision_recall", "reliability", "per_patient", "latent_walk", "attribute_sweep", "steering", "translations",
    "counterfactuals", "probes", "decision_curve", "comparisons", "slide_maps", "explanations", "explanation_tests",
    "stain_variation", "nearest", "repetition", "feature_maps", "patient_shares", "patient_balance", "forest",
    "slide_overview", "patient_flow",
)  # fmt: skip
TABLES = (
    "table1_resnet_summary", "table2_comparison", "leak_audit", "audit", "counts", "results_test", "quality_filter",
    "comparisons_summary", "operating_points", "split_optimism", "largest_errors", "model_card", "data_card", "claim",
    "patients",
)  # fmt: skip
NETWORK_FIGURES = ("fig03_system_architecture", "fig04_gan", "fig05_resnet_features", "fig06_integration")
OF_TISSUE = {  # figures that show patients' tissue where they may
    "fig01_examples", "fig09_density", "gan_samples", "nearest", "translations", "slide_maps", "explanations",
    "feature_maps",
}  # fmt: skip
# Leave out the explanations and linear probes of `evaluate`, which take a minute.
WITHOUT_SLOW_PARTS = ("--set", "evaluate.num_explained_patches=0", "--set", "evaluate.probe_seeds=[]")
PROTOCOL = "whole patients by k-fold, fold 0 of 4"


def render(folder, *options):
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", "tiny.yaml", *options])
    assert stop.value.code == 0
    return folder / "reports/tiny"


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    work = shutil.copytree(finished, tmp_path_factory.mktemp("report") / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        draw_coarsely(patch)
        return render(work, "--no-patient-images")


@pytest.fixture(scope="module")
def imageless_run(finished) -> Run:
    """The finished run, read for a report without patients' images."""
    return read(experiment.load(str(finished / "tiny.yaml")), finished / "runs/tiny", False)


def test_every_figure_and_table_is_written(report):
    for name in FIGURES:
        for path in (f"figures/{name}.png", f"figures/{name}.svg"):
            assert (report / path).stat().st_size > 1000
        assert len((report / f"tables/{name}.csv").read_text().splitlines()) > 1
    for name in TABLES:
        assert (report / f"tables/{name}.csv").stat().st_size > 50


def test_the_page_is_small_and_self_contained_and_its_links_work(report):
    page = (report / "report.html").read_text()
    assert len(page) < 2_500_000
    assert not re.search(r'(src|href)="https?:', page)
    assert page.count('<svg role="img"') == len(FIGURES)
    for name in re.findall(r'data-file="([^"]+)"', page):
        assert (report / "tables" / name).exists()
    assert not re.search(r'href="(tables|figures)/', page)  # the page may be mailed alone
    for anchor in re.findall(r'href="#([\w-]+)"', page):
        assert page.count(f'id="{anchor}"') == 1, anchor
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    for words in (
        "Research use only",
        "What this does not show",
        "Limitations and warnings",
        "make train EXPERIMENT=tiny",
    ):
        assert words in page
    assert "{{" not in page


def test_every_figure_of_data_names_the_protocol(report):
    """The first screen names it too."""
    page = (report / "report.html").read_text()
    assert PROTOCOL in page.partition("<section")[0]
    captions = re.findall(r'<figure id="(\w+)".*?<figcaption>(.*?)</figcaption>', page, re.S)
    assert len(captions) == len(FIGURES)
    for name, text in captions:
        assert (f"Protocol: {PROTOCOL}." in text) == (name not in NETWORK_FIGURES), name


def test_the_markdown_has_the_facts_of_the_page(report):
    page, text = (report / "report.html").read_text(), (report / "report.md").read_text()
    for name in TABLES:
        table = pd.read_csv(report / f"tables/{name}.csv", dtype=str, keep_default_na=False)
        assert f"](tables/{name}.csv)" in text and f'data-file="{name}.csv"' in page
        for column in table:
            assert f" {column} |" in text, (name, column)
        for cell in table.iloc[-1]:
            assert f" {cell} |" in text, (name, cell)
    for name in FIGURES:
        assert f"](figures/{name}.png)" in text and f"](tables/{name}.csv)" in text
    provenance = page.partition('id="provenance"')[2]
    for facts in (re.findall(r"<li>(.*?)</li>", page), re.findall(r"<dd>(.*?)</dd>", provenance)):
        assert len(facts) > 3
        for fact in map(html.unescape, facts):
            assert fact in text
    assert "\n    make train EXPERIMENT=tiny DATA_DIR=...\n    bcgan report tiny --no-patient-images\n" in text
    headings = re.findall(r"<h2 id=[^>]*>(.*?) *<a", page)
    assert [
        line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ") and line[3:] in headings
    ] == [heading for heading in headings if f"\n## {heading}\n" in text]
    assert {"Compare", "Threshold", "Slides", "Patients", "GAN", "Data", "Limits", "Appendix"} <= set(headings)


def test_results_have_their_documented_keys(report):
    results = json.loads((report / "results.json").read_text())
    assert set(results) >= {"schema", "experiment", "protocol", "table1", "classifiers", "gan", "leak_audit", "seconds"}
    assert results["table1"]["parameters"] == 308_323
    assert set(results["protocol"]["roles"]) == {"train", "validation", "test"}
    for name in ("gan_resnet", "gan_only"):
        for metric in metrics.NAMES:
            assert set(results["classifiers"][name]["test"][metric]) == {"value", "low", "high", "seeds"}
        assert set(results["classifiers"][name]["calibration"]["0"]) == {"temperature", "shift"}
    for name in (name for name in GAN_NAMES if "inception" not in name):  # they need a file of the user's
        assert set(results["gan"][name]) >= {"value", "floor", "ceiling", "samples"}
    assert results["gan"]["tstr_roc_auc"]["samples"] == 20


def test_unknown_scores_are_null_and_settings_are_those_of_the_run(finished, tmp_path, monkeypatch, undrawn):
    """Without the package of ImageNet weights their score is null. The report has the settings of the run, which may
    differ from those of the file."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(synthetic, "has_weights", lambda variant: False)
    with pytest.raises(SystemExit):
        cli.main(["run", "tiny.yaml", "--set", "evaluate.tta_views=1", *WITHOUT_SLOW_PARTS])
    folder = render(tmp_path / "work")
    page = (folder / "report.html").read_text()
    assert "evaluate.tta_views=1" in page and "views of each patch are averaged" not in page
    results = json.loads((folder / "results.json").read_text())
    assert {results["gan"]["kid_efficientnet_lite2"][key] for key in ("value", "floor", "ceiling")} == {None}
    assert results["gan"]["kid"]["value"] is not None


def test_without_patient_images_only_synthetic_patches_are_shown(report):
    for name in ("fig01_examples", "gan_samples"):
        ids = (report / f"tables/{name}.csv").read_text().splitlines()[1:]
        assert ids
        assert all("synthetic" in line for line in ids)
    assert "No images of patients" in (report / "report.html").read_text()


def test_with_patient_images_real_patches_are_shown(report, report_in_full):
    assert "_class1" in (report_in_full / "tables/fig01_examples.csv").read_text()
    assert (report_in_full / "figures/error_gallery.png").exists()
    assert not (report / "figures/error_gallery.png").exists()
    assert "No images of patients" not in (report_in_full / "report.html").read_text()


def test_the_same_run_renders_the_same_bytes(imageless_run, report, report_in_full, tmp_path, monkeypatch):
    """As in the report with patients' tissue; figures with tissue, which differ there, are rendered twice."""
    draw_coarsely(monkeypatch)
    tables, figures = [*report.rglob("*.csv")], [*report.rglob("*.svg")]
    for path in tables + figures:
        if path.stem not in OF_TISSUE:
            assert (report_in_full / path.relative_to(report)).read_bytes() == path.read_bytes(), path.name
    for drawn in page._select_figures(imageless_run).values():
        for name in OF_TISSUE & drawn.keys():
            style.save(drawn[name](imageless_run), tmp_path, name)
            for file in (f"figures/{name}.svg", f"tables/{name}.csv"):
                assert (tmp_path / file).read_bytes() == (report / file).read_bytes(), file


def test_the_patients_of_the_figure_are_those_of_the_probabilities(finished, report):
    shares = pd.read_csv(report / "tables/patient_shares.csv", dtype={"patient": str}).set_index("patient")
    scored = pd.read_csv(finished / "runs/tiny/evaluate/probabilities.csv", dtype={"patient": str})
    test = scored[scored["role"] == "test"].groupby("patient")["label"].agg(["mean", "size"])
    np.testing.assert_allclose(shares["annotated"], test["mean"])
    assert (shares["patches"] == test["size"]).all()
    assert shares["estimated"].between(0, 1).all()


def test_the_part_of_the_archive_that_was_read_is_stated(imageless_run):
    sentence = "80 of the public archive's 277,524 patches were read, of 8 of its 279 patients"
    for texts in (
        alerts.list_alerts(imageless_run),
        alerts.list_limitations(imageless_run),
        cards.data_card(imageless_run)["Answer"],
    ):
        assert sum(sentence in text for text in texts) == 1
    complete = imageless_run._replace(audit=imageless_run.audit | {"patches": 277_524})
    other_settings = imageless_run.experiment.data.replace(name="patient_folder")
    other_data = imageless_run._replace(experiment=imageless_run.experiment.replace(data=other_settings))
    for run in (complete, other_data):
        assert not any("archive" in text for text in (*alerts.list_alerts(run), *alerts.list_limitations(run)))


def test_a_mode_collapse_is_stated(imageless_run):
    lines = [{"spread": 0.1, "real_recognised": 0.6, "fake_recognised": 0.6}] * watch.WINDOW
    for spread, count in ((0.1, 1), (0.9, 0)):
        log = pd.DataFrame([line | {"spread": spread} for line in lines])
        assert sum("collapse" in text for text in alerts.list_alerts(imageless_run._replace(gan_log=log))) == count


@pytest.mark.parametrize(
    ("values", "statements"),
    [
        (
            (0.03, 0.03),
            [
                "trained on such patches, synthetic patches are on average farther ",
                "Lite2 on ImageNet, synthetic patches are on average farther ",
            ],
        ),
        (
            (0.02, 0.03),
            [
                "trained on such patches, synthetic patches are on average no farther ",
                "Lite2 on ImageNet, synthetic patches are on average farther ",
            ],
        ),
        (
            (0.01, 0.01),
            [
                "trained on such patches, synthetic patches are on average no farther ",
                "Lite2 on ImageNet, synthetic patches are on average no farther ",
            ],
        ),
        (
            (0.01, None),
            ["no farther from training patches than other patients' patches are (KID 0.010, other patients' 0.020)"],
        ),
        ((None, None), ["were not scored"]),
    ],
)
def test_whether_synthetic_patches_are_farther_than_other_patients_is_stated(imageless_run, values, statements):
    scored = zip(("kid", "kid_efficientnet_lite2"), values, strict=True)
    scores = imageless_run.gan_scores | {
        name: imageless_run.gan_scores[name] | {"value": value, "floor": 0.02} for name, value in scored
    }
    (text,) = (
        alert
        for alert in alerts.list_alerts(imageless_run._replace(gan_scores=scores))
        if "KID" in alert or "scored" in alert
    )
    assert all(words in text for words in statements)
    assert text.count("KID") == sum(value is not None for value in values)


def test_classifiers_trained_on_unlisted_patients_are_named_and_their_ensembles_too(imageless_run):
    """The weights may be trained on other patients than those of this run, such as the ones that come with bcgan."""
    index = imageless_run.store.index
    unlisted = index.assign(role=index["role"].where(index["patient"] != index["patient"].iloc[0], "unlisted_other"))

    def trained_on_unlisted(index, patients):
        settings = {
            "classify": imageless_run.experiment.classify.replace(models={"efficientnet_lite0_simclr": Classifier()}),
            "evaluate": imageless_run.experiment.evaluate.replace(ensemble_models=("efficientnet_lite0_simclr",)),
        }
        names = ("efficientnet_lite0_simclr", "resnet_table1", "ensemble", "ensemble_spatial_context")
        return imageless_run._replace(
            experiment=imageless_run.experiment.model_copy(update=settings), metrics=dict.fromkeys(names, {}),
            store=imageless_run.store._replace(index=index), pretraining_patients={"patients": patients},
        ).trained_on_unlisted()  # fmt: skip

    met = [index["patient"].iloc[0], "of another hospital"]
    assert trained_on_unlisted(unlisted, met) == ["efficientnet_lite0_simclr", "ensemble", "ensemble_spatial_context"]
    assert trained_on_unlisted(unlisted, ["of another hospital"]) == []
    assert trained_on_unlisted(index, met) == []


@pytest.mark.parametrize(
    ("policy", "settings", "text"),
    [
        ("official", {}, "official patient lists"),
        ("extended", {}, "official patient lists, other patients join training"),
        ("official", {"split_dir": Path("lists")}, "patient lists of data.split_dir"),
        ("kfold", {}, "whole patients by k-fold"),
        ("official", {"name": "patch_camelyon"}, "the data set's own split"),
        ("kfold", {"name": "patch_camelyon"}, "patches, whose patients are unknown"),
    ],
)
def test_the_protocol_says_whose_lists_split_the_patients(imageless_run, policy, settings, text):
    settings = imageless_run.experiment.data.model_copy(update=settings)
    changed = imageless_run.experiment.model_copy(update={"data": settings})
    assert imageless_run._replace(experiment=changed, split={"policy": policy}).protocol_text() == text


def test_classifiers_that_are_fitted_once_are_named(imageless_run):
    assert imageless_run.single_fit_note().startswith("Each network was trained once:")
    settings = imageless_run.experiment.classify.replace(seeds=(0, 1))
    scored = imageless_run.probabilities
    second_seeds = {f"{name}-seed1": scored[f"{name}-seed0"] for name in imageless_run.trained_names}
    run = imageless_run._replace(
        experiment=imageless_run.experiment.replace(classify=settings), probabilities=scored.assign(**second_seeds)
    )
    assert "Over patients alone: Colour and texture, Ensemble with neighbours;" in run.single_fit_note()


def test_a_classifier_with_fewer_trainings_is_named_where_trainings_are_counted(imageless_run):
    scored = imageless_run.probabilities
    *trained_twice, trained_once = imageless_run.trained_names
    second_seeds = {f"{name}-seed1": scored[f"{name}-seed0"] for name in trained_twice}
    run = imageless_run._replace(probabilities=scored.assign(**second_seeds))
    title = CLASSIFIER_NAMES[trained_once]
    assert run.seeds_text() == f"2 seeds (1: {title})"
    assert run.bootstrap_note() == "a bootstrap of patients, widened by what trainings vary"
    assert title in run.single_fit_note()
    assert imageless_run.seeds_text() == "1 seed"


def test_the_hash_of_the_data_depends_on_pixels_and_not_on_paths(imageless_run, report):
    index = imageless_run.store.index
    moved = index.assign(path="elsewhere/" + index["path"]).iloc[::-1]
    changed = index.assign(pixels=["0" * 64, *index["pixels"][1:]])
    hashes = [
        imageless_run._replace(store=imageless_run.store._replace(index=rows)).data_sha256()
        for rows in (index, moved, changed)
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] in (report / "report.html").read_text()
    assert json.loads((report / "results.json").read_text())["protocol"]["data_sha256"] == hashes[0]


def test_the_page_on_the_paper_is_linked_where_it_exists_next_to_the_reports(
    finished, report, tmp_path, monkeypatch, undrawn
):
    assert 'docs/explanation/paper.md"' not in (report / "report.html").read_text()
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work/docs/explanation").mkdir(parents=True)
    (tmp_path / "work/docs/explanation/paper.md").write_text("The paper")
    rendered = render(tmp_path / "work")
    links = re.findall(r'href="([^"]+paper.md)"', (rendered / "report.html").read_text())
    links += re.findall(r"\]\(([^)]+paper.md)\)", (rendered / "report.md").read_text())
    assert len(links) == 2
    assert all((rendered / link).read_text() == "The paper" for link in links)


def test_an_unfinished_stage_has_no_manifest_in_the_report(finished, imageless_run, tmp_path):
    root = shutil.copytree(finished / "runs/tiny", tmp_path / "tiny")
    shutil.copytree(root / "gan", artifacts.partial_folder(root / "gan"))
    assert read(imageless_run.experiment, root, False).manifests == imageless_run.manifests


def test_tables_print_the_papers_totals(capsys):
    with pytest.raises(SystemExit):
        cli.main(["tables"])
    printed = capsys.readouterr().out
    assert "parameters: 308,323 (the paper: 308,323)" in printed
    assert "11 of the 11 listed rows agree" in printed


def test_doctor_gives_the_reason_for_the_precision(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "phantom", "--set", "precision=float32"])
    assert stop.value.code == 0
    assert "precision: float32 (the experiment says so)" in capsys.readouterr().out
