"""The CIFAR ResNet written conventionally with torch.nn, to compare `cil_func.networks` with."""

import torch
from torch import nn
from torch.nn import functional as F

from cil_func import tree


class Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.stride = stride

    def forward(self, x):
        """Returns the block's output before its last ReLU."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.stride != 1:  # option A
            x = x[:, :, ::2, ::2]
            x = torch.cat([x, torch.zeros_like(x)], dim=1)
        return x + y


class ResNet(nn.Module):
    """The network. The names of its parameters are the package's paths, so that a tree loads as a state dict."""

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        self.stem = nn.ModuleDict({"conv": nn.Conv2d(3, 16, 3, padding=1, bias=False), "norm": nn.BatchNorm2d(16)})
        in_channels = 16
        for stage, channels in enumerate((16, 32, 64)):
            blocks = nn.ModuleDict()
            for i in range((depth - 2) // 6):
                blocks[f"block{i}"] = Block(in_channels, channels, 2 if stage and i == 0 else 1)
                in_channels = channels
            setattr(self, f"stage{stage}", blocks)
        self.classifier = nn.Linear(64, num_classes)

    def maps(self, images):
        """Returns the outputs of all blocks before their last ReLU, (B, C, H, W) each."""
        x, found = self.stem["norm"](self.stem["conv"](images)), []
        for stage in (self.stage0, self.stage1, self.stage2):
            for block in stage.values():
                x = block(F.relu(x))
                found.append(x)
        return found

    def forward(self, images):
        features = F.adaptive_avg_pool2d(F.relu(self.maps(images)[-1]), 1).flatten(1)
        return self.classifier(features), features


def parameters(params: dict) -> dict[str, torch.Tensor]:
    """Returns the package's parameters, or their gradients, under the names that the network has for them."""
    (backbone,) = params["backbone"].values()
    return tree.to_paths({**backbone, "classifier": params["classifier"]})


def statistics(state: dict) -> dict[str, torch.Tensor]:
    """Returns the package's running statistics under the names that the network has for them."""
    (backbone,) = state["backbone"].values()
    names = {"mean": "running_mean", "var": "running_var"}
    flat = tree.to_paths(backbone)
    return {f"{path.rpartition('.')[0]}.{names[path.rpartition('.')[2]]}": leaf for path, leaf in flat.items()}


def load(depth: int, params: dict, state: dict) -> ResNet:
    """Returns the torch.nn network with the package's numbers, in their dtype."""
    num_classes = len(params["classifier"]["bias"])
    network = ResNet(depth, num_classes).to(params["classifier"]["bias"].dtype)
    found = network.load_state_dict(parameters(params) | statistics(state), strict=False)
    assert not found.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in found.missing_keys)
    return network
