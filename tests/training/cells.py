"""Small cells to train in tests."""

import torch

from fdl.training.state import CellData, CellSettings, Images

CLASSES = 3


def settings(**changes):
    """An ensemble of three narrow AlexNets, three epochs."""
    values = {
        "backbone": "alexnet",
        "dataset": "cifar10",
        "method": "classical",
        "method_params": {},
        "seed": 4,
        "members": 3,
        "image_size": 32,
        "width": 0.0625,
        "epochs": 3,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "augment": True,
        "selections": ["last"],
        "evaluate_every": None,
        "bn_statistics": "moving",
    }
    values |= changes
    if values["method"] == "fdl":
        values["method_params"] = {"cosine_weight": 1.0, "gaussian_weight": 1.0}
    return CellSettings(**values)


def data(train=9, validation=12, test=15):
    """Random images; 9 in batches of 4 leave a last batch of one."""
    generator = torch.Generator().manual_seed(0)

    def images(count):
        pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % CLASSES
        # Something to learn: a bright corner per class.
        for label in range(CLASSES):
            pixels[labels == label, :, label * 8 : label * 8 + 8, :8] = 255
        return Images(pixels, labels)

    parts = images(train), images(validation), images(test)
    return CellData(*parts, small=torch.arange(0, min(train, validation)), num_classes=CLASSES)
