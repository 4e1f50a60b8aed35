from bcgan import experiment, variation


def test_differences_are_written_as_overrides():
    base = experiment.load("phantom")
    overrides = ("gan.steps=7", "classify.seeds=[3,4]")
    assert variation.diff_configs(base, experiment.load("phantom", overrides, "/data")) == list(overrides)
    changed = experiment.load(
        "phantom", ("classify.models.resnet34.epochs=3",)
    )  # one override per setting, not one with JSON
    differences = variation.diff_configs(base, changed)
    assert "classify.models.resnet34.epochs=3" in differences
    assert experiment.load("phantom", differences) == changed


def test_changes_list_settings_that_differ_are_new_or_are_gone():
    before = {"gan": {"steps": 4, "loss": "a", "old": 1}, "data": {"size": 50}, "classes": None}
    after = {"gan": {"steps": 5, "loss": "a", "new": None}, "classes": None}
    assert variation.list_changes(before, after) == [
        "gan.steps=5", "gan.new=null", "gan.old is gone", "data.size is gone"
    ]  # fmt: skip
    assert variation.list_changes(before, before) == []
