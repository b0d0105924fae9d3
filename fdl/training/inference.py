"""Predicts the classes of any images with a trained ensemble, loaded from a record with kept weights."""

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

_PANEL = 128  # smallest side of an overlay's panel in pixels
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """An ensemble's prediction for one image."""

    name: str  # path of the image, see `predict_files`
    chosen: str  # class of the highest mean probability (soft vote)
    probability: float  # mean over the members of the probability of this class
    votes: tuple[str, ...]  # most probable class of each member


@dataclass(frozen=True)
class Ensemble:
    """The members of a record with the weights of one selection, in evaluation mode, on the CPU in float32."""

    nets: Sequence[torch.nn.Module]
    settings: CellSettings
    classes: Sequence[str]
    antialias: bool
    white: int  # value of a white pixel in 16-bit files

    @property
    def size(self) -> int:
        """Side of the nets' input images in pixels."""
        return self.settings.image_size

    def decode(self, content: bytes | Pixels, where: str) -> Pixels:
        """An image, prepared as for the training: uint8 (size, size, 3); raises `InputError` if it is unreadable."""
        return self.read(content, where)[0]

    def read(self, content: bytes | Pixels, where: str) -> tuple[Pixels, bool]:
        """The image as from `decode`, and whether it is the first of several pages in the file."""
        picture = open_picture(content, where, white=self.white)
        return resized(picture, self.size, antialias=self.antialias), picture.pages

    def predict(self, names: Sequence[str], images: Sequence[Pixels]) -> list[Prediction]:
        """Predictions for images from `decode`."""
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
        """A picture per image: the image and, beside it, each member's Grad-CAM of the chosen class on a grey copy.

        The panel of a map without positive values is only grey.

        Args:
            images: from `decode`.
            chosen: the class of each image whose map is shown.
        """
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        labels = torch.tensor([list(self.classes).index(name) for name in chosen])
        maps, _ = normalise(grad_cam(self.nets, to_input(pixels), labels))  # (M, N, H', W')
        return [_overlay(image, maps[:, number].numpy()) for number, image in enumerate(images)]


def load_ensemble(record: Path, selection: str | None = None) -> Ensemble:
    """The nets of a record.

    Args:
        record: its folder.
        selection: the selection rule whose weights are loaded; None: the first one, that of the headline table.

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
    """The images in a folder and its subfolders, sorted; or the image itself, if a file is named.

    Files that a training ignores (`folders.is_passed_over`) are ignored here as well. Files that it refuses are left
    out and reported.

    Returns:
        The images, and a line for each file that is left out.

    Raises:
        InputError: there are no images.
    """
    if folder.is_file():
        return [folder], []
    files, left_out = [], []
    for path in walk(folder):
        try:
            for part in (path, *path.parents):
                if part == folder:
                    break
                check_name(part)
        except InputError as error:
            left_out.append(str(error))
            continue
        if path.suffix.lower() in SUFFIXES and path.is_file():
            files.append(path)
        else:
            left_out.append(f"{path}: not one of {', '.join(SUFFIXES)} files, left out; convert it or move it away")
    if not files:
        problem = f"holds no images ({' '.join(SUFFIXES)})" if folder.is_dir() else "no such folder or image"
        raise InputError("; ".join([f"{folder}: {problem}", *left_out[:1]]))
    return sorted(files), left_out


def predict_files(
    ensemble: Ensemble, folder: Path, *, overlays: Path | None = None, say: Say
) -> tuple[list[Prediction], int]:
    """Predictions for the images in a folder, of which at most `EVALUATION_BATCH` are in memory at a time.

    Args:
        ensemble: from `load_ensemble`.
        folder: a folder or an image, see `image_files`.
        overlays: folder for a picture of each image with the members' maps, named after it with the suffix .png.
        say: takes a line for each file that is left out, is unreadable or has several pages.

    Returns:
        The predictions, named by path within the folder, and the number of files without one.
    """
    files, left_out = image_files(folder)
    # If a folder holds `a.jpg` and `a.png`, their pictures are called `a.jpg.png` and `a.png.png`.
    picture_names = Counter(Path(_name(path, folder)).with_suffix(".png") for path in files)
    for line in left_out:
        say(line)
    predictions: list[Prediction] = []
    unreadable = len(left_out)
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
                target = overlays / (picture_of if picture_names[picture_of] == 1 else f"{name}.png")
                target.parent.mkdir(parents=True, exist_ok=True)
                picture.save(target)
    return predictions, unreadable


def _name(path: Path, folder: Path) -> str:
    """An image's name: its path within the folder."""
    return path.relative_to(folder).as_posix() if path != folder else path.name


def _pictures(ensemble: Ensemble, images: Sequence[Pixels], predictions: Sequence[Prediction]) -> Iterator[Image.Image]:
    for start in range(0, len(images), 20):  # few at a time, because the maps need gradients
        part = slice(start, start + 20)
        yield from ensemble.overlays(images[part], [prediction.chosen for prediction in predictions[part]])


def as_row(prediction: Prediction) -> dict[str, Any]:
    """A prediction as a mapping of column names to values, for CSV and JSON."""
    votes = {f"member{member}": vote for member, vote in enumerate(prediction.votes)}
    return {"file": prediction.name, "class": prediction.chosen, "probability": prediction.probability, **votes}


def as_csv(predictions: Sequence[Prediction], members: int) -> bytes:
    """The predictions as a CSV file: file, class, probability, and the class that each member votes for."""
    text = io.StringIO(newline="")
    columns = ["file", "class", "probability", *(f"member{member}" for member in range(members))]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        as_row(prediction) | {"probability": f"{prediction.probability:.6f}"} for prediction in predictions
    )
    return text.getvalue().encode()


def _overlay(image: Pixels, maps: NDArray[np.float32]) -> Image.Image:
    """The image (H, W, 3) and its maps (M, H', W') side by side."""
    from fdl.evaluation.overlay import enlarged, on_grey

    side = image.shape[0] * -(-_PANEL // image.shape[0])
    shown = enlarged(image, side)
    grey = np.asarray(Image.fromarray(shown).convert("L").convert("RGB"))
    panels = [on_grey(image, cam, side) if cam.any() else grey for cam in maps]
    return Image.fromarray(np.concatenate([shown, *panels], axis=1))
