"""By what the detector learns."""

import torch
from net import BINS, CLASSES, centres
from torch import Tensor
from torch.nn import functional as F

TOP, ALPHA, BETA = 10, 0.5, 6.0  # of the assignment
BOX, DISTRIBUTION, LABEL = 7.5, 1.5, 0.5  # weights of the losses, YOLOv8's
LEAST = 1e-4  # of a probability, in a logarithm


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection over union of boxes (..., 4), the union, and the box that holds both, as (..., 2) sides."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    shared = sides.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared + 1e-7
    return shared / union, union, around


def complete_overlap(a: Tensor, b: Tensor) -> Tensor:
    """CIoU (Zheng et al. 2020, equation 10): the overlap, less by how far centres are apart and shapes differ."""
    overlap, _, around = overlaps(a, b)
    apart = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) ** 2).sum(-1) / 4
    (wide, high), (wide_b, high_b) = (s.unbind(-1) for s in (a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]))
    angle = torch.atan(wide_b / (high_b + 1e-7)) - torch.atan(wide / (high + 1e-7))
    shape = 4 / torch.pi**2 * angle**2
    with torch.no_grad():
        weight = shape / (1 - overlap + shape + 1e-7)
    return overlap - apart / ((around**2).sum(-1) + 1e-7) - weight * shape


@torch.no_grad()
def assigned(boxes: Tensor, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which places answer for which objects, by task-aligned learning (Feng et al. 2021, equations 1 to 4).

    ``boxes`` (N, A, 4), ``scores`` (N, A, C), ``targets`` (N, M, 5). Returns which places have an object, bool of
    shape (N, A), its box, (N, A, 4), and the probabilities that are wanted, (N, A, C).
    """
    points = centres()[0].to(boxes).T
    there, classes, wanted = targets[..., 0] >= 0, targets[..., 0].clamp(min=0).long(), targets[..., 1:]
    inside = ((points > wanted[..., None, :2]) & (points < wanted[..., None, 2:])).all(-1) & there[..., None]
    overlap = complete_overlap(boxes[:, None], wanted[:, :, None]).clamp(min=0) * inside
    likely = scores.transpose(1, 2).gather(1, classes[..., None].expand(-1, -1, scores.shape[1]))
    aligned = likely**ALPHA * overlap**BETA * inside
    best = aligned.topk(TOP, 2).indices
    chosen = torch.zeros_like(aligned).scatter_(2, best, 1.0).bool() & inside & (aligned > 0)
    owner = (overlap * chosen).argmax(1, keepdim=True)
    chosen &= torch.zeros_like(chosen).scatter_(1, owner, True)
    most, widest = ((v * chosen).amax(2, keepdim=True) for v in (aligned, overlap))
    strength = (aligned * chosen * widest / (most + 1e-9)).amax(1)
    owner = chosen.float().argmax(1)
    has = chosen.any(1)
    labels = classes.gather(1, owner)
    probabilities = F.one_hot(labels, CLASSES).to(scores) * (strength * has)[..., None]
    return has, wanted.gather(1, owner[..., None].expand(-1, -1, 4)), probabilities


def loss(outputs: tuple[Tensor, Tensor], targets: Tensor, sides: Tensor | None = None) -> Tensor:
    """CIoU of the boxes and the cross-entropy of the classes; where the logits of the distributions are given, their
    focal loss (Li et al. 2020, equation 6), too."""
    boxes, scores = (output.transpose(1, 2) for output in outputs)
    targets = targets.to(boxes)
    has, wanted, probabilities = assigned(boxes, scores, targets)
    total = probabilities.sum().clamp(min=1)
    error = LABEL * F.binary_cross_entropy(scores.clamp(LEAST, 1 - LEAST), probabilities, reduction="sum")
    weight = probabilities.sum(-1)[has]
    error = error + BOX * ((1 - complete_overlap(boxes[has], wanted[has])) * weight).sum()
    if sides is not None:
        points, strides = (place.to(boxes) for place in centres())
        near, far = wanted[..., :2], wanted[..., 2:]
        reach = torch.cat([points.T - near, far - points.T], -1) / strides[:, None]
        reach = reach[has].clamp(0, BINS - 1 - 0.01)
        logits = sides.transpose(1, 2)[has].view(-1, BINS)
        low = reach.long().flatten()
        high_share = reach.flatten() - low
        focal = F.cross_entropy(logits, low, reduction="none") * (1 - high_share)
        focal = focal + F.cross_entropy(logits, low + 1, reduction="none") * high_share
        error = error + DISTRIBUTION * (focal.view(-1, 4).mean(1) * weight).sum()
    return error / total
