"""The models that compare.py times, each with the memory modes to compare."""

from __future__ import annotations

from dataclasses import dataclass

GRID = ", grid "  # between a policy and the bits of the grid that its model works on
ON_GRID = f"{GRID}16"
BUDGETS = ("budget=50% of store-all", "budget=25% of store-all")


@dataclass(frozen=True)
class Workload:
    """A model and batch size, and the memory modes to compare; the first of each framework is its baseline. Of ours, a
    budget is a share of what store-all needs; "reversible, grid 16" is a policy on a grid (--grid), where reversal is
    exact. Those of a model on a grid leave the bits of each other, those in `inexact` nobody's."""

    title: str
    arguments: tuple[str, ...]
    ours: tuple[str, ...]
    inexact: tuple[str, ...]
    pytorch: tuple[str, ...]
    pytorch_cuda: tuple[str, ...]
    of_torchvision: bool = False  # PyTorch's model


def densenet(depth: int, growth: int, batch_size: int, budgets: tuple[str, ...] = BUDGETS) -> Workload:
    return Workload(
        f"DenseNet-BC({depth},{growth}), batch {batch_size}",
        ("--model", "densenet", "--depth", str(depth), "--growth", str(growth), "--batch-size", str(batch_size)),
        ours=("store-all", "shared", "checkpoint", "offload", *budgets),
        inexact=(),
        pytorch=("plain", "efficient"),
        pytorch_cuda=("plain", "efficient"),
    )


def revnet(depth: int, batch_size: int, budgets: tuple[str, ...] = BUDGETS) -> Workload:
    on_grid = ("store-all", "checkpoint", "reversible")
    return Workload(
        f"RevNet-{depth}, batch {batch_size}",
        ("--model", "revnet", "--depth", str(depth), "--batch-size", str(batch_size)),
        ours=("store-all", "checkpoint", "reversible", "offload", *budgets, *(f"{policy}{ON_GRID}" for policy in on_grid)),
        inexact=("reversible", *budgets),  # without a grid what is solved for is right up to rounding
        pytorch=("plain", "reversible"),
        pytorch_cuda=("plain", "checkpoint", "reversible"),
    )


def imagenet(model: str, depth: int, batch_size: int, size: int, modes: dict[str, tuple[str, ...]]) -> Workload:
    """A network for ImageNet. PyTorch's is torchvision's; RevNets are pytorch_models.py's."""
    names = {"densenet": f"DenseNet-{depth}", "resnet": f"ResNet-{depth}", "revnet": f"RevNet-{depth}"}
    classes = "1000" if size == 224 else "10"
    flags = ("--model", model, "--depth", str(depth), "--batch-size", str(batch_size), "--image-size", str(size))
    title = f"{names[model]} on {size}x{size}, batch {batch_size}"
    return Workload(title, (*flags, "--classes", classes), of_torchvision=model != "revnet", **modes)


def imagenet_workloads(batch_size: int, size: int) -> dict[str, Workload]:
    plain, reversible = ("plain",), ("plain", "reversible")
    grid = (f"store-all{ON_GRID}", f"reversible{ON_GRID}")
    modes = {
        "resnet50": dict(ours=("store-all", "checkpoint"), inexact=(), pytorch=plain, pytorch_cuda=plain),
        "densenet121": dict(
            ours=("store-all", "shared"), inexact=(), pytorch=("plain", "efficient"), pytorch_cuda=("plain", "efficient")
        ),
        "revnet104": dict(
            ours=("store-all", "reversible", *grid), inexact=("reversible",), pytorch=reversible, pytorch_cuda=reversible
        ),
    }
    chosen = {"resnet50": ("resnet", 50), "densenet121": ("densenet", 121), "revnet104": ("revnet", 104)}
    return {key: imagenet(*chosen[key], batch_size, size, modes[key]) for key in chosen}


WORKLOADS = {"densenet": densenet(100, 12, 64), "revnet": revnet(110, 100), **imagenet_workloads(16, 224)}
# In so small a model a quarter of store-all is not feasible.
QUICK_WORKLOADS = {
    "densenet": densenet(40, 12, 16, BUDGETS[:1]),
    "revnet": revnet(38, 16, BUDGETS[:1]),
    **imagenet_workloads(2, 64),
}
