"""fdl: a fair test of "Discriminative Feature Learning through Feature Distance Loss".

The stages are the verbs of ``python -m fdl``; docs/architecture.md has the picture.
"""

__version__ = "0.1.0"
