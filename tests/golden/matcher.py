"""Writes assets/golden/train/matcher.json: predictions matched by scipy on costs from the papers' formulas,
and whole-number cost matrices full of ties.

    pip install numpy scipy
    python tests/golden/matcher.py
"""

import json
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

OUT = Path(__file__).resolve().parents[2] / "assets" / "golden" / "train" / "matcher.json"


def corners(b):
    return np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1)


def giou(a, b):
    """Pairwise, xyxy."""
    a, b = a[:, None], b[None]
    area = lambda r: (r[..., 2] - r[..., 0]) * (r[..., 3] - r[..., 1])
    wh = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    inter = wh[..., 0] * wh[..., 1]
    union = area(a) + area(b) - inter
    hull_wh = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    hull = hull_wh[..., 0] * hull_wh[..., 1]
    return inter / union - (hull - union) / hull


def costs(kind, logits, boxes, labels, targets):
    l1 = np.abs(boxes[:, None] - targets[None]).sum(-1)
    g = giou(corners(boxes), corners(targets))
    if kind == "detr":
        e = np.exp(logits - logits.max(1, keepdims=True))
        return 5 * l1 + 1 * -(e / e.sum(1, keepdims=True))[:, labels] + 2 * -g
    s = 1 / (1 + np.exp(-logits))
    hit = 0.25 * (1 - s) ** 2 * -np.log(s + 1e-8)
    miss = 0.75 * s**2 * -np.log(1 - s + 1e-8)
    return 5 * l1 + 2 * (hit - miss)[:, labels] + 2 * -g


def case(rng, name, queries, objects, classes):
    logits = rng.normal(size=(queries, classes)) * 2
    boxes, targets = (np.concatenate([rng.uniform(0.2, 0.8, (n, 2)), rng.uniform(0.05, 0.4, (n, 2))], 1) for n in (queries, objects))
    labels = rng.integers(0, classes - 1, objects)
    logits, boxes, targets = (np.round(v, 3) for v in (logits, boxes, targets))
    out = {
        "name": name, "classes": classes, "logits": logits.tolist(), "boxes": boxes.tolist(),
        "labels": labels.tolist(), "targets": targets.tolist(),
    }
    for kind in ("detr", "smca"):
        c = costs(kind, logits, boxes, labels, targets) if objects else np.zeros((queries, 0))
        rows, columns = linear_sum_assignment(c)
        out[kind] = np.transpose([rows, columns]).tolist()
    return out


def main():
    rng = np.random.default_rng(7)
    cases = [
        case(rng, "few objects", 20, 4, 5),
        case(rng, "as many as queries", 9, 9, 4),
        case(rng, "more objects than queries", 6, 11, 4),
        case(rng, "no objects", 5, 0, 3),
        case(rng, "one query", 1, 3, 3),
        case(rng, "many", 60, 25, 8),
    ]
    matrices = [rng.integers(0, high, shape) for shape in [(8, 5), (5, 8), (7, 7), (30, 12)] for high in (1, 2, 3, 5)]
    ties = [{"shape": m.shape, "cost": m.ravel().tolist(), "pairs": np.transpose(linear_sum_assignment(m)).tolist()} for m in matrices]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"cases": cases, "ties": ties}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
