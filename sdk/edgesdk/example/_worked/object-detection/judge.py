"""By what the detector is judged."""

import torch
from loss import overlaps
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision as Averaged

MOST, LEAST, SAME = 100, 0.01, 0.6  # answers that are looked at, the least probability, the overlap of one object


def suppressed(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Non-maximum suppression class by class of one image's ``boxes``, (4, A), and ``scores``, (C, A): the boxes that
    stay, (K, 4), their probabilities and classes, likeliest first."""
    likely, order = scores.flatten().topk(min(MOST, scores.numel()))
    order = order[likely > LEAST]
    classes, places = order // scores.shape[1], order % scores.shape[1]
    boxes, likely = boxes.T[places], likely[: len(order)]
    rivals = (overlaps(boxes[:, None], boxes[None])[0] > SAME) & (classes[:, None] == classes)
    stays = torch.ones(len(order), dtype=torch.bool)
    for row in range(len(order)):
        if stays[row]:
            stays[row + 1 :] &= ~rivals[row, row + 1 :]
    return boxes[stays], likely[stays], classes[stays]


class MeanAveragePrecision:
    """COCO's: of all classes, at overlaps from 0.5 to 0.95, in percent."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.averaged = Averaged(backend="faster_coco_eval")

    def update(self, outputs: tuple[Tensor, Tensor], targets: Tensor) -> None:
        """See a batch."""
        found, wanted = [], []
        for boxes, scores, objects in zip(*outputs, targets, strict=True):
            kept = dict(zip(("boxes", "scores", "labels"), suppressed(boxes.float(), scores.float()), strict=True))
            found.append(kept)
            objects = objects[objects[:, 0] >= 0]
            wanted.append({"boxes": objects[:, 1:], "labels": objects[:, 0].long()})
        self.averaged.update(found, wanted)

    def compute(self) -> float:
        """In percent."""
        return 100 * float(self.averaged.compute()["map"])
