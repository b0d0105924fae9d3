"""fdl: a fair test of "Discriminative Feature Learning through Feature Distance Loss".

The stages are the verbs of ``python -m fdl``; docs/architecture.md has the picture. The names here are for people who
write a method or a figure of their own; each is imported when it is first used, since torch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the digest of a user's method finds here what a name stands for
    from fdl.core.settings import load as load_settings
    from fdl.methods.losses import descriptor, feature_distance

__all__ = ["descriptor", "feature_distance", "load_settings"]
__version__ = "0.1.0"

_NAMES = {
    "descriptor": ("fdl.methods.losses", "descriptor"),
    "feature_distance": ("fdl.methods.losses", "feature_distance"),
    "load_settings": ("fdl.core.settings", "load"),
}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'fdl' has no attribute {name!r}")
    module, attribute = _NAMES[name]
    return getattr(import_module(module), attribute)
