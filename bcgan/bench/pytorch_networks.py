"""The networks of the benchmark in PyTorch: Table 1's, ResNet-34, ResNet-50 and EfficientNet-Lite0."""

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels and blocks of ResNet-34 and ResNet-50
# EfficientNet-Lite0: kernel, stride, channels, blocks, expansion. `bcgan.models.efficientnet_lite` imports TensorFlow.
LITE_STAGES = ((3, 1, 16, 1, 1), (3, 2, 24, 2, 6), (5, 2, 40, 2, 6), (3, 2, 80, 3, 6), (5, 1, 112, 3, 6),
               (5, 2, 192, 4, 6), (3, 1, 320, 1, 6))  # fmt: skip


def build(torch, name: str):
    """Build a network with one logit: resnet_table1, resnet34 (with projection shortcuts), resnet50 or
    efficientnet_lite0.
    """
    if name == "resnet_table1":
        return _resnet_table1(torch)
    if name == "efficientnet_lite0":
        return _efficientnet_lite0(torch)
    return _resnet(torch, {"resnet34": _basic_block, "resnet50": _bottleneck_block}[name])


def _resnet(torch, block):
    """Build ResNet-34 or ResNet-50 of He et al. (2016)."""
    nn = torch.nn
    has_bias = block is _bottleneck_block  # as Keras's ResNet-50 has
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=has_bias), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, (width, count) in enumerate(STAGES):
        for index in range(count):
            stride = 2 if stage and not index else 1
            residual, channels_out = block(nn, channels, width, stride)
            shortcut = nn.Identity()
            if stride > 1 or channels != channels_out:
                shortcut = nn.Sequential(
                    nn.Conv2d(channels, channels_out, 1, stride, bias=has_bias), nn.BatchNorm2d(channels_out)
                )
            layers.append(_residual(torch, residual, shortcut))
            channels = channels_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1))


def _basic_block(nn, channels: int, width: int, stride: int):
    """Return the residual of a basic block, and its channels."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
    ), width  # fmt: skip


def _bottleneck_block(nn, channels: int, width: int, stride: int):
    """Return the residual of a bottleneck block, and its channels; the stride is the first one's, as in Keras."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, stride), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 4 * width, 1), nn.BatchNorm2d(4 * width),
    ), 4 * width  # fmt: skip


def _residual(torch, residual, shortcut):
    """Return a module that adds a shortcut to a residual and applies a ReLU."""

    class Residual(torch.nn.Module):
        """A residual block."""

        def __init__(self):
            super().__init__()
            self.residual, self.shortcut = residual, shortcut

        def forward(self, x):
            """Apply the block."""
            return torch.relu(self.residual(x) + self.shortcut(x))

    return Residual()


def _resnet_table1(torch):
    """Build `bcgan.models.resnet_table1` with its head; the last layers run at 13x13, as in `bcgan.models.fast`."""
    nn = torch.nn

    class Bottleneck(nn.Module):
        """A bottleneck block with a shortcut without parameters: zeros fill the added channels."""

        def __init__(self, channels: int):
            super().__init__()
            self.channel_factor = 256 // channels
            self.convolutions = nn.Sequential(
                nn.Conv2d(channels, 64, 1), nn.BatchNorm2d(64), nn.ReLU(),
                nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 256, 1),
            )  # fmt: skip

        def forward(self, x):
            """Apply the block."""
            shortcut = (
                x if self.channel_factor == 1 else torch.cat([x] + [torch.zeros_like(x)] * (self.channel_factor - 1), 1)
            )
            return self.convolutions(x) + shortcut

    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        Bottleneck(64), Bottleneck(256), Bottleneck(256), Bottleneck(256),
        nn.Conv2d(256, 3, 1), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(27, 1000), nn.ReLU(), nn.Linear(1000, 1),
    )  # fmt: skip


def _efficientnet_lite0(torch):
    """Build EfficientNet-Lite0; its batch normalizations are not trained, as in `bcgan.models.efficientnet_lite`."""
    nn = torch.nn

    class Shortcut(nn.Module):
        """A module whose input is added to its output."""

        def __init__(self, residual):
            super().__init__()
            self.residual = residual

        def forward(self, x):
            """Apply the module."""
            return self.residual(x) + x

    def convolve(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True):
        """Return a convolution, its normalization and, unless `relu` is false, a ReLU6."""
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        norm = nn.BatchNorm2d(outputs, eps=1e-3).requires_grad_(False)
        return [convolution, norm] + ([nn.ReLU6(inplace=True)] if relu else [])

    layers, channels = convolve(3, 32, 3, 2), 32
    for kernel, stride, outputs, repeats, expansion in LITE_STAGES:
        for repeat in range(repeats):
            width, block_stride = channels * expansion, 1 if repeat else stride
            block = nn.Sequential(
                *(convolve(channels, width) if expansion > 1 else ()),
                *convolve(width, width, kernel, block_stride, groups=width),
                *convolve(width, outputs, relu=False),
            )
            layers.append(Shortcut(block) if block_stride == 1 and channels == outputs else block)
            channels = outputs
    layers += convolve(channels, 1280)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, 1))
