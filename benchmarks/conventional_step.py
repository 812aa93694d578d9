"""The network, loss, step, schedule and transforms of the conventional trainer: torch.nn, autograd and torchvision.

`benchmarks.conventional` makes a whole trainer of them. `benchmarks.step` compares the step with this package's.
"""

from collections.abc import Callable

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import transforms

from cil_func.config.schema import Config, Optim


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A). Takes and returns (B, C, H, W).

    stride: of the first convolution; above 1 the shortcut takes every stride-th pixel. New channels of the shortcut are
    0.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.stride, self.widened = stride, channels - in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.widened))
        return self.relu(x + y)


class Net(nn.Module):
    """CIFAR's ResNet of depth 6n + 2 with a linear head that grows.

    Called with images (B, 3, H, W) it returns (logits (B, K), features (B, 64)). num_classes: K at first.
    """

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
        in_channels = 16
        for channels in (16, 32, 64):
            for _ in range((depth - 2) // 6):
                layers.append(Block(in_channels, channels, 1 + (channels > in_channels)))
                in_channels = channels
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(in_channels, num_classes)
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.backbone(images)
        return self.head(features), features

    def grow(self, num_new: int) -> None:
        """Adds num_new rows to the head and keeps the old ones."""
        old = self.head
        self.head = nn.Linear(old.in_features, old.out_features + num_new).to(old.weight.device)
        with torch.no_grad():
            self.head.weight[: old.out_features] = old.weight
            self.head.bias[: old.out_features] = old.bias


def make_step(
    net: Net,
    teacher: Net | None,
    optimiser: torch.optim.Optimizer,
    *,
    autocast: bool = False,
    channels_last: bool = False,
    temperature: float = 2.0,
    kd_weight: float | str = 2.0,
    kd_combination: str = "sum",
    label_smoothing: float = 0.0,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Returns a training step: (images (B, 3, H, W) float, labels (B,)) -> loss, a 0-d tensor. It trains net in place.

    teacher: the net of the phase before, in eval mode; None in phase 0. optimiser: of net's parameters.
    autocast: whether to compute in bfloat16; channels_last: whether images and weights have that layout in memory.
    Toolboxes use neither, and both make it faster.
    temperature, kd_weight, kd_combination, label_smoothing: the settings of [method].
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for module in (net, teacher):
        if module is not None:
            module.to(memory_format=layout)
    num_old, num_seen = 0 if teacher is None else teacher.head.out_features, net.head.out_features
    weight = num_old / num_seen if kd_weight == "dynamic" else kd_weight

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        images, taught = images.contiguous(memory_format=layout), None
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=autocast):
            logits = net(images)[0].float()
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher(images)[0].float()
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        if taught is not None:
            kd = distillation(logits[:, :num_old], taught, temperature)
            loss = loss + weight * kd if kd_combination == "sum" else (1 - weight) * loss + weight * kd
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def distillation(logits: torch.Tensor, taught: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns the soft cross-entropy of the student's logits against the teacher's, 0-d, the batch's mean.

    logits: the student's, of the old classes; taught: the teacher's; both (B, old classes).
    """
    return F.cross_entropy(logits / temperature, F.softmax(taught / temperature, dim=1))


def align(head: nn.Linear, num_new: int) -> float:
    """Scales the last num_new weight rows, in place, to the mean norm of the others. Returns the factor gamma."""
    with torch.no_grad():
        norms = head.weight.norm(dim=1)
        gamma = norms[:-num_new].mean() / norms[-num_new:].mean()
        head.weight[-num_new:] *= gamma
    return gamma.item()


def make_transforms(config: Config, size: int) -> tuple[Callable, Callable]:
    """Returns (transform of training images, transform of all other images) by [augment] and [data].

    Each takes a PIL image of size x size pixels and returns a float tensor (3, H, W), normalised.
    """
    settings, mean, std = config.augment, config.data.mean, config.data.std
    to_tensor = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    augmented = []
    if settings.crop_padding:
        augmented.append(transforms.RandomCrop(size, padding=settings.crop_padding))
    if settings.flip:
        augmented.append(transforms.RandomHorizontalFlip())
    if settings.brightness:
        augmented.append(transforms.ColorJitter(brightness=settings.brightness))
    if settings.auto_augment:
        from timm.data.auto_augment import rand_augment_transform  # late: timm takes seconds to import

        fill = tuple(min(255, round(255 * value)) for value in mean)
        hparams = {"translate_const": int(size * 0.45), "img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
        augmented.append(rand_augment_transform(settings.auto_augment, hparams))
    return transforms.Compose(augmented + to_tensor), transforms.Compose(to_tensor)


def make_scheduler(optimiser: torch.optim.Optimizer, optim: Optim) -> torch.optim.lr_scheduler.LRScheduler:
    """Returns the schedule of the learning rate; call its `step` once an epoch. optim: as it holds for the phase."""
    if optim.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=optim.epochs)
    return torch.optim.lr_scheduler.MultiStepLR(optimiser, list(optim.milestones), gamma=optim.milestone_factor)
