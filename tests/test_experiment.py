import pytest

from bcgan import experiment
from bcgan.errors import InputError


def test_every_shipped_experiment_loads():
    names = experiment.available()
    assert "phantom" in names
    assert "idc" in names
    for name in names:
        assert experiment.load(name).name == name


def test_overrides_and_data_dir():
    settings = experiment.load("idc", ("gan.steps=7", "classify.seeds=[3, 4]"), "/one:/two")
    assert settings.gan.steps == 7
    assert settings.classify.seeds == (3, 4)
    assert [str(place) for place in settings.data.dir] == ["/one", "/two"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("gan.stepz=5", ["gan.stepz", "5", "steps"]),
        ("classify.models.resnet_table1.epoch=5", ["epoch", "epochs"]),
        ("gan.steps=many", ["gan.steps", "many"]),
        ("classify.models.vgg={}", ["vgg", "gan_resnet"]),
        ("data.fold=9", ["fold", "9"]),
        ("steps", ["steps", "key.subkey=value"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_remedy(override, words):
    with pytest.raises(InputError) as error:
        experiment.load("phantom", (override,))
    for word in words:
        assert word in str(error.value)


def test_an_unknown_experiment_lists_the_known_ones():
    with pytest.raises(InputError, match="phantom"):
        experiment.load("nowhere")


def test_official_lists_need_a_data_set_that_has_them():
    with pytest.raises(InputError, match=r"data\.lists"):
        experiment.load("phantom", ("data.protocol=official",))
