"""Shared fixtures: small patches that are drawn by the tests, so that every test runs on any machine."""

import gc
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line sets it, as the next one
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
gc.set_threshold(200_000, 50, 1000)  # networks have many small objects: garbage collection takes a tenth of the time

from bcgan import cli, machine, progress  # noqa: E402

machine.prepare_environment()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402

from bcgan.data.histology_phantom.canvas import patient_style  # noqa: E402
from bcgan.data.histology_phantom.tissue import render_patch  # noqa: E402
from tests.browser import browser, opened  # noqa: E402, F401

PATIENTS, PATCHES = 8, 10
NUM_VIEWS = 3  # more than `--fast` takes
# An experiment on those patches that runs all stages in seconds.
EXPERIMENT = """
name: tiny
data: {{name: idc, dir: ["{folder}"], protocol: kfold, num_folds: 4}}
gan:
  steps: 4
  batch_size: 8
  base_channels: 4
  latent_dim: 8
  sample_grid_interval: 2
  checkpoint_interval: 2
  projected_discriminator_weight: 0
translate: {{steps: 2, batch_size: 4, base_channels: 4}}
features: {{num_synthetic: 40, quality_filter: {{steps: 4}}}}
classify:
  batch_size: 16
  models:
    gan_resnet: {{epochs: 2, synthetic_fraction: 0.25}}
    gan_only: {{epochs: 1}}
evaluate: {{tta_views: 2, bootstrap_samples: 50, num_gan_samples: 20, probe_seeds: [0, 1], num_explained_patches: 2}}
precision: float32
"""


# Tests that train, trace or convert networks, or read a trained run: `make test-fast` leaves them out.
SLOW_FIXTURES = {"finished", "exported", "report_in_full", "eagerly"}
SLOW_MODULES = {
    "test_distribute", "test_precision", "test_gan", "test_formats", "test_export", "test_pretraining", "test_models",
    "test_translation", "test_bench", "test_classify", "test_fast", "test_hostile", "test_engines",
    "test_full_disk", "test_cross_validation", "test_learning_curve", "test_probes_and_translations", "test_shortcut",
    "test_efficientnet_lite", "test_saliency", "test_serve_page", "test_one_answer", "test_neighbours", "test_predict",
    "test_sample", "test_release", "test_attacks", "test_augment_and_watch", "test_campaigns", "test_tile_groups",
    "test_serve", "test_batch", "test_assess", "test_explain", "test_machine", "test_variant",
    "test_steering", "test_weights", "test_installed", "test_release_section", "test_wsinfer", "test_foreign",
    "test_hub", "test_few_orientations", "test_summary", "test_tuning", "test_tutorials",
}  # fmt: skip


# Their tests take minutes: they run first, so that no worker is left with one of them at the end.
LONGEST_MODULES = (
    "test_pipeline", "test_distribute", "test_tutorials", "test_precision", "test_classes", "test_release",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, and let their modules run before the others."""
    slow_paths = set()
    for item in items:
        if item.path.stem in SLOW_MODULES or SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
            slow_paths.add(item.path)

    def rank(item: pytest.Item) -> int:
        if item.path.stem in LONGEST_MODULES:
            return LONGEST_MODULES.index(item.path.stem)
        return len(LONGEST_MODULES) + (item.path not in slow_paths)

    items.sort(key=rank)  # stable: tests of a module stay in order


# `bcgan` in a separate process that does not trace training steps: tracing takes longer than a few steps.
EAGER_BCGAN = (
    sys.executable,
    "-c",
    "from bcgan import machine; machine.prepare_environment(); import tensorflow as tf; "
    "tf.config.run_functions_eagerly(True); from functools import partial; from bcgan.gan import train; "
    "train.recalibrate_batch_norm = partial(train.recalibrate_batch_norm, batch=16); from bcgan import cli; cli.main()",
)


def write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())


def made_once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that one pytest worker makes and all workers share."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{root}.lock"):
        if not root.exists():
            part = root.with_name(f"{name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            make(part)
            part.rename(root)
    return root


@pytest.fixture(scope="session")
def idc_folder(tmp_path_factory) -> Path:
    """Phantom patches under the public archive's names: 8 patients, 10 patches each, both classes."""
    return made_once(tmp_path_factory, "idc", draw_patches)


def draw_patches(root: Path) -> None:
    for patient in range(PATIENTS):
        rng = np.random.default_rng(patient)
        style = patient_style(rng)
        for number in range(PATCHES):
            label = number % 2
            name = f"{100 + patient}_idx5_x{50 * number + 1}_y51_class{label}.png"
            write_png(root / str(100 + patient) / str(label) / name, render_patch(style, label, rng).image)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, idc_folder) -> Path:
    """A folder in which every stage of EXPERIMENT has run. All workers read it; a test that writes uses a copy."""

    def run(root: Path) -> None:
        (root / "tiny.yaml").write_text(EXPERIMENT.format(folder=idc_folder), "utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            use_few_samples(patch)
            with untraced(), pytest.raises(SystemExit) as stop:
                cli.main(["run", "tiny.yaml"])
        assert stop.value.code == 0

    return made_once(tmp_path_factory, "finished", run)


@pytest.fixture(scope="session")
def exported(finished, tmp_path_factory) -> Path:
    """The tiny run's classifier, as `bcgan export` writes it, of NUM_VIEWS orientations."""

    def write(folder: Path) -> None:
        from bcgan.predict import export

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export, "TTA_VIEWS", NUM_VIEWS)
            patch.chdir(finished)
            with untraced(), pytest.raises(SystemExit) as stop:
                cli.main(["export", "tiny.yaml", "--out", str(folder / "model")])
        assert stop.value.code == 0

    return made_once(tmp_path_factory, "exported", write) / "model"


@pytest.fixture
def workspace(finished, tmp_path, monkeypatch) -> Path:
    """The folder of `finished`, in a copy in the current folder."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def use_few_samples(patch: pytest.MonkeyPatch) -> None:
    """Compute explanations, steering and a generator's statistics from few samples, and train a narrow plain CNN."""
    from bcgan.evaluate import explanations
    from bcgan.explain import saliency
    from bcgan.gan import steering, train
    from bcgan.models import cnn

    patch.setattr(saliency, "OCCLUSION_SQUARE", 1 / 2)
    patch.setattr(saliency, "OCCLUSION_STRIDE", 1 / 2)
    patch.setattr(saliency, "INTEGRATION_STEPS", 4)
    patch.setattr(explanations, "PIXEL_FRACTIONS", np.linspace(0, 1, 4))
    patch.setattr(explanations, "MAX_EXAMPLES", 1)
    patch.setattr(steering, "NUM_FIT_PATCHES", 64)
    patch.setattr(steering, "NUM_TEST_PATCHES", 32)
    patch.setattr(train, "recalibrate_batch_norm", partial(train.recalibrate_batch_norm, batch=18))
    patch.setattr(cnn, "cnn", partial(cnn.cnn, width=8))


def draw_coarsely(patch: pytest.MonkeyPatch) -> None:
    """Render figures at a low resolution, which takes a third of the time."""
    from bcgan.report import style

    patch.setattr(style, "DPI", 60)
    patch.setitem(style.plt.rcParams, "savefig.dpi", 60)
    patch.setattr(style, "_reduce_colors", lambda picture: picture)


@pytest.fixture(scope="session")
def report_in_full(tmp_path_factory, finished) -> Path:
    """The report on `finished`, with pictures of its tissue. All workers read it."""

    def render(root: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(finished)
            draw_coarsely(patch)
            with pytest.raises(SystemExit) as stop:
                cli.main(["report", "tiny.yaml", "--out", str(root)])
        assert stop.value.code == 0

    return made_once(tmp_path_factory, "report", render)


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Reports are rendered without their figures, which take a minute."""
    from bcgan.report import page

    monkeypatch.setattr(page, "FIGURES", {section: {} for section in page.FIGURES})


@contextmanager
def untraced():
    """Run training steps without tracing them: tracing takes longer than a few steps."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def eagerly():
    """Run the training steps of a test untraced."""
    with untraced():
        yield


@pytest.fixture
def starts(monkeypatch) -> list[int]:
    """The first step of each training: 0, or a later one if the training is resumed."""
    first_steps, bar = [], progress.bar

    def watched_bar(*arguments, start=0, **options):
        first_steps.append(start)
        return bar(*arguments, start=start, **options)

    monkeypatch.setattr(progress, "bar", watched_bar)
    return first_steps


@pytest.fixture
def killed(monkeypatch) -> Callable:
    """`with killed(4):` a training that is killed after it has saved the checkpoint of step (or epoch) 4."""

    @contextmanager
    def dying(at: int):
        from bcgan.models import weights

        original = weights.save

        def save_and_die(path, step, groups):
            original(path, step, groups)
            if step == at:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(weights, "save", save_and_die)
            with pytest.raises(KeyboardInterrupt):
                yield

    return dying


@pytest.fixture
def in_folder(tmp_path, monkeypatch) -> Path:
    """Work in an empty folder, which gets the runs/ and reports/ of the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def real_idc() -> Path:
    """The folder of real patches, if this machine has them: BCGAN_IDC names it."""
    folder = Path(os.environ.get("BCGAN_IDC", Path(__file__).parents[2] / "shared/data/idc"))
    if not folder.exists():
        pytest.skip("no real IDC patches here; set BCGAN_IDC to their folder")
    return folder
