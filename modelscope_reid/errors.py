"""The errors that this package raises on purpose.

Every message says what was given, what was expected and what to do, on one line. All derive from
`ReidError`, so one `except ReidError` separates a user's mistake from a bug of ours. Each class takes
one string, because ModelScope re-raises errors as ``type(error)(text)``.
"""

from __future__ import annotations


class ReidError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(ReidError, ValueError):
    """A configuration has an unknown field, a value out of range, or contradicts its weights."""


class ImageError(ReidError, ValueError):
    """An input is no image that can be embedded: missing, broken, too large, or of a wrong type."""


class CheckpointError(ReidError, ValueError):
    """A weight file cannot be opened, is of no known origin, or does not fit the model it claims to be."""


class HubError(ReidError, OSError):
    """A model is neither a local path nor to be had from the hub."""


class InputError(ReidError, ValueError):
    """An argument that is not an image has a wrong shape, range or combination."""


class GalleryError(ReidError, OSError):
    """A gallery cannot be read or written: a damaged or foreign file, a full disk, a server that does not answer."""


class TrainingError(ReidError, RuntimeError):
    """Training cannot go on: a loss that is not finite, or a run folder that does not fit."""


class BusyError(ReidError, RuntimeError):
    """A server has as much waiting as it can hold."""


class TooLargeError(ImageError):
    """An image is larger than the limits of whoever was given it: in bytes, pixels or number."""
