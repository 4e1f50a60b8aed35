"""The GAN of the benchmark in PyTorch: bcgan's generator, discriminator, augmentation and training step."""

from bcgan.bench.pytorch import apply_settings
from bcgan.bench.subjects import STEPS, Subject, draw_patches
from bcgan.settings import Gan
from bcgan.sizes import map_channels, map_sizes

SLOPE = 0.2  # of the leaky ReLUs


def gan(settings: str, batch: int = 32, steps: int = STEPS, size: int = 50, device: str = "cpu") -> Subject:
    """Make a GAN training step that generates once for both networks; weights are float32, under autocast."""
    import torch
    import torch._dynamo  # it loads Triton, which crashes if TensorFlow was loaded before it

    memory_format, mode, autocast = apply_settings(torch, settings, device)
    gan_settings = Gan(batch_size=batch)
    generator, average = (_generator(gan_settings, size) for _ in range(2))
    discriminator = _discriminator(gan_settings, size)
    networks = [network.to(device, memory_format=memory_format) for network in (generator, average, discriminator)]
    generator, average, discriminator = networks
    if mode:
        generator, discriminator = torch.compile(generator, mode=mode), torch.compile(discriminator, mode=mode)
    rates = gan_settings.generator_learning_rate, gan_settings.discriminator_learning_rate
    optimizers = [
        torch.optim.Adam(network.parameters(), rate, (0.0, 0.99), fused=True)
        for network, rate in zip((generator, discriminator), rates, strict=True)
    ]
    images, labels = draw_patches(batch, size)
    images = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    labels = torch.from_numpy(labels).long().to(device)
    softplus = torch.nn.functional.softplus

    def update(optimizer, loss) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def step():
        noise = torch.randn(batch, gan_settings.latent_dim, device=device)
        pixel_noise = torch.randn(batch, 1, size, size, device=device).contiguous(memory_format=memory_format)
        with autocast():
            real = _augment(torch, images.float() / 255)
            fake = _augment(torch, generator(noise, labels, pixel_noise))
            logits = discriminator(torch.cat([real, fake.detach()]), torch.cat([labels, labels])).float()
        update(optimizers[1], softplus(-logits[:batch]).mean() + softplus(logits[batch:]).mean())
        with autocast():
            loss = softplus(-discriminator(fake, labels).float()).mean()
        update(optimizers[0], loss)
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(generator.parameters()), 1 - gan_settings.ema_decay)
        return loss

    def run() -> int:
        for _ in range(steps):
            loss = step()
        loss.item()
        return steps * batch

    return run


def _augment(torch, images):
    """Return images with random contrast and color, as `bcgan.gan.augment` does."""
    draws = torch.randn(4, len(images), 1, 1, 1, device=images.device)
    mean = images.mean((2, 3), keepdim=True)
    color = 0.05 * draws[1:, :, 0].permute(1, 0, 2, 3)
    return (images - mean) * (1 + 0.1 * draws[0]) + mean + color


def _generator(settings: Gan, size: int):
    """Build `bcgan.models.generator`."""
    import torch
    from torch import nn
    from torch.nn import functional

    from bcgan.models.generator import CODE_DIM

    class Modulation(nn.Module):
        """Batch normalization whose scale and shift are computed from the code, then a leaky ReLU."""

        def __init__(self, channels: int):
            super().__init__()
            self.norm = nn.BatchNorm2d(channels, affine=False)
            self.scale, self.shift = nn.Linear(CODE_DIM, channels), nn.Linear(CODE_DIM, channels)

        def forward(self, x, code):
            """Apply the layer."""
            scale, shift = self.scale(code)[:, :, None, None], self.shift(code)[:, :, None, None]
            return functional.leaky_relu(self.norm(x) * (1 + scale) + shift, SLOPE)

    class Generator(nn.Module):
        """From noise, labels and pixel noise to images."""

        def __init__(self):
            super().__init__()
            *larger_sizes, self.first_size = (size, *map_sizes(size))
            *larger_channels, self.first_channels = map_channels(size, settings.base_channels)
            larger_channels.insert(0, larger_channels[0])
            self.sizes, channels = larger_sizes[::-1], larger_channels[::-1]
            latent = settings.latent_dim
            self.embedding, self.code = nn.Embedding(2, latent), nn.Linear(2 * latent, CODE_DIM)
            self.seed = nn.Linear(2 * latent, self.first_size**2 * self.first_channels)
            inputs = [self.first_channels, *channels[:-1]]
            self.modulations = nn.ModuleList(map(Modulation, inputs))
            self.convolutions = nn.ModuleList(
                nn.Conv2d(before, after, 3, bias=False) for before, after in zip(inputs, channels, strict=True)
            )
            self.grains = nn.ModuleList(nn.Conv2d(1, after, 1, bias=False) for after in channels[1:])
            self.last, self.colors = Modulation(channels[-1]), nn.Conv2d(channels[-1], 3, 3, padding=1)

        def forward(self, noise, labels, pixel_noise):
            """Generate images."""
            joined = torch.cat([noise, self.embedding(labels)], 1)
            code = functional.leaky_relu(self.code(joined), SLOPE)
            x = self.seed(joined).reshape(-1, self.first_channels, self.first_size, self.first_size)
            for index, map_size in enumerate(self.sizes):
                x = functional.interpolate(self.modulations[index](x, code), scale_factor=2)
                x = functional.pad(x, (1, 1, 1, 1) if x.shape[2] == map_size else (1, 0, 1, 0))
                x = self.convolutions[index](x)
                if index:
                    step = 2 ** (len(self.sizes) - 1 - index)
                    x = x + self.grains[index - 1](pixel_noise[:, :, ::step, ::step])
            return torch.sigmoid(self.colors(self.last(x, code)).float())

    return Generator()


def _discriminator(settings: Gan, size: int):
    """Build `bcgan.models.discriminator`."""
    from torch import nn
    from torch.nn import functional
    from torch.nn.utils.parametrizations import spectral_norm

    from bcgan.models.discriminator import STEM

    class Discriminator(nn.Module):
        """From images and labels to logits."""

        def __init__(self):
            super().__init__()
            channels = map_channels(size, settings.base_channels)
            self.stem = spectral_norm(nn.Conv2d(3, STEM, 3, padding=1))
            pairs = zip((STEM, *channels[:-1]), channels, strict=True)
            self.blocks = nn.ModuleList(spectral_norm(nn.Conv2d(before, after, 4, 2)) for before, after in pairs)
            self.realness, self.embedding = nn.Linear(channels[-1], 1), nn.Embedding(2, channels[-1])

        def forward(self, images, labels):
            """Score images."""
            x = functional.leaky_relu(self.stem(2 * images - 1), SLOPE)
            for block in self.blocks:
                after = 1 + x.shape[2] % 2  # as TensorFlow pads
                x = functional.leaky_relu(block(functional.pad(x, (1, after, 1, after))), SLOPE)
            features = x.sum((2, 3)).float()
            return self.realness(features)[:, 0] + (self.embedding(labels) * features).sum(1)

    return Discriminator()
