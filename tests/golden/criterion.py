"""Matching and losses of DETR and of SMCA-DETR, written from their formulas.

Both kinds cost and lose `class_weight`, 5 and 2 times their class, L1 and GIoU terms. They differ in the class term only:

    DETR   cost: minus the softmax probability of the object's class. Loss: cross-entropy over classes and "no object" (the
           last index, weight 0.1), divided by the sum of the weights of all queries' targets. class_weight 1.
    SMCA   cost: the difference of two focal terms of the object's class. Loss: sigmoid focal loss (alpha 0.25, gamma 2)
           summed over all queries and all classes + 1 outputs, divided by the number of boxes. class_weight 2.

L1 and 1 - GIoU are summed over matched pairs and divided by the number of boxes, at least 1. Every decoder layer is matched
and penalized by itself, with the same weights.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

NO_OBJECT_WEIGHT = 0.1
L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0
CLASS_WEIGHT = {"detr": 1.0, "smca": 2.0}


def corners(boxes):
    """cxcywh as xyxy."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def generalized_iou(left, right):
    """GIoU of every box of `left [N, 4]` with every box of `right [M, 4]`, both cxcywh: `[N, M]`."""
    left, right = corners(left)[:, None], corners(right)[None]
    area = lambda box: (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])  # noqa: E731
    inner = (torch.minimum(left[..., 2:], right[..., 2:]) - torch.maximum(left[..., :2], right[..., :2])).clamp(min=0).prod(-1)
    outer = (torch.maximum(left[..., 2:], right[..., 2:]) - torch.minimum(left[..., :2], right[..., :2])).prod(-1)
    union = area(left) + area(right) - inner
    return inner / union - (outer - union) / outer


@torch.no_grad()
def matching_cost(kind, logits, boxes, target):
    """The cost of giving each of an image's objects to each query: `[N, M]`."""
    if kind == "detr":
        class_cost = -logits.softmax(-1)[:, target["labels"]]
    else:
        p = logits.sigmoid()[:, target["labels"]]
        as_object = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
        as_nothing = 0.75 * p**2 * -(1 - p + 1e-8).log()
        class_cost = as_object - as_nothing
    l1 = (boxes[:, None] - target["boxes"][None]).abs().sum(-1)
    return CLASS_WEIGHT[kind] * class_cost + L1_WEIGHT * l1 - GIOU_WEIGHT * generalized_iou(boxes, target["boxes"])


def assign(cost):
    """The cheapest assignment: query and object indices, in the order of the queries."""
    queries, objects = linear_sum_assignment(cost)
    return torch.as_tensor(queries), torch.as_tensor(objects)


def margin(cost):
    """How much dearer the best *other* assignment is: a golden whose matching hangs on rounding is no golden."""
    cost = cost.numpy()
    queries, objects = linear_sum_assignment(cost)
    best, others = cost[queries, objects].sum(), []
    for pair in zip(queries, objects):
        without = cost.copy()
        without[pair] = 1e6
        others.append(without[linear_sum_assignment(without)].sum() - best)
    return min(others, default=np.inf)


def class_loss(kind, logits, classes, num_boxes):
    """The class term for `logits [B, N, K + 1]` and target classes `[B, N]`, K where a query has no object."""
    no_object = logits.shape[-1] - 1
    if kind == "detr":
        weight = torch.ones(no_object + 1, dtype=logits.dtype)
        weight[no_object] = NO_OBJECT_WEIGHT
        return F.cross_entropy(logits.flatten(0, 1), classes.flatten(), weight)
    wanted = F.one_hot(classes, no_object + 1).to(logits.dtype)
    wanted[..., no_object] = 0
    p = logits.sigmoid()
    surprise = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    p_wrong = torch.where(wanted > 0, 1 - p, p)
    alpha = torch.where(wanted > 0, 0.25, 0.75)
    return (alpha * p_wrong**2 * surprise).sum() / num_boxes


def layer_losses(kind, logits, boxes, targets, pairs):
    """The three terms of one decoder layer, unweighted."""
    num_boxes = max(sum(len(target["labels"]) for target in targets), 1)
    classes = torch.full(logits.shape[:2], logits.shape[-1] - 1)
    l1, giou = boxes.sum() * 0, boxes.sum() * 0
    for image, (target, (queries, objects)) in enumerate(zip(targets, pairs)):
        classes[image, queries] = target["labels"][objects]
        mine, theirs = boxes[image, queries], target["boxes"][objects]
        l1 = l1 + (mine - theirs).abs().sum() / num_boxes
        giou = giou + (1 - generalized_iou(mine, theirs).diagonal()).sum() / num_boxes
    return {"class": class_loss(kind, logits, classes, num_boxes), "l1": l1, "giou": giou}


def criterion(kind, all_logits, all_boxes, targets):
    """Total loss, the terms of each layer, the matched pairs of each layer and image, and the smallest margin."""
    total, terms, matched, margins = 0, [], [], []
    for logits, boxes in zip(all_logits, all_boxes):
        costs = [matching_cost(kind, *of_image) for of_image in zip(logits, boxes, targets)]
        pairs = [assign(cost) for cost in costs]
        losses = layer_losses(kind, logits, boxes, targets, pairs)
        total = total + CLASS_WEIGHT[kind] * losses["class"] + L1_WEIGHT * losses["l1"] + GIOU_WEIGHT * losses["giou"]
        terms.append(losses)
        matched.append(pairs)
        margins.extend(margin(cost) for cost in costs)
    return total, terms, matched, min(margins)
