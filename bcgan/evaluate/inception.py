"""Features of the Inception network of the published FID and KID, from a file that the user provides.

The file is `classify_image_graph_def.pb` of inception-2015-12-05.tgz, which the authors of the FID (Heusel et al. 2017)
and of the KID (Binkowski et al. 2018) read. It is a network of its own: `keras.applications.InceptionV3` has other
weights, and gives other distances.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from bcgan.data import batches
from bcgan.errors import InputError

NETWORK = "inception_2015"
INPUT, OUTPUT = "ExpandDims:0", "pool_3:0"  # pixels from 0 to 255; 2,048 features. The graph resizes to 299 pixels.
BATCH = 32


def make_feature_fn(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from uint8 patches, (n, side, side, 3), to features, float64, (n, 2048).

    Raises:
        InputError: If the file is not that network.
    """
    graph = tf.Graph()
    try:
        definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
        with graph.as_default():
            # A session keeps the version of the graph: TensorFlow 2's functions refuse its oldest operations.
            images = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3))
            (features,) = tf.graph_util.import_graph_def(
                definition, input_map={INPUT: images}, return_elements=[OUTPUT]
            )
    except (OSError, DecodeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"evaluate.inception_graph: {path} is not the Inception network of 2015-12-05 ({reason}). "
            "Give classify_image_graph_def.pb from inception-2015-12-05.tgz, or leave the setting out."
        ) from error
    session = tf.compat.v1.Session(graph=graph)

    def run(patches: np.ndarray) -> np.ndarray:
        """Return the features of some patches, (n, d)."""
        return session.run(features, {images: patches.astype(np.float32)}).reshape(len(patches), -1)

    return lambda patches: batches.map_in_batches(run, patches, BATCH).astype(float)
