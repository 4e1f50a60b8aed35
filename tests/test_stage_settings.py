"""Optional stages (such as the ablation) become stale when settings that they read change."""

import json

import pytest

from bcgan import __version__, artifacts, experiment, runs, stages
from bcgan.report import run_files


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ("classify.models.cnn.epochs=9", set()),
        ("classify.seeds=[5]", set()),
        ("classify.models.resnet_table1.seeds=[5]", set()),
        ("evaluate.num_explained_patches=0", set()),
        ("classify.loss=focal", {"ablation", "cross_validation"}),
        ("classify.models.resnet_table1.learning_rate=0.1", {"ablation", "cross_validation"}),
        ("classify.models.gan_resnet.learning_rate=0.1", {"ablation"}),  # the network of a variant
        ("evaluate.tta_views=8", {"ablation", "cross_validation", "learning_curve"}),
        ("gan.steps=7", set()),
        ("gan.latent_std=2", {"learning_curve"}),
        ("features.nuclear_od_threshold=0.2", set()),
        ("features.quality_filter.steps=9", {"learning_curve"}),
    ],
)
def test_optional_stages_depend_on_their_own_settings_and_the_report_skips_stale_ones(change, stale, tmp_path):
    ablation = {"model": "resnet_table1", "variants": {"what joins": {"map": {"ablation.model": "gan_resnet"}}}}
    base_overrides = (f"ablation={json.dumps(ablation)}", "cross_validation.models=[resnet_table1]")
    before, after = (experiment.load("phantom", (*base_overrides, *overrides)) for overrides in ((), (change,)))
    optional_stages = [stage for stage in stages.STAGES if stage.trained_models]
    changed_stages = {
        stage.name
        for stage in optional_stages
        if stages.stage_settings(stage, before) != stages.stage_settings(stage, after)
    }
    assert changed_stages == stale
    for stage in optional_stages:
        (tmp_path / stage.name).mkdir()
        manifest = {"settings": stages.stage_settings(stage, before), "inputs": {}, "outputs": {}}
        runs.write_json(tmp_path / stage.name / "found.json", "found")
        present = {"version": __version__, "definition": artifacts.DEFINITIONS[stage.name]}
        for code in (present, present | {"version": "0.0.9"}, present | {"definition": None}):
            runs.write_json(tmp_path / stage.name / artifacts.MANIFEST, manifest | code)
            content = run_files.read_optional_stage(after, tmp_path, stage.name, "found.json")
            assert content == ("found" if stage.name not in stale and code == present else None)


@pytest.mark.parametrize(
    ("overrides", "is_stale"),
    [(("pretrain.weights=shipped",), True), (("pretrain.weights=none", "pretrain.steps=2"), False)],
)
def test_other_weights_in_the_package_make_the_stage_that_copies_them_stale(overrides, is_stale, tmp_path, monkeypatch):
    stage, loaded = stages.STAGES[stages.NAMES.index("pretrain")], experiment.load("idc", overrides)
    key_before = stages.stage_key(stage, loaded, tmp_path)[0]
    for name in ("simclr.keras", "pretraining_patients.json"):
        (tmp_path / name).write_bytes(b"of a later version")
    monkeypatch.setattr(stages, "SHIPPED_SIMCLR", tmp_path)
    assert (stages.stage_key(stage, loaded, tmp_path)[0] != key_before) == is_stale
