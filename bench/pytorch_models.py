"""DenseNet-BC for CIFAR, ResNet and RevNet as PyTorch modules: oracle of the golden test, yardstick of the benchmarks.

Parameter and buffer names are those of the C++ modules, so that values can be exchanged by name (a shortcut's
projection is `project1` here, `shortcut1.project` there). All modules compute in training mode.

Decisions that the papers leave open follow the authors' code (renmengye/revnet-public, resnet/models/resnet_model.py
and revnet_model.py; gpleiss/efficient_densenet_pytorch, models/densenet.py); the published parameter counts agree:

- a bottleneck residual is 1x1, 3x3, 1x1 and carries its stride on the first 1x1 convolution;
- where a bottleneck unit changes shape, which includes the first one of stage 1, its shortcut is a plain 1x1
  convolution with the unit's stride (`project`; in a RevNet one for each half, `project1` and `project2`);
  a basic unit pools and pads with zero channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pytorch_layers import (
    DENSENET_NORM,
    DENSENET_SGD,
    RESIDUAL_NORM,
    RESIDUAL_SGD,
    BatchNorm2d,
    Conv2d,
    classify,
    he_deviation,
    initialise_linear,
    is_first_run,
    pad_same,
)


@dataclass(frozen=True)
class ResidualSpec:
    """Architecture of a ResNet or RevNet: filters of stem and stages, before the bottleneck's factor of 4.

    `imagenet_stem`: conv7x7/2 and a 3x3/2 max pool instead of conv3x3, both padded as by TensorFlow's SAME.
    """

    units: tuple[int, ...]
    filters: tuple[int, ...]
    bottleneck: bool = False
    imagenet_stem: bool = False

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the stem's and of each stage's output."""
        expansion = 4 if self.bottleneck else 1
        return (self.filters[0], *(expansion * width for width in self.filters[1:]))


RESNETS = {
    32: ResidualSpec((5, 5, 5), (16, 16, 32, 64)),
    110: ResidualSpec((18, 18, 18), (16, 16, 32, 64)),
    164: ResidualSpec((18, 18, 18), (16, 16, 32, 64), bottleneck=True),
}
REVNETS = {
    38: ResidualSpec((3, 3, 3), (32, 32, 64, 112)),
    110: ResidualSpec((9, 9, 9), (32, 32, 64, 128)),
    164: ResidualSpec((9, 9, 9), (32, 32, 64, 128), bottleneck=True),
}


IMAGENET_RESNETS = {
    50: ResidualSpec((3, 4, 6, 3), (64, 64, 128, 256, 512), bottleneck=True, imagenet_stem=True),
    101: ResidualSpec((3, 4, 23, 3), (64, 64, 128, 256, 512), bottleneck=True, imagenet_stem=True),
}
IMAGENET_REVNETS = {
    56: ResidualSpec((2, 2, 3, 2), (128, 128, 256, 512, 832), bottleneck=True, imagenet_stem=True),
    104: ResidualSpec((2, 2, 11, 2), (128, 128, 256, 512, 832), bottleneck=True, imagenet_stem=True),
}


class DenseLayer(nn.Module):
    """BN-ReLU-conv1x1(4k)-BN-ReLU-conv3x3(k) over the concatenation of all earlier features."""

    def __init__(self, channels: int, growth: int, efficient: bool) -> None:
        super().__init__()
        self.efficient = efficient
        self.norm1 = BatchNorm2d(channels, DENSENET_NORM)
        self.conv1 = Conv2d(channels, 4 * growth, 1)
        self.norm2 = BatchNorm2d(4 * growth, DENSENET_NORM)
        self.conv2 = Conv2d(4 * growth, growth, 3)

    def forward(self, features: list[Tensor]) -> Tensor:
        if self.efficient:
            h = checkpoint(self._checkpointed_bottleneck, *features, use_reentrant=True, preserve_rng_state=False)
        else:
            h = self._bottleneck(features, update_statistics=True)
        return self.conv2(F.relu(self.norm2(h), inplace=True))

    def _bottleneck(self, features: list[Tensor], update_statistics: bool) -> Tensor:
        h = self.norm1(torch.cat(features, 1), update_statistics)
        return self.conv1(F.relu(h, inplace=True))

    def _checkpointed_bottleneck(self, *features: Tensor) -> Tensor:
        return self._bottleneck(list(features), update_statistics=is_first_run())


class DenseBlock(nn.Module):
    """Dense layers, each of which reads the block's input and the outputs of all layers before it."""

    def __init__(self, layers: int, channels: int, growth: int, efficient: bool) -> None:
        super().__init__()
        for index in range(layers):
            self.add_module(f"layer{index + 1}", DenseLayer(channels + index * growth, growth, efficient))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.children():
            features.append(layer(features))
        return torch.cat(features, 1)


class Transition(nn.Module):
    """BN-ReLU-conv1x1-average pool 2x2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(in_channels, DENSENET_NORM)
        self.conv = Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x), inplace=True)), 2)


class DenseNet(nn.Module):
    """DenseNet-BC for CIFAR (Huang et al. 2017), compression 0.5.

    `efficient` recomputes concat, BN, ReLU and the 1x1 convolution of every layer in backward (Pleiss et al. 2017),
    with the running statistics left alone there.
    """

    sgd = DENSENET_SGD

    def __init__(
        self, depth: int, growth: int, image_channels: int = 3, classes: int = 10, efficient: bool = False
    ) -> None:
        super().__init__()
        if (depth - 4) % 6 != 0:
            raise ValueError(f"a DenseNet-BC's depth is 6n + 4, not {depth}")
        layers = (depth - 4) // 6
        channels = 2 * growth
        self.conv0 = Conv2d(image_channels, channels, 3)
        self.dense1 = DenseBlock(layers, channels, growth, efficient)
        for index in (1, 2):
            channels += layers * growth
            self.add_module(f"transition{index}", Transition(channels, channels // 2))
            channels //= 2
            self.add_module(f"dense{index + 1}", DenseBlock(layers, channels, growth, efficient))
        channels += layers * growth
        self.norm = BatchNorm2d(channels, DENSENET_NORM)
        self.classifier = nn.Linear(channels, classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, Conv2d):
                nn.init.normal_(module.weight, 0.0, he_deviation(module))
        initialise_linear(self.classifier, 1 / math.sqrt(self.classifier.in_features))

    def forward(self, images: Tensor) -> Tensor:
        h = self.dense1(self.conv0(images))
        h = self.dense2(self.transition1(h))
        h = self.dense3(self.transition2(h))
        return classify(h, self.norm, self.classifier)


@dataclass(frozen=True)
class UnitSpec:
    """A residual function's shape, or a unit's. Without `pre_activation` the first BN-ReLU is absent."""

    in_channels: int
    out_channels: int
    stride: int
    bottleneck: bool
    pre_activation: bool

    @property
    def changes_shape(self) -> bool:
        return self.stride > 1 or self.in_channels != self.out_channels


class Residual(nn.Module):
    """Residual function: (BN-ReLU-conv) twice with 3x3, or three times with 1x1, 3x3, 1x1 at a quarter of the width.

    The first convolution carries the stride.
    """

    def __init__(self, spec: UnitSpec) -> None:
        super().__init__()
        outer = spec.out_channels
        if spec.bottleneck:
            width = outer // 4
            convolutions = [
                Conv2d(spec.in_channels, width, 1, spec.stride),
                Conv2d(width, width, 3),
                Conv2d(width, outer, 1),
            ]
        else:
            convolutions = [Conv2d(spec.in_channels, outer, 3, spec.stride), Conv2d(outer, outer, 3)]
        for index, convolution in enumerate(convolutions, 1):
            if index > 1 or spec.pre_activation:
                self.add_module(f"norm{index}", BatchNorm2d(convolution.in_channels, RESIDUAL_NORM))
            self.add_module(f"conv{index}", convolution)

    def forward(self, x: Tensor, update_statistics: bool = True) -> Tensor:
        for module in self.children():
            if isinstance(module, BatchNorm2d):
                x = F.relu(module(x, update_statistics), inplace=True)
            else:
                x = module(x)
        return x


def _projection(spec: UnitSpec) -> Conv2d | None:
    """The 1x1 convolution on the shortcut of a bottleneck unit that changes shape; no other unit has one."""
    if spec.bottleneck and spec.changes_shape:
        return Conv2d(spec.in_channels, spec.out_channels, 1, spec.stride)
    return None


def _shortcut(x: Tensor, spec: UnitSpec, project: Conv2d | None) -> Tensor:
    """D(x): the projection where there is one, else average pool for the stride, zero channels on both sides."""
    if project is not None:
        return project(x)
    if spec.stride > 1:
        x = F.avg_pool2d(x, spec.stride)
    padding = (spec.out_channels - spec.in_channels) // 2
    return F.pad(x, (0, 0, 0, 0, padding, padding)) if padding > 0 else x


class ResidualUnit(nn.Module):
    """y = D(x) + F(x)."""

    def __init__(self, spec: UnitSpec) -> None:
        super().__init__()
        self.spec = spec
        self.f = Residual(spec)
        self.project = _projection(spec)

    def forward(self, x: Tensor) -> Tensor:
        return _shortcut(x, self.spec, self.project) + self.f(x)


Streams = tuple[Tensor, Tensor]


class ReversibleUnit(nn.Module):
    """y1 = D(x1) + F(x2), y2 = D(x2) + G(y1), each with half of the channels (Gomez et al. 2017, equations 6 and 7)."""

    def __init__(self, spec: UnitSpec) -> None:
        super().__init__()
        half = replace(spec, in_channels=spec.in_channels // 2, out_channels=spec.out_channels // 2)
        self.spec = half
        self.f = Residual(half)
        self.g = Residual(replace(half, in_channels=half.out_channels, stride=1, pre_activation=True))
        self.project1 = _projection(half)
        self.project2 = _projection(half)

    def forward(self, x1: Tensor, x2: Tensor, update_statistics: bool = True) -> Streams:
        y1 = _shortcut(x1, self.spec, self.project1) + self.f(x2, update_statistics)
        y2 = _shortcut(x2, self.spec, self.project2) + self.g(y1, update_statistics)
        return y1, y2

    def forward_checkpointed(self, x1: Tensor, x2: Tensor) -> Streams:
        """The unit with nothing but its inputs kept for backward."""
        return checkpoint(self._checkpointed, x1, x2, use_reentrant=True, preserve_rng_state=False)

    def _checkpointed(self, x1: Tensor, x2: Tensor) -> Streams:
        return self(x1, x2, update_statistics=is_first_run())


def _replay(residual: Residual, x: Tensor, output_grad: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Runs `residual` again, differentiates that run: output, gradient of the input, gradients of the parameters."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = residual(x, update_statistics=False)
    input_grad, *parameter_grads = torch.autograd.grad(y, [x, *residual.parameters()], output_grad)
    return y.detach(), input_grad, parameter_grads


class ReversibleChain(torch.autograd.Function):
    """A chain of invertible units that keeps its outputs alone (Gomez et al. 2017, Algorithm 1).

    In backward F and G each run once more; that run serves the reconstruction and the gradient.
    """

    @staticmethod
    def forward(ctx, units: list[ReversibleUnit], x1: Tensor, x2: Tensor, *parameters: Tensor) -> Streams:
        for unit in units:
            x1, x2 = unit(x1, x2)
        ctx.units = units
        ctx.save_for_backward(x1, x2)
        return x1, x2

    @staticmethod
    def backward(ctx, dy1: Tensor, dy2: Tensor) -> tuple[Tensor | None, ...]:
        y1, y2 = ctx.saved_tensors
        parameter_grads: list[Tensor] = []
        for unit in reversed(ctx.units):
            g, dg, g_grads = _replay(unit.g, y1, dy2)
            y2 = y2 - g
            dy1 = dy1 + dg
            f, df, f_grads = _replay(unit.f, y2, dy1)
            y1 = y1 - f
            dy2 = dy2 + df
            parameter_grads = [*f_grads, *g_grads, *parameter_grads]
        return None, dy1, dy2, *parameter_grads


class _ResidualNetwork(nn.Module):
    """What ResNet and RevNet share: stem, stages of units with strides 1, 2, 2, ..., BN-ReLU-pool-linear."""

    sgd = RESIDUAL_SGD

    def __init__(self, spec: ResidualSpec, unit_class: type[nn.Module], image_channels: int, classes: int) -> None:
        super().__init__()
        channels = spec.channels
        self.spec = spec
        kernel, stride = (7, 2) if spec.imagenet_stem else (3, 1)
        self.conv0 = Conv2d(image_channels, channels[0], kernel, stride)
        self.norm0 = BatchNorm2d(channels[0], RESIDUAL_NORM)
        self.stages: list[list[nn.Module]] = []
        for index, units in enumerate(spec.units):
            stage = nn.Module()
            for unit in range(units):
                first = unit == 0
                unit_spec = UnitSpec(
                    in_channels=channels[index] if first else channels[index + 1],
                    out_channels=channels[index + 1],
                    stride=2 if first and index > 0 else 1,
                    bottleneck=spec.bottleneck,
                    pre_activation=not (first and index == 0),
                )
                stage.add_module(f"unit{unit + 1}", unit_class(unit_spec))
            self.add_module(f"stage{index + 1}", stage)
            self.stages.append(list(stage.children()))
        self.norm = BatchNorm2d(channels[-1], RESIDUAL_NORM)
        self.classifier = nn.Linear(channels[-1], classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, Conv2d):
                deviation = he_deviation(module)
                nn.init.trunc_normal_(module.weight, 0.0, deviation, -2 * deviation, 2 * deviation)
        initialise_linear(self.classifier, math.sqrt(3 / self.classifier.in_features))

    def stem(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm0(self.conv0(images)), inplace=True)
        return F.max_pool2d(pad_same(x, 3, 2, -math.inf), 3, 2) if self.spec.imagenet_stem else x


class ResNet(_ResidualNetwork):
    """Pre-activation ResNet (He et al. 2016) in the variant that RevNet is compared with."""

    def __init__(self, spec: ResidualSpec, image_channels: int = 3, classes: int = 10) -> None:
        super().__init__(spec, ResidualUnit, image_channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        h = self.stem(images)
        for stage in self.stages:
            for unit in stage:
                h = unit(h)
        return classify(h, self.norm, self.classifier)


class RevNet(_ResidualNetwork):
    """RevNet (Gomez et al. 2017).

    `memory` is "plain", "checkpoint" (every unit keeps its inputs alone) or "reversible", which keeps, between forward and backward, the input of every unit that changes shape and the output of every
    chain of units that do not; all else in the stages is computed again, with the running statistics left alone.
    """

    def __init__(
        self, spec: ResidualSpec, image_channels: int = 3, classes: int = 10, memory: str = "plain"
    ) -> None:
        super().__init__(spec, ReversibleUnit, image_channels, classes)
        stages = {"plain": self._plain_stage, "checkpoint": self._checkpointed_stage}
        self._run_stage = stages.get(memory, self._reversible_stage)

    def forward(self, images: Tensor) -> Tensor:
        x1, x2 = (half.clone() for half in self.stem(images).chunk(2, 1))  # dense: kernels are slow on strided halves
        for units in self.stages:
            x1, x2 = self._run_stage(units, x1, x2)
        return classify(torch.cat((x1, x2), 1), self.norm, self.classifier)

    @staticmethod
    def _plain_stage(units: list[ReversibleUnit], x1: Tensor, x2: Tensor) -> Streams:
        for unit in units:
            x1, x2 = unit(x1, x2)
        return x1, x2

    @staticmethod
    def _checkpointed_stage(units: list[ReversibleUnit], x1: Tensor, x2: Tensor) -> Streams:
        for unit in units:
            x1, x2 = unit.forward_checkpointed(x1, x2)
        return x1, x2

    @staticmethod
    def _reversible_stage(units: list[ReversibleUnit], x1: Tensor, x2: Tensor) -> Streams:
        if units[0].spec.changes_shape:
            x1, x2 = units[0].forward_checkpointed(x1, x2)
            units = units[1:]
        parameters = [p for unit in units for residual in (unit.f, unit.g) for p in residual.parameters()]
        return ReversibleChain.apply(units, x1, x2, *parameters)
