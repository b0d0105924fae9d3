"""Predictions of a trained ensemble on any images, from a record with kept weights."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fdl.core.console import Say
from fdl.core.errors import InputError, one_line
from fdl.data.folders import check_name, walk
from fdl.data.images import FULL, SUFFIXES, open_picture, resized
from fdl.evaluation.cam import grad_cam, normalise
from fdl.evaluation.voting import softmax
from fdl.results import records
from fdl.results.state import require
from fdl.training.engine import load_members, predict, to_input
from fdl.training.predictions import read_weights, weights_file
from fdl.training.state import EVALUATION_BATCH, CellSettings

_PANEL = 128  # pixels at least of an overlay's side
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """What an ensemble says of one image."""

    name: str
    chosen: str  # class of the highest mean probability (soft vote)
    probability: float  # of this class: the members' mean
    votes: tuple[str, ...]  # class that each member finds most probable


@dataclass(frozen=True)
class Ensemble:
    """The members of a record in one selection's epochs, in evaluation mode, on the CPU in float32."""

    nets: Sequence[torch.nn.Module]
    settings: CellSettings
    classes: Sequence[str]
    antialias: bool
    white: int  # the value of 16-bit files that is white

    @property
    def size(self) -> int:
        """Side in pixels of the images that the nets take."""
        return self.settings.image_size

    def decode(self, content: bytes | Pixels, where: str) -> Pixels:
        """An image as it was prepared for the training: (size, size, 3); raises `InputError` if it is unreadable."""
        return self.read(content, where)[0]

    def read(self, content: bytes | Pixels, where: str) -> tuple[Pixels, bool]:
        """What `decode` returns, and whether the file holds several pages, of which this is the first."""
        picture = open_picture(content, where, white=self.white)
        return resized(picture, self.size, antialias=self.antialias), picture.pages

    def predict(self, names: Sequence[str], images: Sequence[Pixels]) -> list[Prediction]:
        """Predictions of decoded images."""
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        logits = predict(self.settings, self.nets, pixels).numpy()  # (M, N, C)
        mean, votes = softmax(logits).mean(axis=0), logits.argmax(axis=-1)
        return [
            Prediction(
                name,
                self.classes[probabilities.argmax()],
                float(probabilities.max()),
                tuple(self.classes[vote] for vote in votes[:, number]),
            )
            for number, (name, probabilities) in enumerate(zip(names, mean, strict=True))
        ]

    def overlays(self, images: Sequence[Pixels], chosen: Sequence[str]) -> list[Image.Image]:
        """For each image the image itself and, beside it, on grey, each member's Grad-CAM of the chosen class.

        A map without a positive cell leaves the panel grey.
        """
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        labels = torch.tensor([list(self.classes).index(name) for name in chosen])
        maps, _ = normalise(grad_cam(self.nets, to_input(pixels), labels))  # (M, N, H', W')
        return [_overlay(image, maps[:, number].numpy()) for number, image in enumerate(images)]


def load_ensemble(record: Path, selection: str | None = None) -> Ensemble:
    """The nets of a record.

    Args:
        record: its folder.
        selection: whose weights; None: those of the headline table.

    Raises:
        InputError: there is no record, it diverged, its weights were not kept, or they are damaged.
    """
    if not record.is_dir():
        raise InputError(f"{record}: no such folder; name a record: results/<preset>/…/<method>/seed<s>")
    run = records.read_run(record)
    if run is None:
        raise InputError(f"{record}: holds no record; name a folder results/<preset>/…/<method>/seed<s>")
    require(run)
    if run["status"] != "done":
        raise InputError(f"{record}: this training diverged; it left no nets")
    rule = selection or run["settings"]["selections"][0]
    if weights_file(rule) not in run["files"]:
        kept = [name for name in run["files"] if name.startswith("weights-")]
        if kept:
            rules = ", ".join(name.removeprefix("weights-").removesuffix(".safetensors") for name in kept)
            raise InputError(f"{record}: holds no weights of selection {rule!r}; it holds those of {rules}")
        raise InputError(f"{record}: no weights were kept; set keep_weights: true, delete the folder and run again")
    records.verify(record, run, weights_file(rule))
    values = run["cell"] | run["settings"]
    values |= {"dataset": values.get("like", values["dataset"])}  # whose networks are built
    settings = CellSettings(**{name: values[name] for name in CellSettings.__dataclass_fields__ if name in values})
    classes = run["data"]["classes"]
    nets = load_members(settings, read_weights(record / weights_file(rule)), len(classes), "cpu")
    white = run["data"].get("white", FULL)
    return Ensemble(nets, settings, classes, antialias=values.get("antialias", False), white=white)


def image_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The images in a folder and the folders in it, sorted; or the one image that is named.

    What a training passes over (`folders.is_passed_over`) is passed over here, what it refuses is left out.

    Returns:
        The images, and a line for each file that is left out.

    Raises:
        InputError: there are no images.
    """
    if folder.is_file():
        return [folder], []
    files, others = [], []
    for path in walk(folder):
        try:
            for part in (path, *path.parents):
                if part == folder:
                    break
                check_name(part)
        except InputError as error:
            others.append(str(error))
            continue
        if path.suffix.lower() in SUFFIXES and path.is_file():
            files.append(path)
        else:
            others.append(f"{path}: not one of {', '.join(SUFFIXES)} files, left out; convert it or move it away")
    if not files:
        problem = f"holds no images ({' '.join(SUFFIXES)})" if folder.is_dir() else "no such folder or image"
        raise InputError("; ".join([f"{folder}: {problem}", *others[:1]]))
    return sorted(files), others


def predict_files(
    ensemble: Ensemble, folder: Path, *, overlays: Path | None = None, say: Say
) -> tuple[list[Prediction], int]:
    """Predictions for the images in a folder, some hundred in memory at a time.

    Args:
        ensemble: from `load_ensemble`.
        folder: see `image_files`.
        overlays: folder for a picture of each image with the members' maps, under its name with the ending .png.
        say: takes a line for each file that is left out or unreadable, and for each of several pages.

    Returns:
        The predictions, named by path within the folder, and the number of files without one.
    """
    files, others = image_files(folder)
    # `a.jpg` and `a.png` keep their endings: each has a picture of its own.
    alike = Counter(Path(_name(path, folder)).with_suffix(".png") for path in files)
    for line in others:
        say(line)
    predictions: list[Prediction] = []
    unreadable = len(others)
    for start in range(0, len(files), EVALUATION_BATCH):
        names, images = [], []
        for path in files[start : start + EVALUATION_BATCH]:
            try:
                pixels, pages = ensemble.read(path.read_bytes(), str(path))
            except (InputError, OSError) as error:
                unreadable += 1
                say(one_line(error))
                continue
            if pages:
                say(f"{path}: holds several pages; the first counts")
            images.append(pixels)
            names.append(_name(path, folder))
        if not images:
            continue
        predicted = ensemble.predict(names, images)
        predictions += predicted
        if overlays:
            for name, picture in zip(names, _pictures(ensemble, images, predicted), strict=True):
                picture_of = Path(name).with_suffix(".png")
                target = overlays / (picture_of if alike[picture_of] == 1 else f"{name}.png")
                target.parent.mkdir(parents=True, exist_ok=True)
                picture.save(target)
    return predictions, unreadable


def _name(path: Path, folder: Path) -> str:
    """An image's name: its path within the folder."""
    return path.relative_to(folder).as_posix() if path != folder else path.name


def _pictures(ensemble: Ensemble, images: Sequence[Pixels], predictions: Sequence[Prediction]) -> Iterator[Image.Image]:
    for start in range(0, len(images), 20):  # the maps need a graph
        part = slice(start, start + 20)
        yield from ensemble.overlays(images[part], [prediction.chosen for prediction in predictions[part]])


def as_row(prediction: Prediction) -> dict[str, Any]:
    """A prediction by the names of its columns."""
    votes = {f"member{member}": vote for member, vote in enumerate(prediction.votes)}
    return {"file": prediction.name, "class": prediction.chosen, "probability": prediction.probability, **votes}


def as_csv(predictions: Sequence[Prediction], members: int) -> bytes:
    """A row per image: file, class, probability, and the class that each member votes for."""
    text = io.StringIO(newline="")
    columns = ["file", "class", "probability", *(f"member{member}" for member in range(members))]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        as_row(prediction) | {"probability": f"{prediction.probability:.6f}"} for prediction in predictions
    )
    return text.getvalue().encode()


def _overlay(image: Pixels, maps: NDArray[np.float32]) -> Image.Image:
    """The image and its maps (M, H', W') side by side."""
    from fdl.evaluation.overlay import enlarged, on_grey

    side = image.shape[0] * -(-_PANEL // image.shape[0])
    shown = enlarged(image, side)
    grey = np.asarray(Image.fromarray(shown).convert("L").convert("RGB"))
    panels = [on_grey(image, cam, side) if cam.any() else grey for cam in maps]
    return Image.fromarray(np.concatenate([shown, *panels], axis=1))
