"""Table 1's network in PyTorch, at the settings that make it quick there; needs requirements-bench.txt."""

from bcgan.bench.subjects import SCORED, STEPS, Subject, patches

# What "its best" is chosen from, in every run anew: precision, memory format, torch.compile's mode or none.
SETTINGS = {
    "float32": ("float32", False, None),
    "float32, channels last": ("float32", True, None),
    "float32, channels last, compiled": ("float32", True, "default"),
    "bfloat16": ("bfloat16", False, None),
    "bfloat16, channels last": ("bfloat16", True, None),
    "bfloat16, channels last, compiled": ("bfloat16", True, "default"),
}
GRAPHS = {"bfloat16, channels last, CUDA graphs": ("bfloat16", True, "reduce-overhead")}


def training(settings: str, batch: int = 128, device: str = "cpu", steps: int = STEPS) -> Subject:
    """Scaling, forward, backward and AdamW's fused update; float32 weights under autocast."""
    torch, model, autocast, placed = _start(settings, device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    images, labels = patches(batch)
    images, labels = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).float()
    images, labels = images.to(device), labels.to(device)
    model.train()

    def run() -> int:
        for _ in range(steps):
            with autocast():
                logits = model(placed(images.float() / 255))[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()
        return steps * batch

    return run


def inference(settings: str, batch: int = 256, device: str = "cpu", scored: int = SCORED) -> Subject:
    """Batch normalisations folded into the convolutions, as PyTorch's own optimiser for inference does."""
    torch, model, autocast, placed = _start(settings, device, folded=True)
    images = patches(scored)[0]

    def run() -> int:
        with torch.inference_mode(), autocast():
            for start in range(0, scored, batch):
                part = torch.from_numpy(images[start : start + batch]).to(device).permute(0, 3, 1, 2)
                torch.sigmoid(model(placed(part.float() / 255))[:, 0]).float().cpu().numpy()
        return scored

    return run


def _start(settings: str, device: str, folded: bool = False) -> tuple:
    import torch

    precision, channels_last, mode = (SETTINGS | GRAPHS)[settings]
    if device != "cpu":
        torch.set_float32_matmul_precision("high")  # TF32, which TensorFlow takes too
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = _fold(_network(torch)) if folded else _network(torch)
    model = model.to(device, memory_format=form)
    if mode:
        model = torch.compile(model, mode=mode)

    def autocast():
        return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")

    return torch, model, autocast, lambda images: images.contiguous(memory_format=form)


def _fold(model):
    import torch
    from torch.fx.experimental.optimization import fuse

    with torch.no_grad():
        return fuse(model.eval())


def _network(torch):
    """The layers of `bcgan.models.resnet_table1`, its tail at 13x13 as `bcgan.models.fast` has it, and the head."""
    nn = torch.nn

    class Bottleneck(nn.Module):
        def __init__(self, channels: int):
            super().__init__()
            self.widening = 256 // channels
            self.inner = nn.Sequential(
                nn.Conv2d(channels, 64, 1), nn.BatchNorm2d(64), nn.ReLU(),
                nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 256, 1),
            )  # fmt: skip

        def forward(self, x):
            shortcut = x if self.widening == 1 else torch.cat([x] + [torch.zeros_like(x)] * (self.widening - 1), 1)
            return self.inner(x) + shortcut

    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        Bottleneck(64), Bottleneck(256), Bottleneck(256), Bottleneck(256),
        nn.Conv2d(256, 3, 1), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(27, 1000), nn.ReLU(), nn.Linear(1000, 1),
    )  # fmt: skip
