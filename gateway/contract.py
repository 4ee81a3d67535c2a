"""What the exported model and the gateway have agreed on: the one truth for both sides.

Everything here is part of the SavedModel's interface. The exporter writes it, the gateway
speaks it, and nothing else may repeat it. Standard library only: both sides can import it.
"""

from __future__ import annotations

from typing import Final

CLASSES: Final = ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")
"""The classes, in the order of the model's outputs."""

INPUT_SIZE: Final = 224
"""Height and width of the model's input, in pixels."""

RESIZE_POLICY: Final = "stretch"
"""The whole photograph is stretched to the square input, whatever its aspect: a cell at the
edge of a field is never cropped away, and a heat map covers the photograph exactly."""

RESIZE_FILTER: Final = "bilinear"
"""Pillow's antialiased bilinear filter, in training as in serving."""

MODEL_NAME: Final = "hemavision"
"""The name under which the model server serves the model."""

PREDICT_SIGNATURE: Final = "serving_default"
"""images -> probabilities, logits, unfamiliarity."""

GRADCAM_SIGNATURE: Final = "gradcam"
"""images, class_index -> the above, conv_features, gradients, cam, cam_fine."""

IMAGES: Final = "images"
"""Input, uint8 [N, 224, 224, 3], RGB in 0-255. Normalisation is inside the graph."""

CLASS_INDEX: Final = "class_index"
"""Input, int32 [N]: the class to explain; PREDICTED_CLASS for the predicted one."""

PREDICTED_CLASS: Final = -1
"""The value of CLASS_INDEX that asks for the explanation of the predicted class."""

PROBABILITIES: Final = "probabilities"
"""Output, float32 [N, 4]: softmax of the logits."""

LOGITS: Final = "logits"
"""Output, float32 [N, 4]."""

UNFAMILIARITY: Final = "unfamiliarity"
"""Output, float32 [N]: the distance from what the model was trained on, over its threshold."""

FAMILIAR_UP_TO: Final = 1.0
"""An UNFAMILIARITY above this says: none of the classes, or not readable. What lies above is
fixed when the weights are released; the model card says how much of what it turns away."""

CONV_FEATURES: Final = "conv_features"
"""Output, float32 [N, 4, 4, 512]: the last convolution's activations (after its ReLU)."""

GRADIENTS: Final = "gradients"
"""Output, float32 [N, 4, 4, 512]: d logit[class_index] / d conv_features."""

CAM: Final = "cam"
"""Output, float32 [N, 4, 4]: GradCAM of the last convolution, not normalised, >= 0."""

CAM_FINE: Final = "cam_fine"
"""Output, float32 [N, 18, 18]: HiResCAM of the 18x18 stage times LayerCAM of the 18x18
and 9x9 stages, not normalised, >= 0."""

CAM_SIZE: Final = 4
"""Height and width of CAM, in cells."""

CAM_FINE_SIZE: Final = 18
"""Height and width of CAM_FINE, in cells."""

EXPLANATION: Final = (PROBABILITIES, UNFAMILIARITY, CAM, CAM_FINE)
"""What the gateway asks of GRADCAM_SIGNATURE: 1.5 kB a photograph instead of 67 kB. The
warm-up asks for the same, since a server prepares each set of outputs on its first use."""

WARMUP_FILE: Final = "assets.extra/tf_serving_warmup_requests"
"""Inside a version: what TensorFlow Serving runs before it calls the version available."""

MODEL_CARD_FILE: Final = "assets.extra/model_card.json"
"""Inside a version: what the model is, was trained on and measured at."""

CAM_PITCH: Final = 48.0
"""Distance between the centres of two cells of CAM, in pixels of the model's input."""

CAM_FINE_PITCH: Final = 12.0
"""The same for CAM_FINE."""

CAM_ORIGIN: Final = 2.5
"""Left and upper edge of both grids, in pixels of the model's input. The first convolution has
stride 3 and an 8 pixel kernel without padding, so its cell i looks at 3i..3i+7; each pooling
then joins two cells and drops an odd last one. The grids therefore end before the picture does:
CAM at 194.5, CAM_FINE at 218.5. Stretching them over the picture would point beside the cell."""
