"""A detector like the YOLOs since YOLOv6: no anchors, three strides, each side of a box the mean of a distribution."""

import torch
from torch import Tensor, nn

SIDE, STRIDES = 320, (8, 16, 32)
CLASSES = 15  # ten digits, then tops, trousers, dresses, shoes and bags
BINS = 8
WIDTHS = (8, 16, 32, 64, 96)  # at strides 2 to 32
HEAD = 32
PRIOR = 0.01  # how likely a place has an object of a class, before anything is learnt


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution, normalised, with ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Block(nn.Module):
    """Two halves, a bottleneck behind the second, all three joined (YOLOv8's C2f)."""

    def __init__(self, inputs: int, outputs: int, shortcut: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.enter = conv(inputs, 2 * half, 1)
        self.bottleneck = nn.Sequential(conv(half, half), conv(half, half))
        self.leave = conv(3 * half, outputs, 1)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The same height and width."""
        first, second = self.enter(x).chunk(2, 1)
        third = self.bottleneck(second)
        return self.leave(torch.cat([first, second, third + second if self.shortcut else third], 1))


def centres() -> tuple[Tensor, Tensor]:
    """The centres of all places in pixels, (2, 2100), and their strides, (2100,)."""
    points, strides = [], []
    for stride in STRIDES:
        along = torch.arange(stride / 2, SIDE, stride)
        rows, columns = torch.meshgrid(along, along, indexing="ij")
        points.append(torch.stack([columns, rows]).flatten(1))
        strides.append(torch.full((along.numel() ** 2,), float(stride)))
    return torch.cat(points, 1), torch.cat(strides)


class Detector(nn.Module):
    """Images (N, 1, 320, 320), 0 to 1, to boxes (N, 4, 2100), left, top, right and bottom in pixels, and the
    probabilities of the classes, (N, 15, 2100). Non-maximum suppression is left to who uses them."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d, e = WIDTHS
        self.to4 = nn.Sequential(conv(1, a, stride=2), conv(a, b, stride=2))
        self.to8 = nn.Sequential(conv(b, c, stride=2), Block(c, c, True))
        self.to16 = nn.Sequential(conv(c, d, stride=2), Block(d, d, True))
        self.to32 = nn.Sequential(conv(d, e, stride=2), Block(e, e, True))
        self.up = nn.Upsample(scale_factor=2)
        self.up16, self.up8 = Block(e + d, d, False), Block(d + c, c, False)
        self.down16, self.join16 = conv(c, c, stride=2), Block(c + d, d, False)
        self.down32, self.join32 = conv(d, d, stride=2), Block(d + e, e, False)
        widths = (c, d, e)
        self.sides = nn.ModuleList(nn.Sequential(conv(w, HEAD), nn.Conv2d(HEAD, 4 * BINS, 1)) for w in widths)
        self.classes = nn.ModuleList(nn.Sequential(conv(w, HEAD), nn.Conv2d(HEAD, CLASSES, 1)) for w in widths)
        for head in self.classes:
            nn.init.constant_(head[1].bias, float(torch.tensor(PRIOR).logit()))
        self.mean = nn.Conv2d(BINS, 1, 1, bias=False)
        self.mean.weight = nn.Parameter(torch.arange(BINS).float().view(1, BINS, 1, 1), requires_grad=False)
        points, strides = centres()
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the distributions, (N, 32, 2100), sides by bins, and of the classes, (N, 15, 2100)."""
        at8 = self.to8(self.to4(x))
        at16 = self.to16(at8)
        at32 = self.to32(at16)
        at16 = self.up16(torch.cat([self.up(at32), at16], 1))
        at8 = self.up8(torch.cat([self.up(at16), at8], 1))
        at16 = self.join16(torch.cat([self.down16(at8), at16], 1))
        at32 = self.join32(torch.cat([self.down32(at16), at32], 1))
        levels = (at8, at16, at32)
        sides = [head(level).flatten(2) for head, level in zip(self.sides, levels, strict=True)]
        classes = [head(level).flatten(2) for head, level in zip(self.classes, levels, strict=True)]
        return torch.cat(sides, 2), torch.cat(classes, 2)

    def boxes(self, sides: Tensor) -> Tensor:
        """Boxes in pixels, each side as far from the centre as its distribution's mean (Li et al. 2020, equation 4)."""
        bins = sides.view(-1, 4, BINS, sides.shape[2]).transpose(1, 2).softmax(1)
        left_top, right_bottom = self.mean(bins).squeeze(1).chunk(2, 1)
        return torch.cat([self.points - left_top * self.strides, self.points + right_bottom * self.strides], 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and probabilities."""
        sides, classes = self.maps(x)
        return self.boxes(sides), classes.sigmoid()


def make() -> nn.Module:
    """The network."""
    return Detector()
