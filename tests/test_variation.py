from bcgan import experiment, variation


def test_differences_are_written_as_overrides():
    one = experiment.load("phantom")
    overrides = ("gan.steps=7", "classify.seeds=[3,4]")
    assert variation.diff_configs(one, experiment.load("phantom", overrides, "/data")) == list(overrides)
    more = experiment.load("phantom", ("classify.models.resnet34.epochs=3",))  # as each of its settings, not as JSON
    found = variation.diff_configs(one, more)
    assert "classify.models.resnet34.epochs=3" in found
    assert experiment.load("phantom", found) == more


def test_changes_name_every_setting_that_is_other_new_or_gone():
    before = {"gan": {"steps": 4, "loss": "a", "old": 1}, "data": {"size": 50}, "classes": None}
    after = {"gan": {"steps": 5, "loss": "a", "new": None}, "classes": None}
    assert variation.list_changes(before, after) == [
        "gan.steps=5", "gan.new=null", "gan.old is gone", "data.size is gone"
    ]  # fmt: skip
    assert variation.list_changes(before, before) == []
