"""What the authors did and stored: protocol constants (`protocol.py`)."""
