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
    settings = experiment.load("idc", ("gan.batch=7", "classify.seeds=[3, 4]"), "/one:/two")
    assert settings.gan.batch == 7
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
        ("classify.seeds=[0,", ["classify.seeds", "without spaces"]),
        ("classify.seeds=[1,1]", ["names a seed twice"]),
        ("classify.seeds=[-1]", ["classify.seeds.0", "-1"]),
        ("classify.models.gan_resnet.tuned=true", ["tuned", "beside is none"]),
        ("gan.late=800", ["late: 800", "steps: 800"]),
        ("name.seed=5", ["name.seed=5", "no settings of its own"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_remedy(override, words):
    with pytest.raises(InputError) as error:
        experiment.load("phantom", (override,))
    for word in words:
        assert word in str(error.value)


def test_a_critic_that_is_not_trained_cannot_join():
    with pytest.raises(InputError, match="beside: critic, but gan.critic is 0"):
        experiment.load("phantom", ("gan.critic=0", "classify.models.gan_resnet.beside=critic"))


def test_an_unknown_experiment_lists_the_known_ones():
    with pytest.raises(InputError, match="phantom"):
        experiment.load("nowhere")


def test_official_lists_need_a_data_set_that_has_them():
    with pytest.raises(InputError, match=r"data\.lists"):
        experiment.load("phantom", ("data.protocol=official",))


def test_switches_and_single_places_are_taken_as_people_write_them(tmp_path):
    settings = experiment.load("phantom", ("xla=on", "data.dir=~/patches"))
    assert settings.xla == "on"
    assert settings.data.dir[0].is_absolute()


def test_yaml_cannot_run_code(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: evil\ndata: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    with pytest.raises(InputError, match=r"evil.yaml is not valid YAML"):
        experiment.load(str(path))
    with pytest.raises(InputError):
        experiment.load("phantom", [f"seed=!!python/object/apply:os.mkdir ['{tmp_path / 'made'}']"])
    assert not (tmp_path / "made").exists()


def test_a_copied_experiment_must_be_renamed(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: idc\ndata: {name: idc}\n")
    with pytest.raises(InputError, match="Name it 'mine'"):
        experiment.load(str(tmp_path / "mine.yaml"))
