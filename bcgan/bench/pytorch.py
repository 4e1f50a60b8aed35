"""Table 1's network in PyTorch, at the settings that make it quick there; needs requirements-bench.txt."""

from bcgan.bench.subjects import SCORED, STEPS, Subject, patches

# What "its best" is chosen from, in every run anew: precision, memory format, whether torch.compile is used.
SETTINGS = {
    "float32": ("float32", False, False),
    "float32, channels last": ("float32", True, False),
    "float32, channels last, compiled": ("float32", True, True),
    "bfloat16": ("bfloat16", False, False),
    "bfloat16, channels last": ("bfloat16", True, False),
    "bfloat16, channels last, compiled": ("bfloat16", True, True),
}


def training(settings: str, batch: int = 128) -> Subject:
    """Scaling, forward, backward and AdamW's fused update; float32 weights under autocast."""
    torch, model, autocast, placed = _start(settings)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    images, labels = patches(batch)
    images, labels = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).float()
    model.train()

    def run() -> int:
        for _ in range(STEPS):
            with autocast():
                logits = model(placed(images.float() / 255))[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()
        return STEPS * batch

    return run


def inference(settings: str, batch: int = 256) -> Subject:
    """Batch normalisations folded into the convolutions, as PyTorch's own optimiser for inference does."""
    torch, model, autocast, placed = _start(settings, folded=True)
    images = patches(SCORED)[0]

    def run() -> int:
        with torch.inference_mode(), autocast():
            for start in range(0, SCORED, batch):
                part = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2)
                torch.sigmoid(model(placed(part.float() / 255))[:, 0]).float().numpy()
        return SCORED

    return run


def _start(settings: str, folded: bool = False) -> tuple:
    import torch

    precision, channels_last, compiled = SETTINGS[settings]
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = _fold(_network(torch)) if folded else _network(torch)
    model = model.to(memory_format=form)
    if compiled:
        model = torch.compile(model)

    def autocast():
        return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")

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
