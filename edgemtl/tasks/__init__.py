"""What outputs mean. Importing this package registers the built-in kinds."""

from edgemtl.tasks.base import Metric, MetricResult, MetricSpec, Task, TaskSpec
from edgemtl.tasks.classification import Classification
from edgemtl.tasks.depth import Depth
from edgemtl.tasks.detection import Detection
from edgemtl.tasks.edges import Edges
from edgemtl.tasks.keypoints import KeypointTask
from edgemtl.tasks.landmarks import Landmarks
from edgemtl.tasks.multilabel import Multilabel
from edgemtl.tasks.normals import Normals
from edgemtl.tasks.objects import ObjectDetection
from edgemtl.tasks.pose import HeadPose
from edgemtl.tasks.raw import Raw
from edgemtl.tasks.registry import build, kinds, register_task, select, spec_from_dict
from edgemtl.tasks.regression import Regression
from edgemtl.tasks.saliency import Saliency
from edgemtl.tasks.segmentation import Parts, Segmentation

__all__ = [
    "Classification",
    "Depth",
    "Detection",
    "Edges",
    "HeadPose",
    "KeypointTask",
    "Landmarks",
    "Metric",
    "MetricResult",
    "MetricSpec",
    "Multilabel",
    "Normals",
    "ObjectDetection",
    "Parts",
    "Raw",
    "Regression",
    "Saliency",
    "Segmentation",
    "Task",
    "TaskSpec",
    "build",
    "kinds",
    "register_task",
    "select",
    "spec_from_dict",
]
