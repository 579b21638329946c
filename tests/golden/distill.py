"""Writes assets/golden/train/distill.json: Q-DETR's distillation, from the equations of the paper (CVPR 2023).

    pip install -r tests/golden/requirements.txt
    python tests/golden/distill.py --out assets/golden/train

`queries`: foreground-aware query matching (Eq. 10 to 13, "for some object" where the paper prints "for all") in plain Python, and the
loss on what was matched with its gradient (Eq. 14) by PyTorch. Features are `hashed_uniform(f"{case}/student", i)` and likewise of the
teacher; where `equal` says so, the first kept query has the features of its partner.

`alignment`: distribution alignment (Eq. 9) of hashed queries and its gradients by PyTorch, for the loss `sum(y * hashed("da/d_y"))`.

Computed in f64. Drawn boxes are drawn again until no decision hangs on less than MARGIN: what is equal, is equal on purpose.
"""

import argparse
import json
import pathlib
import random

from hashed import hashed_uniform

CHANNELS = 8
MARGIN = 1e-4
FAR = [0.02, 0.02, 0.02, 0.02]


def giou(a, b):
    """Of two boxes cxcywh."""
    a, b = ([c - s / 2 for c, s in zip(v[:2], v[2:])] + [c + s / 2 for c, s in zip(v[:2], v[2:])] for v in (a, b))
    area = lambda r: (r[2] - r[0]) * (r[3] - r[1])
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = area(a) + area(b) - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union - (hull - union) / hull


def match(student, teacher, objects, tau):
    """The partner of each student query, or -1; `None` when a decision is too close to call."""
    kept = [False] * len(student)
    for obj in objects:
        overlaps = [giou(obj, s) for s in student]
        best = max(overlaps)
        for j, overlap in enumerate(overlaps):
            # A query with the best overlap is on the edge for tau = 1, exactly.
            if abs(best) < MARGIN or (overlap != best and abs(overlap - tau * best) < MARGIN):
                return None
            kept[j] = kept[j] or (best > 0 and overlap > tau * best)
    partners = []
    for s, keep in zip(student, kept):
        closeness = [2 * giou(s, t) - 5 * sum(abs(a - b) for a, b in zip(s, t)) for t in teacher]
        best = max(closeness)
        first = closeness.index(best)
        if any(abs(c - best) < MARGIN and t != teacher[first] for c, t in zip(closeness, teacher)):
            return None
        partners.append(first if keep else -1)
    return partners


def draw(rng, n, near=()):
    """n boxes, every other one near a given one."""
    boxes = []
    for i in range(n):
        if near and i % 2 == 0:
            c = rng.choice(near)
            box = [v + rng.uniform(-0.04, 0.04) for v in c]
        else:
            box = [rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.4)]
        boxes.append([round(v, 3) for v in box])
    return boxes


def image(rng, tau, students, teachers, objects, change=lambda s, t, o: (s, t, o)):
    """Boxes of an image and their matching, drawn until it is clear."""
    while True:
        o = draw(rng, objects)
        s, t = draw(rng, students, o), draw(rng, teachers, o)
        s, t, o = change(s, t, o)
        partners = match(s, t, o, tau)
        if partners is not None:
            return {"student": s, "teacher": t, "objects": o, "partners": partners}


def cases():
    """Those of the issue, by name."""
    rng = random.Random(7)
    twice = lambda s, t, o: (s[:-1] + [s[0]], t[: len(t) // 2] * 2, o)
    apart = lambda s, t, o: (s, t, o + [FAR])
    all_apart = lambda s, t, o: (s, t, [FAR])
    batch = lambda tau, n, m, counts, *change: {"tau": tau, "images": [image(rng, tau, n, m, c, *change) for c in counts]}
    found = {
        "few objects": batch(0.6, 20, 20, [3, 1]),
        "more teacher queries": batch(0.6, 7, 30, [2, 4]),
        "fewer teacher queries": batch(0.6, 30, 4, [3, 5]),
        "one query": batch(0.6, 1, 1, [1]),
        "an image without objects": batch(0.6, 10, 12, [0, 2, 0]),
        "no objects at all": batch(0.6, 5, 6, [0, 0]),
        "an object that no query overlaps": batch(0.6, 12, 12, [2], apart),
        "no object with a surviving query": batch(0.6, 6, 6, [1, 1], all_apart),
        "tau 0": batch(0.0, 12, 10, [2], apart),
        "tau 1": batch(1.0, 12, 10, [3]),
        "ties": batch(0.6, 12, 12, [2, 3], twice),
        "zero distance": batch(0.6, 8, 9, [2]),
    }
    for name, case in found.items():
        kept = sum(p >= 0 for i in case["images"] for p in i["partners"])
        case |= {"name": name, "equal": name == "zero distance", "kept": kept, "channels": CHANNELS}
    assert found["ties"]["kept"] > 4 and found["few objects"]["kept"] > 4 and found["zero distance"]["kept"] > 0
    assert not any(found[n]["kept"] for n in ("no objects at all", "no object with a surviving query", "tau 1"))
    return list(found.values())


def hashed(name, *shape):
    """A tensor in f64."""
    import torch

    count = torch.Size(shape).numel()
    return torch.from_numpy(hashed_uniform(name, range(count))).double().view(shape)


def features_loss(case):
    """Eq. 14 and its gradient with respect to the student."""
    import torch

    images = case["images"]
    partners = torch.tensor([i["partners"] for i in images])
    b, n, m = len(images), len(images[0]["student"]), len(images[0]["teacher"])
    student, teacher = hashed(f"{case['name']}/student", b, n, CHANNELS), hashed(f"{case['name']}/teacher", b, m, CHANNELS)
    if case["equal"]:
        first = (partners.flatten() >= 0).nonzero()[0].item()
        student[first // n, first % n] = teacher[first // n, partners.flatten()[first]]
    student.requires_grad_()
    matched = torch.stack([teacher[i, partners[i].clamp(min=0)] for i in range(b)])
    distances = torch.sqrt((student - matched).square().sum(-1) + 1e-12)
    # The mean over what is kept, and nothing where nothing is.
    loss = torch.where(partners >= 0, distances, 0.0).sum() / max(case["kept"], 1)
    loss.backward()
    return {"loss": loss.item(), "d_student": student.grad.flatten().tolist()}


def alignment(b, tokens, heads, depth):
    """Eq. 9 and its gradients."""
    import torch

    x = hashed("da/x", b, tokens, heads * depth).mul_(3.0).add_(0.5).requires_grad_()
    gamma = hashed("da/gamma", depth).add_(1.0).requires_grad_()
    beta = hashed("da/beta", depth).requires_grad_()
    h = x.view(b, tokens, heads, depth)
    variance = h.var(-1, unbiased=True, keepdim=True)
    y = (h - h.mean(-1, keepdim=True)) / torch.sqrt(variance + 1e-5) * gamma + beta
    y = y.view(b, tokens, heads * depth)
    (y * hashed("da/d_y", b, tokens, heads * depth)).sum().backward()
    tensors = {"y": y.detach(), "d_x": x.grad, "d_gamma": gamma.grad, "d_beta": beta.grad}
    flat = {name: tensor.flatten().tolist() for name, tensor in tensors.items()}
    return {"shape": [b, tokens, heads, depth]} | flat


def rounded(value):
    """Nine digits hold an f32."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


def main():
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write into")
    path = parser.parse_args().out / "distill.json"
    queries = [case | features_loss(case) for case in cases()]
    golden = {"queries": queries, "alignment": [alignment(2, 5, 4, 8), alignment(1, 3, 2, 32)]}
    path.write_text(json.dumps(rounded(golden), separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
