"""Where a dataset is published: terms, counts, names, and the hosts."""

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

Host = Literal["web", "zenodo", "drive", "huggingface", "kaggle", "page"]

# "path" is the file's, "id" the host's name of the whole dataset, for "web" an address.
DOWNLOADS: dict[Host, str] = {
    "web": "{id}/{path}",
    "zenodo": "https://zenodo.org/records/{id}/files/{path}",
    "drive": "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t",
    "huggingface": "https://huggingface.co/datasets/{id}/resolve/main/{path}",
    "kaggle": "https://www.kaggle.com/api/v1/datasets/download/{id}",  # needs a token; one ZIP file of everything
}
LISTINGS: dict[Host, str] = {"huggingface": "https://huggingface.co/api/datasets/{id}/tree/main?recursive=true"}
PAGES: dict[Host, str] = {
    "web": "{id}",
    "zenodo": "https://zenodo.org/records/{id}",
    "drive": "https://drive.google.com/file/d/{id}/view",
    "huggingface": "https://huggingface.co/datasets/{id}",
    "kaggle": "https://www.kaggle.com/datasets/{id}",
    "page": "{id}",
}


@dataclass(frozen=True)
class File:
    """One published file."""

    name: str  # below data/raw/official/<dataset>/
    size: int | None = None  # bytes; None: not published
    hash: str | None = None  # "md5:…" or "sha256:…"; None: recorded on the first download
    path: str | None = None  # at the host, where it is not the name


@dataclass(frozen=True)
class Place:
    """A complete copy of a dataset at one host: all of its files are fetched, or none is used."""

    host: Host  # "page": only a human can fetch there
    id: str
    files: tuple[File, ...] = ()  # none: the parquet files that the host lists
    by_hand: str = ""  # what a human takes from the page, where that is not the files by their names

    @property
    def name(self) -> str:
        """What messages call the place."""
        return self.id if self.host in ("web", "page") else f"{self.host} {self.id}"

    @property
    def page(self) -> str:
        """Address for a human."""
        return PAGES[self.host].format(id=self.id)

    @property
    def wanted(self) -> str:
        """What a human takes from the page."""
        names = " and ".join(file.name for file in self.files)
        return self.by_hand or names or ("the images" if self.host == "page" else "the parquet files")

    def address(self, file: File) -> str:
        """Address of one file for a program."""
        return DOWNLOADS[self.host].format(id=self.id, path=quote(file.path or file.name))

    def listing(self) -> str:
        """Address of the host's list of files."""
        return LISTINGS[self.host].format(id=self.id)


@dataclass(frozen=True)
class Publication:
    """One dataset as its publishers license, name and count it (docs/datasets.md); a part of its protocol."""

    citation: str
    licence: str  # in a few words
    terms: str  # printed before a download and stored beside it
    places: tuple[Place, ...]  # in the order in which they are tried
    published: dict[str, int]  # images per class in the "train" and "test" files, or in "all" of them
    images: int  # published in all
    counted: bool = True  # `images` was counted, not inferred: the official files must hold just as many
    download: str = "not stated"  # size of the first place's files, for a reader
    stored: tuple[int, int] | None = None  # height and width of every published image; None: they differ
    formats: str = ""  # of the files, for a reader; fdl.data.formats finds out by itself
    local_folders: tuple[str, ...] = ()  # names below the local data folder, besides the dataset's own
    class_names: dict[str, str] = field(default_factory=dict)  # what files call a class: what the protocol calls it
    sorted_names: bool = False  # labels are the files' own class names in sorted order
    numbered: bool = False  # the number in a file's name decides its pool and its place
    parted_by_class: bool = False  # each file holds different classes: their images are pooled
    validation_in_test: bool = False  # the authors cut validation from the first images of the test file
    rotated_copies: bool = False  # "name_.png" is a rotated copy of "name.png"
    note: str = ""  # always said
    folder_notes: dict[str, str] = field(default_factory=dict)  # said when this local folder is read
    suffix_notes: dict[str, str] = field(default_factory=dict)  # said when the images are of this file type
    subset_note: str = ""  # said when the files hold fewer images than were published
