"""Which stages that run on request are of the settings asked for."""

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
        ("classify.models.gan_resnet.learning_rate=0.1", {"ablation"}),  # of a level's network
        ("evaluate.tta_views=8", {"ablation", "cross_validation", "learning_curve"}),
        ("gan.steps=7", set()),
        ("gan.latent_std=2", {"learning_curve"}),
        ("features.nuclear_od_threshold=0.2", set()),
        ("features.quality_filter.steps=9", {"learning_curve"}),
    ],
)
def test_stages_of_trainings_of_their_own_depend_on_those_alone_and_the_report_knows(change, stale, tmp_path):
    shown = {"model": "resnet_table1", "variants": {"what joins": {"map": {"ablation.model": "gan_resnet"}}}}
    own = (f"ablation={json.dumps(shown)}", "cross_validation.models=[resnet_table1]")
    before, after = (experiment.load("phantom", (*own, *more)) for more in ((), (change,)))
    asked = [stage for stage in stages.STAGES if stage.trained_models]
    found = {one.name for one in asked if stages.stage_settings(one, before) != stages.stage_settings(one, after)}
    assert found == stale
    for one in asked:
        (tmp_path / one.name).mkdir()
        manifest = {"settings": stages.stage_settings(one, before), "inputs": {}, "outputs": {}}
        runs.write_json(tmp_path / one.name / "found.json", "found")
        for version in (__version__, "0.0.9"):
            runs.write_json(tmp_path / one.name / artifacts.MANIFEST, manifest | {"version": version})
            kept = run_files.read_optional_stage(after, tmp_path, one.name, "found.json")
            assert kept == (None if one.name in stale or version == "0.0.9" else "found")
