"Detection on feature pyramids: backbones, boxes and their formats, detectors, results and runs."
from . import scenes  # register themselves as a data set of boxes
