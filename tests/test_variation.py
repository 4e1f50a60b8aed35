from bcgan import experiment, variation


def test_differences_are_written_as_overrides():
    one = experiment.load("phantom")
    overrides = ("gan.steps=7", "classify.seeds=[3,4]")
    assert variation.diff_configs(one, experiment.load("phantom", overrides, "/data")) == list(overrides)
    more = experiment.load("phantom", ("classify.models.resnet34.epochs=3",))  # as each of its settings, not as JSON
    found = variation.diff_configs(one, more)
    assert "classify.models.resnet34.epochs=3" in found
    assert experiment.load("phantom", found) == more
