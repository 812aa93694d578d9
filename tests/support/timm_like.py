"""Small models in timm's place: "draws" has every kind of layer that draws, "tiny" is made for one size of images."""

import timm
import torch
import torch.nn.functional as F
from torch import nn

from cil_func.networks import timm_skeleton


class Residual(nn.Module):
    """Stochastic depth by a layer of a model's own, as efficientvit_msra has it."""

    def __init__(self, drop: float):
        super().__init__()
        self.drop = drop

    def forward(self, x):
        if self.training and self.drop > 0:
            return x + x * torch.rand(len(x), 1, 1, 1, device=x.device).ge(self.drop)
        return x + x


class Draws(nn.Module):
    def __init__(self, num_classes=0, drop_rate=0.2, drop_path_rate=0.2):
        super().__init__()
        self.num_features, self.drop_rate, self.attn_drop_p = 8, drop_rate, 0.2
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.path, self.block = timm.layers.DropPath(drop_path_rate), timm.layers.DropBlock2d(0.2, block_size=1)
        self.own, self.patches = Residual(0.2), timm.layers.PatchDropout(0.2, num_prefix_tokens=0)
        self.dropouts = nn.Sequential(nn.Dropout(drop_rate), nn.Dropout1d(0.2), nn.AlphaDropout(0.2))

    def forward(self, x):
        x = self.own(self.stem(x))
        x = self.block(x + self.path(x)).flatten(2).transpose(1, 2)                 # (B, N, 8)
        x = self.dropouts(self.patches(x))
        x = F.scaled_dot_product_attention(x, x, x, dropout_p=self.attn_drop_p if self.training else 0.0)
        return F.dropout(x.mean(1), self.drop_rate, self.training)


class Tiny(nn.Module):
    def __init__(self, num_classes=0, img_size=224):
        super().__init__()
        self.num_features = 4
        self.stem, self.norm = nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4)
        self.position = nn.Parameter(torch.randn(4, img_size // 8, img_size // 8))

    def forward(self, x):
        return (self.norm(self.stem(x)) + self.position).mean((2, 3))


def install(monkeypatch) -> None:
    """Makes them the only models that timm has, for one test."""
    known = {"draws": Draws, "tiny": Tiny}
    monkeypatch.setattr(timm, "is_model", known.__contains__)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **options: known[name](**options))
    forget()


def forget() -> None:
    """Makes the next use of a model the first one."""
    for cache in (timm_skeleton._free, timm_skeleton._prototypes, timm_skeleton._takes_size):
        cache.clear()
