"""Writes assets/golden/eval: evaluation cases with the results of the reference implementations.

    pip install pycocotools numpy
    python tests/golden/eval.py [FIXTURE]

COCO's numbers come from pycocotools itself. PASCAL VOC's come from the function `voc_reference` below, written from the
description of the devkit's VOCevaldet.m: pixel boxes from 1 with both ends included.

FIXTURE is a folder with the ground truth of 100 COCO val2014 images and cocoapi's made-up detections for them
(instances_val2014_100.json, instances_val2014_fakebbox100_results.json); without it, coco_fixture.json stays as it is.
"""

import contextlib
import io
import json
import random
import sys
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

OUT = Path(__file__).resolve().parents[2] / "assets" / "golden" / "eval"
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def coco_reference(truth, detections):
    """The twelve numbers, and AP and AP50 by category id (None where there is no object)."""
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = json.loads(json.dumps(truth))
        gt.createIndex()
        if detections:
            dt = gt.loadRes(json.loads(json.dumps(detections)))
        else:  # loadRes looks at the first result
            dt = COCO()
            dt.dataset = {**gt.dataset, "annotations": []}
            dt.createIndex()
        e = COCOeval(gt, dt, "bbox")
        e.evaluate()
        e.accumulate()
        e.summarize()

    def mean(values):
        values = values[values > -1]
        return float(np.mean(values)) if len(values) else None

    precision = e.eval["precision"]  # thresholds, recalls, classes, areas, limits
    per_class = {
        str(c): [mean(precision[:, :, k, 0, 2]), mean(precision[0, :, k, 0, 2])] for k, c in enumerate(e.params.catIds)
    }
    return {"numbers": dict(zip(NAMES, map(float, e.stats))), "per_class": per_class}


def truth_of(images, categories, objects):
    """objects: (image, category, xywh[, area[, crowd[, id]]])"""
    annotations = []
    for i, (image, category, box, *more) in enumerate(objects):
        area = more[0] if more and more[0] is not None else box[2] * box[3]
        annotations.append({
            "id": more[2] if len(more) > 2 else i + 1, "image_id": image, "category_id": category, "bbox": box,
            "area": area, "iscrowd": int(more[1]) if len(more) > 1 else 0,
        })
    return {
        "images": [{"id": i} for i in images],
        "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        "annotations": annotations,
    }


def found_of(detections):
    """detections: (image, category, xywh, score)"""
    return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in detections]


def coco_cases():
    box = [10, 10, 40, 40]
    near = [12, 10, 40, 40]
    far = [200, 200, 40, 40]
    cases = {}

    cases["ties across images and within"] = (
        [7, 3, 5], [1],
        [(7, 1, box), (3, 1, box), (5, 1, box), (5, 1, far)],
        [(5, 1, far, 0.5), (7, 1, far, 0.5), (3, 1, box, 0.5), (5, 1, near, 0.5), (5, 1, box, 0.5), (7, 1, box, 0.5),
         (3, 1, far, 0.5), (3, 1, near, 0.9), (7, 1, near, 0.9)],
    )
    cases["a detection between two equal objects"] = (
        [1], [1], [(1, 1, [0, 0, 40, 40]), (1, 1, [20, 0, 40, 40]), (1, 1, [0, 0, 40, 40])],
        [(1, 1, [10, 0, 40, 40], 0.9), (1, 1, [0, 0, 40, 40], 0.8), (1, 1, [0, 0, 40, 40], 0.7)],
    )
    cases["crowds"] = (
        [1, 2], [1, 2],
        [(1, 1, [0, 0, 200, 100], 9000, 1), (1, 1, box), (2, 1, box, None, 1), (2, 1, far), (2, 2, box, None, 1)],
        [(1, 1, near, 0.9), (1, 1, [50, 10, 40, 40], 0.8), (1, 1, [80, 10, 40, 40], 0.7), (1, 1, [150, 0, 100, 100], 0.6),
         (2, 1, box, 0.95), (2, 1, box, 0.5), (2, 1, far, 0.4), (2, 2, box, 0.3), (1, 2, box, 0.2), (1, 1, [10, 10, 0, 0], 0.99)],
    )
    cases["more than 100 detections"] = (
        [1, 2], [1, 2],
        [(1, 1, [50 * i, 0, 40, 40]) for i in range(12)] + [(2, 2, box)],
        [(1, 1, [50 * (i % 12) + (i // 12), i // 20, 40, 40], round(0.9 - i * 0.005, 3)) for i in range(130)]
        + [(1, 1, [50 * i, 0, 40, 40], 0.2) for i in range(12)] + [(2, 2, far, 0.8)] * 105 + [(2, 2, box, 0.1)],
    )
    cases["more than 10 objects of a class"] = (
        [1], [1], [(1, 1, [60 * i, 0, 50, 50]) for i in range(15)],
        [(1, 1, [60 * i, 0, 50, 40 + i % 10], round(0.3 + 0.04 * i, 2)) for i in range(15)],
    )
    cases["classes without objects"] = (
        [1], [2, 4, 9], [(1, 4, box)], [(1, 2, box, 0.9), (1, 4, near, 0.8), (1, 9, box, 0.7), (1, 77, box, 0.99)],
    )
    cases["images without detections or objects"] = (
        [1, 2, 3, 4], [1], [(1, 1, box), (2, 1, box), (2, 1, far)], [(1, 1, box, 0.9), (3, 1, box, 0.95), (4, 1, far, 0.2)],
    )
    cases["no detections"] = ([1, 2], [1, 2], [(1, 1, box), (2, 1, far)], [])
    cases["no objects"] = ([1, 2], [1, 2], [], [(1, 1, box, 0.5)])
    cases["only crowds"] = ([1], [1], [(1, 1, box, None, 1)], [(1, 1, box, 0.5)])
    cases["areas on the limits"] = (
        [1], [1],
        [(1, 1, [0, 0, 32, 32]), (1, 1, [100, 0, 96, 96]), (1, 1, [300, 0, 32, 32], 1024.0000001), (1, 1, [400, 0, 96, 96], 9215.999),
         (1, 1, [500, 0, 100, 100], 1e10), (1, 1, [700, 0, 100, 100], 1e10 + 1), (1, 1, [900, 0, 10, 10], -1), (1, 1, [1000, 0, 10, 10], 0)],
        [(1, 1, [0, 0, 32, 32], 0.9), (1, 1, [100, 0, 96, 96], 0.8), (1, 1, [300, 0, 32, 32], 0.7), (1, 1, [400, 0, 96, 96], 0.6),
         (1, 1, [500, 0, 100, 100], 0.5), (1, 1, [700, 0, 100, 100], 0.4), (1, 1, [900, 0, 10, 10], 0.3), (1, 1, [1000, 0, 10, 10], 0.2),
         (1, 1, [0, 500, 32, 32], 0.95), (1, 1, [0, 600, 96, 96], 0.85), (1, 1, [0, 700, 96, 96.5], 0.75), (1, 1, [0, 800, 1e5, 1e5], 0.65),
         (1, 1, [0, 800, 1e5, 1e5 + 1], 0.55)],
    )
    thresholds = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]
    cases["overlaps on the thresholds"] = (
        list(range(1, 12)), [1, 2, 3],
        [(i + 1, c, [0, 0, 100, 100]) for i in range(11) for c in (1, 2, 3)],
        [(i + 1, 1, [0, 0, 100, 100 * t], 0.5) for i, t in enumerate(thresholds)]
        + [(i + 1, 2, [0, 0, 100, np.nextafter(100 * t, 0)], 0.5) for i, t in enumerate(thresholds)]
        + [(i + 1, 3, [0, 0, 100, np.nextafter(100 * t, 200)], 0.5) for i, t in enumerate(thresholds)],
    )
    cases["boxes without area or with negative sizes"] = (
        [1], [1], [(1, 1, [10, 10, 0, 40]), (1, 1, box)],
        [(1, 1, [10, 10, 0, 40], 0.9), (1, 1, [50, 50, -40, -40], 0.8), (1, 1, [50, 10, -40, 40], 0.7), (1, 1, box, 0.6)],
    )
    cases["the annotation with id 0"] = (
        [1], [1], [(1, 1, box, None, 0, 0), (1, 1, far, None, 0, 1)], [(1, 1, box, 0.9), (1, 1, far, 0.8), (1, 1, box, 0.7)],
    )
    cases["scores of both zeros, whole and negative"] = (
        [1, 2], [1], [(1, 1, box), (2, 1, box), (2, 1, far)],
        [(1, 1, far, 0.0), (2, 1, box, -0.0), (1, 1, box, 0), (2, 1, far, -3), (2, 1, near, 2)],
    )
    for seed in range(10):
        cases[f"random {seed}"] = random_case(seed)
    return cases


def random_case(seed):
    """Coarse boxes and scores, so that overlaps and scores tie often; sizes around the limits of the area ranges."""
    r = random.Random(seed)
    images = r.sample(range(1000), 6)
    categories = r.sample(range(1, 90), 4)
    sides = [8, 16, 30, 32, 34, 64, 90, 96, 100, 160]

    def box():
        return [r.randrange(0, 200, 8), r.randrange(0, 200, 8), r.choice(sides), r.choice(sides)]

    objects = []
    for image in images[1:]:
        for category in categories[1:]:
            for _ in range(r.choice([0, 1, 2, 5])):
                b = box()
                objects.append((image, category, b, b[2] * b[3] * r.choice([1, 1, 0.6]), r.random() < 0.12))
    detections = []
    for image, category, b, *_ in objects:
        for _ in range(r.choice([0, 1, 1, 2, 3])):
            moved = [v + r.choice([0, 0, 0, 1, 2, 4, -4]) for v in b]
            detections.append((image, category, moved, round(r.random(), 1)))
    detections += [(r.choice(images), r.choice(categories), box(), round(r.random(), 1)) for _ in range(40)]
    r.shuffle(objects)
    r.shuffle(detections)
    return images, categories, objects, detections


def voc_reference(truth, detections, eleven_points):
    """AP by category id. Boxes are turned into the devkit's: from 1, both ends included."""
    aps = {}
    for category in sorted(c["id"] for c in truth["categories"]):
        objects, positives = {}, 0
        for a in truth["annotations"]:
            if a["category_id"] == category:
                x, y, w, h = a["bbox"]
                objects.setdefault(a["image_id"], []).append([(x + 1, y + 1, x + w, y + h), bool(a.get("difficult")), False])
                positives += not a.get("difficult")
        if positives == 0:
            aps[str(category)] = None
            continue
        found = [d for d in detections if d["category_id"] == category]
        found.sort(key=lambda d: -d["score"])
        tp, fp = np.zeros(len(found)), np.zeros(len(found))
        for i, d in enumerate(found):
            x, y, w, h = d["bbox"]
            l, t, r, b = x + 1, y + 1, x + w, y + h
            best, match = -np.inf, None
            for o in objects.get(d["image_id"], []):
                ol, ot, orr, ob = o[0]
                iw, ih = min(r, orr) - max(l, ol) + 1, min(b, ob) - max(t, ot) + 1
                if iw > 0 and ih > 0:
                    union = (r - l + 1) * (b - t + 1) + (orr - ol + 1) * (ob - ot + 1) - iw * ih
                    if iw * ih / union > best:
                        best, match = iw * ih / union, o
            if best < 0.5:
                fp[i] = 1
            elif not match[1]:
                (fp if match[2] else tp)[i] = 1
                match[2] = True
        tp, fp = np.cumsum(tp), np.cumsum(fp)
        recall, precision = tp / positives, tp / np.maximum(tp + fp, np.finfo(float).eps)
        if eleven_points:
            above = [precision[recall >= t] for t in np.arange(0.0, 1.1, 0.1)]
            aps[str(category)] = float(sum(p.max() if len(p) else 0.0 for p in above) / 11)
        else:
            recall, precision = np.concatenate([[0], recall, [1]]), np.concatenate([[0], precision, [0]])
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
            aps[str(category)] = float(np.sum((recall[steps] - recall[steps - 1]) * precision[steps]))
    return aps


def voc_case(truth, detections):
    return {"voc07": voc_reference(truth, detections, True), "voc10": voc_reference(truth, detections, False)}


def voc_cases():
    box, far = [10, 10, 40, 40], [200, 200, 40, 40]
    cases = {
        "taken twice": ([1], [1], [(1, 1, box), (1, 1, far)], [(1, 1, box, 0.9), (1, 1, box, 0.8), (1, 1, far, 0.7)], []),
        "difficult": (
            [1], [1, 2], [(1, 1, box), (1, 1, far), (1, 2, box)],
            [(1, 1, far, 0.9), (1, 1, far, 0.85), (1, 1, box, 0.8), (1, 2, box, 0.7)], [2, 3],
        ),
        "the best object is taken, the second best is free": (
            [1], [1], [(1, 1, box), (1, 1, [14, 10, 40, 40])], [(1, 1, box, 0.9), (1, 1, [11, 10, 40, 40], 0.8)], [],
        ),
        "overlap of exactly one half": ([1, 2], [1], [(1, 1, box), (2, 1, box)], [(1, 1, [10, 10, 40, 20], 0.9), (2, 1, [10, 10, 40, 19], 0.8)], []),
        "no detections": ([1], [1], [(1, 1, box)], [], []),
        "ten objects, found one by one": (
            list(range(1, 11)), [1], [(i, 1, box) for i in range(1, 11)],
            [(i, 1, b, 1 - i * 0.05 - (0.02 if b is far else 0)) for i in range(1, 11) for b in (box, far)], [],
        ),
    }
    for seed in range(100, 106):
        images, categories, objects, detections = random_case(seed)
        difficult = [i + 1 for i in range(len(objects)) if random.Random(seed * 1000 + i).random() < 0.2]
        cases[f"random {seed}"] = (images, categories, [o[:3] for o in objects], detections, difficult)
    return cases


def write(name, value):
    (OUT / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        full = json.loads((folder / "instances_val2014_100.json").read_text())
        keep = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
        truth = {
            "images": [{"id": i["id"]} for i in full["images"]],
            "categories": [{"id": c["id"], "name": c["name"]} for c in full["categories"]],
            "annotations": [{k: a[k] for k in keep} for a in full["annotations"]],
        }
        found = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
        found = [{k: d[k] for k in ("image_id", "category_id", "bbox", "score")} for d in found]
        write("coco_fixture.json", {"annotations": truth, "detections": found, "expected": coco_reference(truth, found)})
    cases = []
    for name, (images, categories, objects, detections) in coco_cases().items():
        truth, found = truth_of(images, categories, objects), found_of(detections)
        cases.append({"name": name, "annotations": truth, "detections": found, "expected": coco_reference(truth, found)})
    write("coco_cases.json", cases)
    cases = []
    for name, (images, categories, objects, detections, difficult) in voc_cases().items():
        truth, found = truth_of(images, categories, objects), found_of(detections)
        for a in truth["annotations"]:
            a["difficult"] = int(a["id"] in difficult)
        cases.append({"name": name, "annotations": truth, "detections": found, "expected": voc_case(truth, found)})
    write("voc_cases.json", cases)


if __name__ == "__main__":
    main()
