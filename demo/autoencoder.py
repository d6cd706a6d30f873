"""The demo's two networks: an autoencoder in TAESD's layout and a Flux transformer without pooled text.

Both carry the state-dict keys the host's stock loaders look for, so the trained files load like any other checkpoint.
The autoencoder is trained with fewer and narrower blocks than TAESD has, which is several times cheaper:
:func:`taesd_state` fills the rest of the stock layout with zeros (a residual block of zeros only passes its input on).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_CHANNELS = 16
DOWNSCALE = 8

# The host maps a VAE's latents to the model's by (latent - shift) * scale for Flux. Written into the VAE file, the
# same two numbers cancel it, so that the flow model works on what the encoder outputs: zero mean, unit variance.
FLUX_LATENT_SCALE = 0.3611
FLUX_LATENT_SHIFT = 0.1159

TAESD_WIDTH = 64
TAESD_BLOCKS = (1, 3, 3, 3)
WIDTHS = (32, 48, 64, 64)  # channels at full, half, quarter and eighth resolution
ENCODER_BLOCKS = (0, 1, 2, 3)
DECODER_BLOCKS = (1, 2, 3, 3)


def _conv(inputs: int, outputs: int, **options) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (unless strided)."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class ResidualBlock(nn.Module):
    """relu(x + conv(x)), with three convolutions on the residual branch."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


class SoftClamp(nn.Module):
    """Holds latents within +-3."""

    def forward(self, x: Tensor) -> Tensor:
        return 3.0 * torch.tanh(x / 3.0)


def _stage(width: int, count: int, slots: int) -> list[nn.Module]:
    """``count`` residual blocks in a stage that has ``slots`` in the stock layout (a zero block leaves its ReLU)."""
    return [ResidualBlock(width) for _ in range(count)] + [nn.ReLU() for _ in range(slots - count)]


class Autoencoder(nn.Module):
    """Pictures [n, 3, 8h, 8w] in 0..1 to latents [n, 16, h, w] and back."""

    def __init__(self, widths=WIDTHS, encoder_blocks=ENCODER_BLOCKS, decoder_blocks=DECODER_BLOCKS):
        super().__init__()
        down: list[nn.Module] = [_conv(3, widths[0]), *_stage(widths[0], encoder_blocks[0], TAESD_BLOCKS[0])]
        for level, (finer, coarser) in enumerate(pairwise(widths), start=1):
            down.append(_conv(finer, coarser, stride=2, bias=False))
            down += _stage(coarser, encoder_blocks[level], TAESD_BLOCKS[level])
        self.encoder = nn.Sequential(*down, _conv(widths[-1], LATENT_CHANNELS))

        up: list[nn.Module] = [SoftClamp(), _conv(LATENT_CHANNELS, widths[-1]), nn.ReLU()]
        for level in (3, 2, 1):
            up += _stage(widths[level], decoder_blocks[level], TAESD_BLOCKS[level])
            up += [nn.Upsample(scale_factor=2), _conv(widths[level], widths[level - 1], bias=False)]
        self.decoder = nn.Sequential(*up, *_stage(widths[0], decoder_blocks[0], TAESD_BLOCKS[0]), _conv(widths[0], 3))
        self.apply(_init_convolution)

    def encode(self, pictures: Tensor) -> Tensor:
        return self.encoder(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)


def _init_convolution(module: nn.Module) -> None:
    """He initialisation; each residual branch starts small, or the deep stack of them does not train."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, ResidualBlock):
        module.conv[-1].weight.data.mul_(0.1)


def taesd_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of a 16-channel TAESD file, by key."""
    with torch.device("meta"):
        stock = Autoencoder((TAESD_WIDTH,) * 4, TAESD_BLOCKS, TAESD_BLOCKS)
    return {f"taesd_{key}": tuple(value.shape) for key, value in stock.state_dict().items()}


def taesd_state(autoencoder: Autoencoder, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The autoencoder as a TAESD file of the stock layout, unused channels and blocks zero."""
    trained = autoencoder.state_dict()
    state = {}
    for key, shape in taesd_shapes().items():
        state[key] = torch.zeros(shape, dtype=dtype)
        tensor = trained.get(key.removeprefix("taesd_"))
        if tensor is not None:
            state[key][tuple(slice(length) for length in tensor.shape)] = tensor.to(dtype)
    state["vae_scale"] = torch.tensor(FLUX_LATENT_SCALE)
    state["vae_shift"] = torch.tensor(FLUX_LATENT_SHIFT)
    return state


@torch.no_grad()
def latent_rgb(autoencoder: Autoencoder, pictures: Tensor) -> Tensor:
    """The linear map [17, 3] from a latent pixel (and 1) to the mean colour there, -1..1, by least squares.

    It gives the host's quick preview of a latent.
    """
    latents = autoencoder.encode(pictures).movedim(1, -1).flatten(0, 2)
    colours = F.avg_pool2d(2 * pictures - 1, DOWNSCALE).movedim(1, -1).flatten(0, 2)
    return torch.linalg.lstsq(F.pad(latents, (0, 1), value=1.0).double(), colours.double()).solution.float()


def autoencoder_from_state(state: dict[str, Tensor]) -> Autoencoder:
    """The autoencoder of a TAESD file, in the stock layout (float32)."""
    autoencoder = Autoencoder((TAESD_WIDTH,) * 4, TAESD_BLOCKS, TAESD_BLOCKS)
    inner = {key.removeprefix("taesd_"): value.float() for key, value in state.items() if key.startswith("taesd_")}
    autoencoder.load_state_dict(inner)
    return autoencoder.eval()
