"""The layers, constants and optimiser that the PyTorch modules of pytorch_models.py are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class NormSpec:
    """Constants of batch normalisation. `momentum` is the weight of the new statistic in the running average."""

    eps: float
    momentum: float
    biased_running_variance: bool


@dataclass(frozen=True)
class SgdSpec:
    """Constants of stochastic gradient descent. Without `decay_norm_and_bias` only conv and linear weights decay."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    decay_norm_and_bias: bool


DENSENET_NORM = NormSpec(eps=1e-5, momentum=0.1, biased_running_variance=False)
RESIDUAL_NORM = NormSpec(eps=1e-3, momentum=0.01, biased_running_variance=True)
DENSENET_SGD = SgdSpec(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, decay_norm_and_bias=True)
RESIDUAL_SGD = SgdSpec(lr=0.1, momentum=0.9, nesterov=False, weight_decay=2e-4, decay_norm_and_bias=False)


class BatchNorm2d(nn.Module):
    """Batch normalisation with a biased or an unbiased running variance, which a replay can leave alone."""

    def __init__(self, channels: int, spec: NormSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, update_statistics: bool = True) -> Tensor:
        if not update_statistics:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.spec.eps)
        if not self.spec.biased_running_variance:
            return self._normalise(x, self.running_var)
        count = x.numel() // x.size(1)
        # PyTorch's update takes the unbiased variance and is linear: scale, update, scale back.
        unbiased = self.running_var * (count / (count - 1))
        y = self._normalise(x, unbiased)
        self.running_var.copy_(unbiased * ((count - 1) / count))
        return y

    def _normalise(self, x: Tensor, running_var: Tensor) -> Tensor:
        momentum, eps = self.spec.momentum, self.spec.eps
        return F.batch_norm(x, self.running_mean, running_var, self.weight, self.bias, True, momentum, eps)


class Conv2d(nn.Conv2d):
    """Convolution without bias, with TensorFlow's SAME padding for even sizes."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1 and self.kernel_size[0] > 1:
            x = pad_same(x, self.kernel_size[0], self.stride[0])
        return super().forward(x)


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0) -> Tensor:
    """TensorFlow's SAME padding of sides that the stride divides."""
    before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
    return F.pad(x, (before, after, before, after), value=value)


def is_first_run() -> bool:
    """Whether a function under (reentrant) `checkpoint` runs for the first time: only then is it without gradients.

    A compiled model has no second run of Python code: what is traced counts as the first.
    """
    compiler = getattr(torch, "compiler", None)
    is_compiling = getattr(compiler, "is_compiling", lambda: False)
    return is_compiling() or not torch.is_grad_enabled()


def he_deviation(conv: Conv2d) -> float:
    return math.sqrt(2 / (conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels))


def initialise_linear(linear: nn.Linear, bound: float) -> None:
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.zeros_(linear.bias)


def classify(x: Tensor, norm: BatchNorm2d, classifier: nn.Linear) -> Tensor:
    """BN-ReLU-global average pool-linear."""
    return classifier(F.relu(norm(x), inplace=True).mean((2, 3)))


def make_optimizer(model: nn.Module, sgd: SgdSpec) -> torch.optim.SGD:
    """SGD over the model's parameters, with weight decay on those that `sgd` names."""
    decayed = [p for p in model.parameters() if sgd.decay_norm_and_bias or p.dim() > 1]
    plain = [p for p in model.parameters() if not sgd.decay_norm_and_bias and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": sgd.weight_decay}]
    if plain:
        groups.append({"params": plain, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=sgd.lr, momentum=sgd.momentum, nesterov=sgd.nesterov, foreach=True)


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
