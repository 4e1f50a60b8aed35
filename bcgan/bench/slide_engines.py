"""Run WSInfer or TIAToolbox on a slide, in an environment that has no bcgan.

    python slide_engines.py WSInfer SLIDE MODEL
    python slide_engines.py TIAToolbox SLIDE MODEL
    python slide_engines.py ResNet-18 EQUAL OUT

MODEL, EQUAL and OUT are folders in WSInfer's format. Results are written into the current folder.
"""

import json
import sys
from pathlib import Path


def run_wsinfer(slide: Path, model: Path) -> None:
    """Run the command `wsinfer run`. Its list of the zoo's models, which it downloads, is replaced by an empty one."""
    import wsinfer_zoo.client

    wsinfer_zoo.client.load_registry = lambda *_, **__: wsinfer_zoo.client.ModelRegistry(models={})
    from wsinfer.cli.cli import cli

    slides = Path("slides")
    slides.mkdir()
    (slides / slide.name).symlink_to(slide)
    cli([
        "run", "--wsi-dir", str(slides), "--results-dir", "results",
        "--model-path", str(model / "torchscript_model.pt"), "--config", str(model / "config.json"),
    ])  # fmt: skip


def run_tiatoolbox(slide: Path, model: Path) -> None:
    """Run TIAToolbox's patch predictor on the tissue that it finds, and write results.npz."""
    import numpy as np
    import torch
    from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
    from tiatoolbox.models.engine.patch_predictor import PatchPredictor
    from tiatoolbox.models.models_abc import ModelABC

    config = json.loads((model / "config.json").read_text())

    class Network(ModelABC):
        """The TorchScript network, on patches in [0, 1]."""

        def __init__(self):
            super().__init__()
            self.network = torch.jit.load(model / "torchscript_model.pt")

        def forward(self, images):
            """Return the probabilities of the classes."""
            return torch.softmax(self.network(images), 1)

        @staticmethod
        def infer_batch(model, batch_data, device="cpu"):
            """Score a batch, (n, height, width, 3) of uint8 values."""
            with torch.inference_mode():
                images = batch_data.to(device).permute(0, 3, 1, 2).float() / 255
                return model(images).cpu().numpy()

    size, mpp = config["patch_size_pixels"], config["spacing_um_px"]
    resolution = [{"units": "mpp", "resolution": mpp}]
    settings = IOPatchPredictorConfig(
        patch_input_shape=(size, size), stride_shape=(size, size), input_resolutions=resolution,
        output_resolutions=resolution,
    )  # fmt: skip
    engine = PatchPredictor(model=Network(), batch_size=32, num_workers=0, verbose=False)
    outputs = engine.run(
        images=[slide], patch_mode=False, ioconfig=settings, device="cpu", auto_get_mask=True,
        return_probabilities=True, save_dir=Path("tiatoolbox"), output_type="zarr",
    )  # fmt: skip
    import zarr

    stored = zarr.open(str(next(iter(outputs.values()))), mode="r")
    corners = np.asarray(stored["coordinates"])[:, :2]
    np.savez("results.npz", corners=corners, probabilities=np.asarray(stored["probabilities"]))


def write_resnet18(equal: Path, out: Path) -> None:
    """Write torchvision's ResNet-18 with random weights for the input and the classes of another model."""
    import torch
    import torchvision

    config = json.loads((equal / "config.json").read_text())
    size = config["patch_size_pixels"]
    config |= {"architecture": "resnet18", "num_classes": 2, "class_names": ["benign", "malignant"]}
    network = torchvision.models.resnet18(num_classes=2).eval()
    scripted = torch.jit.freeze(torch.jit.trace(network, torch.zeros(1, 3, size, size)))
    scripted.save(out / "torchscript_model.pt")
    (out / "config.json").write_text(json.dumps(config, indent=2))


if __name__ == "__main__":
    kind, first, second = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    {"WSInfer": run_wsinfer, "TIAToolbox": run_tiatoolbox, "ResNet-18": write_resnet18}[kind](first, second)
