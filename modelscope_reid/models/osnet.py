"""OSNet: omni-scale features from streams of one to four light convolutions, gated and added.

In: images (B, 3, H, W) float32, normalised; any size from 16x16 up. Out: one feature (B, 512) after the fully
connected layer, non-negative. Parameter names are torchreid's. Knows nothing of classifiers or files.

Source: Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019 (written from the
paper and from the names and shapes of torchreid's checkpoints, MIT).
"""

from __future__ import annotations

from torch import Tensor, nn

from modelscope_reid.config import OsnetConfig

STREAMS = (1, 2, 3, 4)
"""Light 3x3 convolutions in each stream of a block: receptive fields 3, 5, 7 and 9."""
BOTTLENECK = 4
GATE_REDUCTION = 16


class ConvolutionBlock(nn.Module):
    """Convolution, batch normalisation and, unless `linear`, ReLU."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 1, *, stride: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)
        self.activation = nn.Identity() if linear else nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        activated: Tensor = self.activation(self.bn(self.conv(x)))
        return activated


class LightConvolution(nn.Module):
    """A 3x3 convolution split into a 1x1 one and a depthwise 3x3 one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        activated: Tensor = self.relu(self.bn(self.conv2(self.conv1(x))))
        return activated


class ChannelGate(nn.Module):
    """Aggregation gate, shared by a block's streams: weighs each channel by its own mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // GATE_REDUCTION)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        weights: Tensor = self.fc2(self.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True))))
        return x * weights.sigmoid()


class OmniScaleBlock(nn.Module):
    """Residual block: reduce, four gated streams added, expand."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        middle = channels_out // BOTTLENECK
        self.conv1 = ConvolutionBlock(channels_in, middle)
        self.conv2a = LightConvolution(middle)  # one layer, so not wrapped: torchreid's names
        self.conv2b, self.conv2c, self.conv2d = (
            nn.Sequential(*(LightConvolution(middle) for _ in range(layers))) for layers in STREAMS[1:]
        )
        self.gate = ChannelGate(middle)
        self.conv3 = ConvolutionBlock(middle, channels_out, linear=True)
        self.downsample = (
            ConvolutionBlock(channels_in, channels_out, linear=True) if channels_in != channels_out else nn.Identity()
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        reduced = self.conv1(x)
        streams = (self.conv2a, self.conv2b, self.conv2c, self.conv2d)
        mixed = sum(self.gate(stream(reduced)) for stream in streams)
        activated: Tensor = self.relu(self.conv3(mixed) + self.downsample(x))
        return activated


class Osnet(nn.Module):
    """Stem, three stages of two omni-scale blocks, a 1x1 convolution, average pooling, one linear layer."""

    def __init__(self, config: OsnetConfig) -> None:
        super().__init__()
        stem, *stages = config.channels
        self.conv1 = ConvolutionBlock(3, stem, 7, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = self._stage(stem, stages[0], reduce=True)
        self.conv3 = self._stage(stages[0], stages[1], reduce=True)
        self.conv4 = self._stage(stages[1], stages[2], reduce=False)
        self.conv5 = ConvolutionBlock(stages[2], stages[2])
        self.fc = nn.Sequential(
            nn.Linear(stages[2], config.feature_dim),
            nn.BatchNorm1d(config.feature_dim),
            nn.ReLU(inplace=True),
        )
        self.feature_dims = (config.feature_dim,)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(channels_in: int, channels_out: int, *, reduce: bool) -> nn.Sequential:
        blocks: list[nn.Module] = [
            OmniScaleBlock(channels_in, channels_out),
            OmniScaleBlock(channels_out, channels_out),
        ]
        if reduce:
            blocks.append(nn.Sequential(ConvolutionBlock(channels_out, channels_out), nn.AvgPool2d(2)))
        return nn.Sequential(*blocks)

    def forward(self, images: Tensor, camera_ids: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return one feature, (B, 512); camera ids are ignored."""
        features = self.conv4(self.conv3(self.conv2(self.maxpool(self.conv1(images)))))
        return (self.fc(self.conv5(features).mean(dim=(2, 3))),)
