"""Subjects for comparison: networks in PyTorch, with fast settings. They need requirements-bench.txt."""

from functools import partial

from bcgan.bench import pytorch_networks
from bcgan.bench.subjects import NETWORK, NUM_SCORED, STEPS, Subject, draw_patches

# The candidates for PyTorch's best: precision, whether channels are last, and torch.compile's mode.
SETTINGS = {
    "float32": ("float32", False, None),
    "float32, channels last": ("float32", True, None),
    "float32, channels last, compiled": ("float32", True, "default"),
    "bfloat16": ("bfloat16", False, None),
    "bfloat16, channels last": ("bfloat16", True, None),
    "bfloat16, channels last, compiled": ("bfloat16", True, "default"),
}
GRAPHS = {"bfloat16, channels last, CUDA graphs": ("bfloat16", True, "reduce-overhead")}


def training(
    settings: str, batch: int = 128, device: str = "cpu", steps: int = STEPS, network: str = NETWORK, size: int = 50
) -> Subject:
    """Make a subject that runs training steps with AdamW's fused update; weights are float32, under autocast."""
    torch, model, autocast, to_memory_format = _prepare_model(settings, device, network)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    images, labels = draw_patches(batch, size)
    images, labels = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).float()
    images, labels = images.to(device), labels.to(device)
    for module in model.train().modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()  # frozen statistics

    def run() -> int:
        for _ in range(steps):
            with autocast():
                logits = model(to_memory_format(images.float() / 255))[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()
        return steps * batch

    return run


def inference(
    settings: str, batch: int = 256, device: str = "cpu", scored: int = NUM_SCORED, network: str = NETWORK,
    size: int = 50,
) -> Subject:  # fmt: skip
    """Make a subject that scores patches, with batch normalization folded into the convolutions."""
    torch, model, autocast, to_memory_format = _prepare_model(settings, device, network, folded=True)
    images = draw_patches(scored, size)[0]

    def run() -> int:
        with torch.inference_mode(), autocast():
            for start in range(0, scored, batch):
                inputs = torch.from_numpy(images[start : start + batch]).to(device).permute(0, 3, 1, 2)
                torch.sigmoid(model(to_memory_format(inputs.float() / 255))[:, 0]).float().cpu().numpy()
        return scored

    return run


def apply_settings(torch, settings: str, device: str) -> tuple:
    """Return the memory format of images, the mode of torch.compile or `None`, and a function that begins autocasting.

    On a GPU, products in float32 are set to TF32, as TensorFlow uses.
    """
    precision, channels_last, mode = (SETTINGS | GRAPHS)[settings]
    if device != "cpu":
        torch.set_float32_matmul_precision("high")
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return memory_format, mode, partial(torch.autocast, device, torch.bfloat16, enabled=precision == "bfloat16")


def _prepare_model(settings: str, device: str, network: str, folded: bool = False) -> tuple:
    """Return torch, the model on the device, an autocast context and a function that sets images' memory format."""
    import torch

    memory_format, mode, autocast = apply_settings(torch, settings, device)
    model = pytorch_networks.build(torch, network)
    model = _fold(model) if folded else model
    model = model.to(device, memory_format=memory_format)
    if mode:
        model = torch.compile(model, mode=mode)
    return torch, model, autocast, lambda images: images.contiguous(memory_format=memory_format)


def _fold(model):
    """Return the model with batch normalization folded into the convolutions, for inference."""
    import torch
    from torch.fx.experimental.optimization import fuse

    with torch.no_grad():
        return fuse(model.eval())
