"Detection on feature pyramids: backbones, boxes and their formats, detectors, results and runs."
from . import coco, kitti, scenes, voc  # enter themselves as formats of boxes
