"""The one error tree. Every message is one clear text that says what is wrong and what to do."""

from __future__ import annotations


class BeamfoldError(Exception):
    """Root of every error that Beamfold raises on purpose."""


class ConfigError(BeamfoldError):
    """A run file, an environment variable or a command line cannot be used as it stands."""


class MapError(BeamfoldError):
    """A trigger map that is malformed, or that this deployment cannot serve."""


class MalformedFrame(BeamfoldError):
    """Bytes that do not follow their protocol."""


class UnsafePickle(MalformedFrame):
    """A pickle that asks for something outside the allow-list."""


class CodecError(BeamfoldError):
    """A result that cannot travel, or bytes that are not an encoded result."""


class AppError(BeamfoldError):
    """A user's class cannot be found, imported, constructed or called."""


class ParameterError(BeamfoldError):
    """A parameter's bytes do not fit its declared type, or its name is not usable."""


class LedgerUnavailable(BeamfoldError):
    """The control store does not answer; what would have to be recorded is refused."""


class ScanError(BeamfoldError):
    """A scan cannot be started, or was asked for in a state that does not allow it."""


class ReplayError(BeamfoldError):
    """A replay cannot go on, because a process of it has ended."""
