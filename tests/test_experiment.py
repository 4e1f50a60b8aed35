import pytest

from bcgan import experiment, experiment_files, renamed
from bcgan.errors import InputError
from bcgan.yaml_text import read_yaml
from tests.settings_tree import leaves


def test_every_shipped_experiment_loads():
    names = experiment_files.list_all()
    assert "phantom" in names
    assert "idc" in names
    for name in names:
        assert experiment.load(name).name == name


def test_overrides_and_data_dir():
    settings = experiment.load("idc", ("gan.batch_size=7", "classify.seeds=[3, 4]"), "/one:/two")
    assert settings.gan.batch_size == 7
    assert settings.classify.seeds == (3, 4)
    assert [str(place) for place in settings.data.dir] == ["/one", "/two"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("gan.stepz=5", ["gan.stepz", "5", "steps"]),
        ("classify.models.resnet_table1.epoch=5", ["epoch", "epochs"]),
        ("gan.steps=many", ["gan.steps", "many"]),
        ("classify.models.vgg={}", ["vgg", "gan_resnet"]),
        ("data.test_fold=9", ["fold", "9"]),
        ("steps", ["steps", "key.subkey=value"]),
        ("classify.seeds=[0,", ["classify.seeds", "without spaces"]),
        ("classify.seeds=[1,0,1]", ["classify.seeds: 1 is there twice; name it once"]),
        ("classify.models.cnn.seeds=[1,1]", ["classify.models.cnn.seeds", "1 is there twice"]),
        ("evaluate.probe_seeds=[2,2]", ["evaluate.probe_seeds", "2 is there twice"]),
        ("evaluate.ensemble_models=[gan_only,gan_resnet,gan_only]", ["ensemble_models", "'gan_only' is there twice"]),
        ("cross_validation.models=[cnn,cnn]", ["cross_validation.models", "'cnn' is there twice"]),
        ("ablation.seeds=[0,0]", ["ablation.seeds", "0 is there twice"]),
        ("learning_curve.seeds=[0,0]", ["learning_curve.seeds", "0 is there twice"]),
        ("learning_curve.train_fractions=[0.5,1,0.5]", ["learning_curve.train_fractions", "0.5 is there twice"]),
        ("learning_curve.arms=[real,gan,real]", ["learning_curve.arms", "'real' is there twice"]),
        ("release.networks=[cnn,cnn]", ["release.networks", "'cnn' is there twice"]),
        ("tune.loss=[bce,bce]", ["tune.loss", "'bce' is there twice"]),
        ("classify.models={}", ["classify.models", "at least 1"]),
        ("classify.models.cnn.seeds=[]", ["classify.models.cnn.seeds"]),
        ("classify.seeds=[-1]", ["classify.seeds.0", "-1"]),
        (
            "classify.models.gan_resnet.finetune_extra_features=true",
            ["finetune_extra_features: true", "needs extra_features"],
        ),
        ("gan.projected_discriminator_3x3_steps=800", ["3x3_steps: 800", "steps: 800"]),
        ("name.seed=5", ["name.seed=5", "no settings of its own"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_remedy(override, words):
    with pytest.raises(InputError) as error:
        experiment.load("phantom", (override,))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("features", ["none", "projected_discriminator"])
def test_the_control_without_the_gan_needs_features_that_are_not_the_gans(features):
    with pytest.raises(InputError, match=rf"resnet_features\.extra_features: {features}.*set imagenet or simclr"):
        experiment.load("phantom", (f"classify.models={{resnet_features: {{extra_features: {features}}}}}",))
    assert experiment.load("phantom", ("classify.models={resnet_features: {extra_features: imagenet}}",))


def test_features_of_an_untrained_discriminator_are_refused():
    with pytest.raises(
        InputError, match="projected_discriminator is not trained with gan.projected_discriminator_weight 0"
    ):
        experiment.load(
            "phantom",
            (
                "gan.projected_discriminator_weight=0",
                "classify.models.gan_resnet.extra_features=projected_discriminator",
            ),
        )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("gan.batch=8", r"gan\.batch \(value 8\) is now called gan\.batch_size\. Rename it"),
        ("classify.models.cnn.rate=0.1", r"is now called classify\.models\.cnn\.learning_rate"),
        ("features.referee={confidence: 0.5}", r"is now called features\.quality_filter"),
        ("translate.checkpoint_every=5", r"is now called translate\.checkpoint_interval"),
        ("folds.networks=[cnn]", r"folds .* is now called cross_validation"),
        ("classify.teachers=[cnn]", r"classify\.teachers .* is no setting any more: distillation gained nothing"),
        ("classify.models.student={}", "'student' is no classifier any more: distillation gained nothing"),
        ("classify.models.cnn.shortcut=identity", r"is no setting any more: name the classifier resnet34_identity"),
        ("classify.models.simclr={}", "'simclr' is now called efficientnet_lite0_simclr; rename it"),
    ],
)
def test_a_former_name_is_refused_with_the_current_one(override, words):
    with pytest.raises(InputError, match=words):
        experiment.load("phantom", (override,))


def test_every_current_name_in_the_table_is_a_setting():
    """The new names in the table exist, and no old one does."""
    keys = set(leaves(experiment.Experiment)) | {"ablation", "cross_validation", "features.quality_filter"}
    for old, new in renamed.SETTINGS.items():
        if "*" in old.replace("models.*", "") or old.startswith("classify.models.") and "*" not in old:
            continue
        assert old not in keys
        assert new.split(",")[0].split(" ")[0] in keys


def test_an_unknown_experiment_lists_the_known_ones():
    with pytest.raises(InputError, match="phantom"):
        experiment.load("nowhere")


def test_official_lists_need_a_data_set_that_has_them():
    with pytest.raises(InputError, match=r"data\.split_dir"):
        experiment.load("phantom", ("data.protocol=official",))


def test_on_and_a_single_data_dir_are_accepted(tmp_path):
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


@pytest.mark.parametrize(
    "name", ["gan_resnet", "gan_only", "simclr_linear", "efficientnet_lite0_simclr", "resnet_features"]
)
def test_a_release_trains_no_network_that_needs_the_run(name):
    with pytest.raises(InputError, match=f"release: networks: {name} needs the run's GAN or SimCLR, or is frozen"):
        experiment.load("phantom", (f"release.networks=[{name}]",))


def write_settings(folder, body: str):
    path = folder / "mine.yaml"
    path.write_text(f"name: mine\n{body}", "utf-8")
    return str(path)


def test_a_key_that_is_there_twice_is_refused_with_its_line(tmp_path):
    path = write_settings(tmp_path, "data: {name: patient_folder}\ngan: {steps: 5}\ndata: {name: patient_folder}\n")
    with pytest.raises(InputError, match=r"mine\.yaml, line 4: data is there twice"):
        experiment.load(path)
    path = write_settings(tmp_path, "data:\n  name: patient_folder\n  classes: {1: [a], other: [b],\n    01: [c]}\n")
    with pytest.raises(InputError, match=r"line 5: 1 is there twice"):
        experiment.load(path)
    with pytest.raises(InputError, match=r"gan=.*line 1: steps is there twice"):
        experiment.load("phantom", ("gan={steps: 5, batch_size: 16, steps: 6}",))
    assert experiment.load("phantom", ("gan.steps=400", "gan.steps=500")).gan.steps == 500  # the last one, as elsewhere


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("0o10", 8), ("0x1F", 31), ("-7", -7), ("1e3", 1000.0), ("1.5", 1.5), (".5", 0.5), ("true", True),
        ("FALSE", False), ("null", None), ("~", None), ("", None), ("4:30", "4:30"), ("no", "no"), ("yes", "yes"),
        ("on", "on"), ("0b11", "0b11"), ("1_000", "1_000"), ("2020-01-31", "2020-01-31"), ("'010'", "010"),
        ("{<<: {a: 1, b: 2}, a: 3}", {"a": 3, "b": 2}),
    ],
)  # fmt: skip
def test_plain_values_are_read_by_yaml_1_2(text, value):
    read = read_yaml(text, "here", "Correct it.")
    assert read == value
    assert type(read) is type(value)


def test_words_and_numbers_of_yaml_1_1_are_what_they_look_like(tmp_path):
    path = write_settings(
        tmp_path,
        "data: {name: patient_folder, dir: d, num_folds: 010, classes: {no: [n, off], yes: [y]}}\n"
        "xla: on\ndistribute: off\ngan: {spectral_norm: no}\n",
    )
    settings = experiment.load(path)
    assert settings.data.num_folds == 10
    assert settings.data.classes == (("no", ("n", "off")), ("yes", ("y",)))
    assert (settings.xla, settings.distribute, settings.gan.spectral_norm) == ("on", "off", False)
    with pytest.raises(InputError, match=r"data\.num_folds: .*'4:30'"):
        experiment.load(path, ("data.num_folds=4:30",))
    with pytest.raises(InputError, match=r"seed=!!int x.* is not valid YAML"):
        experiment.load(path, ("seed=!!int x",))


def test_an_override_changes_the_classifier_that_it_names_alone():
    """`idc` gives the settings of one classifier to another one by an alias."""
    before = experiment.load("idc").classify.models
    assert before["gan_resnet"] == before["resnet_features"]
    overrides = ("classify.models.gan_resnet.learning_rate=0.003", "classify.models.resnet_features.epochs=9")
    models = experiment.load("idc", overrides).classify.models
    assert models == before | {
        "gan_resnet": before["gan_resnet"].replace(learning_rate=0.003),
        "resnet_features": before["resnet_features"].replace(epochs=9),
    }
    assert experiment.load("idc", ("classify.models.gan_resnet.multi_depth=null",)).classify.models == before | {
        "gan_resnet": before["gan_resnet"].replace(multi_depth=False)
    }
