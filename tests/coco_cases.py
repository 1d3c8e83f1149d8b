"""Random detections and truths, and COCO's average precision of them by pycocotools: `python -m
tests.coco_cases` writes the file."""
import contextlib
import io
import json
from pathlib import Path

import torch

FILE = Path(__file__).with_name('coco_cases.json')
SIZES = ('map', 'map_50', 'map_75', 'map_small', 'map_medium', 'map_large')


def make_case(seed: int) -> tuple[list[dict], list[dict], int, float]:
    "Found and true boxes of a few images, the number of classes, and the bound of what is small."
    from hjepa.core.random import keyed_uniform
    u = iter(keyed_uniform(seed, 0, [0], 4000)[0].tolist())
    between = lambda lo, hi: lo + int(next(u) * (hi - lo + 1))
    classes, small_below = between(1, 4), (32., 16., 48.)[seed % 3]
    found, truth = [], []
    for _ in range(between(1, 5)):
        boxes, labels, ignore = [], [], []
        for _ in range(between(0, 7)):
            w, h = (4 * 50 ** next(u) for _ in range(2))
            x, y = next(u) * 200, next(u) * 200
            boxes.append([x, y, x + w, y + h])
            labels.append(between(0, classes - 1))
            ignore.append(next(u) < .15)
        truth.append(as_boxes(boxes, labels) | dict(ignore=torch.tensor(ignore, dtype=torch.bool)))
        seen, kinds, scores = [], [], []
        for box, label in zip(boxes, labels, strict=True):
            for _ in range(between(0, 2)):                     # none, one or two detections of each
                w, h, d = box[2] - box[0], box[3] - box[1], .4 * next(u) ** 2
                dx, dy = (next(u) - .5) * d * w, (next(u) - .5) * d * h
                seen.append([box[0] + dx, box[1] + dy, box[2] + dx, box[3] - dy])
                kinds.append(label if next(u) < .9 else between(0, classes - 1))
                scores.append(round(next(u), 1 + seed % 2))    # with ties
        found.append(as_boxes(seen, kinds) | dict(scores=torch.tensor(scores)))
    return found, truth, classes, small_below


def as_boxes(boxes: list, labels: list) -> dict:
    "Tensors as a detector returns them."
    return dict(boxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.long))


def by_pycocotools(found: list[dict], truth: list[dict], classes: int, small_below: float) -> list[float]:
    "The six values of COCO's own code, -1 where there was no object."
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    as_rows = lambda images: [
        dict(image_id=i, category_id=c, bbox=[a, b, x - a, y - b], area=(x - a) * (y - b), k=k)
        for i, r in enumerate(images)
        for k,
        ((a, b, x, y), c) in enumerate(zip(r['boxes'].double().tolist(), r['labels'].tolist(), strict=True))
    ]
    crowd = lambda r: int(truth[r['image_id']]['ignore'][r['k']])
    score = lambda r: found[r['image_id']]['scores'][r['k']].item()
    table = COCO()
    table.dataset = dict(
        images=[dict(id=i) for i in range(len(truth))], categories=[dict(id=c) for c in range(classes)],
        annotations=[r | dict(id=n, iscrowd=crowd(r)) for n, r in enumerate(as_rows(truth), 1)])
    with contextlib.redirect_stdout(io.StringIO()):
        table.createIndex()
        seen = [r | dict(score=score(r)) for r in as_rows(found)]
        result = table.loadRes(seen) if seen else COCO()
        if not seen:
            result.dataset = table.dataset | dict(annotations=[])
            result.createIndex()
        e = COCOeval(table, result, 'bbox')
        s = small_below ** 2
        e.params.areaRng = [[0, 1e10], [0, s], [s, 9 * s], [9 * s, 1e10]]
        e.evaluate()
        e.accumulate()
        e.summarize()
    return [float(v) for v in e.stats[:6]]


if __name__ == '__main__':
    values = [[round(v, 12) for v in by_pycocotools(*make_case(seed))] for seed in range(150)]
    FILE.write_text('[\n' + ',\n'.join(map(json.dumps, values)) + '\n]\n', encoding='utf-8')
