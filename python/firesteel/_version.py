"""The version, which the jar and the native library share."""

__version__ = "0.1.0"
