"""The authors' joint Keras model in a process that answers requests; it runs in an environment of its own.

Written from docs/reference.md 1.2 to 1.4, 2.1 and 5: one input, five nets, five softmax outputs, the distance
loss by `add_loss`, both of its terms as metrics, Keras' Adam. It reads one JSON object per line and answers
each with one; `keras_reference.py` is the other side. Nothing of the project is imported.
"""

import json
import os
import sys
import time

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

VGG_BLOCKS = {"vgg-a": ((64, 2, 0.2), (128, 2, 0.3), (256, 2, 0.4))}
RESNET_FILTERS = {"resnet-3": (64, 128, 256)}


def aggregated(feature_map):
    """Channel mean of (B, H, W, C), cells at or below the image's mean set to 0: (B, H, W)."""
    mean = tf.reduce_mean(feature_map, axis=-1)
    threshold = tf.reduce_mean(mean, axis=(1, 2), keepdims=True)
    return tf.where(mean > threshold, mean, tf.zeros_like(mean))


def distance_terms(feature_maps):
    """Sums over all pairs of the cosine and of the Gaussian similarity."""
    descriptors = [aggregated(feature_map) for feature_map in feature_maps]
    cosine = gaussian = 0.0
    for i, first in enumerate(descriptors):
        for second in descriptors[i + 1 :]:
            flat = [tf.nn.l2_normalize(keras.backend.batch_flatten(d), axis=-1) for d in (first, second)]
            cosine += tf.reduce_mean(tf.reduce_sum(flat[0] * flat[1], axis=-1))
            gaussian += tf.reduce_mean(tf.exp(-tf.square(first - second)))
    return cosine, gaussian


def alexnet(x, classes, hidden, stride, seed):
    """AlexNet (docs/reference.md 1.2): probabilities and feature map."""

    def conv(filters, **options):
        start = keras.initializers.HeNormal(seed=seed)
        return layers.Conv2D(filters, 3, padding="same", kernel_initializer=start, **options)

    def pool(x):
        return layers.MaxPooling2D(3, strides=2, padding="same")(x)

    x = pool(layers.ReLU()(layers.BatchNormalization()(conv(96, strides=stride)(x))))
    x = pool(layers.ReLU()(layers.BatchNormalization()(conv(256)(x))))
    for filters in (384, 384, 256):
        x = conv(filters, activation="relu")(x)
    feature_map = pool(x)
    x = layers.Dense(hidden, activation="relu")(layers.Flatten()(feature_map))
    return layers.Dense(classes, activation="softmax")(layers.Dropout(0.5)(x)), feature_map


def vgg(x, classes, hidden, variant, seed):
    """VGG (docs/reference.md 1.3), with the He-uniform weights of VGG-A: probabilities and feature map."""
    start = keras.initializers.HeUniform(seed=seed)
    for filters, convolutions, dropout in VGG_BLOCKS[variant]:
        for _ in range(convolutions):
            x = layers.Conv2D(filters, 3, padding="same", kernel_initializer=start)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        feature_map = layers.MaxPooling2D(2)(x)
        x = layers.Dropout(dropout)(feature_map)
    x = layers.Dense(hidden, kernel_initializer=start)(layers.Flatten()(x))
    x = layers.Dropout(0.5)(layers.ReLU()(layers.BatchNormalization()(x)))
    return layers.Dense(classes, activation="softmax", kernel_initializer=start)(x), feature_map


def resnet(x, classes, variant, seed):
    """ResNet (docs/reference.md 1.4), without a stem and with the third activation before the addition:
    probabilities and feature map.
    """
    start = keras.initializers.HeNormal(seed=seed)
    for filters in RESNET_FILTERS[variant]:
        shortcut = layers.BatchNormalization()(layers.Conv2D(filters, 1, kernel_initializer=start)(x))
        for _ in range(3):
            x = layers.Conv2D(filters, 3, padding="same", kernel_initializer=start)(x)
            x = layers.LeakyReLU(0.1)(layers.BatchNormalization()(x))
        x = layers.MaxPooling2D(2)(layers.LeakyReLU(0.1)(layers.Add()([x, shortcut])))
    pooled = layers.GlobalAveragePooling2D()(x)
    return layers.Dense(classes, activation="softmax", kernel_initializer=start)(pooled), x


def joint_model(request):
    """Five nets on one input, compiled as the authors' (section 5)."""
    size, classes, hidden = request["image_size"], request["classes"], request["hidden"]
    inputs = keras.Input((size, size, 3))
    outputs, feature_maps = [], []
    for member in range(request["members"]):
        seed = member + 1
        net_input = keras.Input((size, size, 3))
        if request["variant"] == "alexnet":
            net_outputs = alexnet(net_input, classes, hidden, request["stride"], seed)
        elif request["variant"] in VGG_BLOCKS:
            net_outputs = vgg(net_input, classes, hidden, request["variant"], seed)
        else:
            net_outputs = resnet(net_input, classes, request["variant"], seed)
        net = keras.Model(net_input, net_outputs)
        probabilities, feature_map = net(inputs)
        outputs.append(probabilities)
        feature_maps.append(feature_map)
    model = keras.Model(inputs, outputs)
    cosine, gaussian = distance_terms(feature_maps)
    model.add_loss(request["cosine_weight"] * cosine + request["gaussian_weight"] * gaussian)
    model.add_metric(cosine, name="loss1")
    model.add_metric(gaussian, name="loss2")
    adam = keras.optimizers.Adam(learning_rate=request["learning_rate"])
    model.compile(adam, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


class Side:
    """Answers requests, each with the method of its name; keeps the model between them."""

    def build(self, request):
        """Build a model; load its images from a file with `train`, `evaluation` (N, H, W, 3) in [0, 1] and labels."""
        keras.backend.clear_session()
        self.model = joint_model(request)
        with np.load(request["images"]) as stored:
            classes, members = request["classes"], request["members"]
            self.train_images = stored["train"], [np.eye(classes, dtype=np.float32)[stored["train_labels"]]] * members
            one_hot = np.eye(classes, dtype=np.float32)[stored["evaluation_labels"]]
            self.evaluation_images = stored["evaluation"], [one_hot] * members
        return {"parameters": self.model.count_params() // members}

    def train(self, request):
        """One training step on the training images, as one batch."""
        inputs, labels = self.train_images
        return timed(lambda: self.model.train_on_batch(inputs, labels))

    def evaluate(self, request):
        """One evaluation, in batches of 10 as the authors' unless the request says otherwise."""
        inputs, labels = self.evaluation_images
        return timed(lambda: self.model.evaluate(inputs, labels, batch_size=request["batch"], verbose=0))

    def terms(self, request):
        """Both terms of the distance loss on given maps (M, B, H, W, C)."""
        cosine, gaussian = distance_terms(list(tf.constant(np.load(request["maps"]))))
        return {"cosine": float(cosine), "gaussian": float(gaussian)}

    def versions(self, request):
        """Versions of the libraries in this environment."""
        return {"tensorflow": tf.__version__, "tf_keras": keras.__version__, "python": sys.version.split()[0]}


def timed(work):
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main():
    """Answer requests until stdin ends. TensorFlow's own output is sent to stderr, because stdout is for answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    threads = int(os.environ["OMP_NUM_THREADS"])
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    side = Side()
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(side, request["do"])(request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
