"""Every error that steerlens raises on purpose: what came, what was expected, what to do."""


class SteerLensError(Exception):
    """The base class: `except sl.SteerLensError` catches every error of ours."""


class ModelError(SteerLensError, ValueError):
    """A model could not be loaded, or is not one that the call can work with."""


class PairsError(SteerLensError, ValueError):
    """Preference pairs are missing, malformed, too long, or used where they must not be."""


class VectorError(SteerLensError, ValueError):
    """A steering vector is malformed, does not fit the model, or does not fit another vector."""


class SteeringError(SteerLensError, ValueError):
    """A request to steer or to generate is incomplete or contradictory."""


class MeasureError(SteerLensError, ValueError):
    """A measure was asked for what it cannot report honestly."""


class FigureError(SteerLensError, RuntimeError):
    """A figure could not be drawn or written."""


class TrainingError(SteerLensError, RuntimeError):
    """Training stopped before its end; `vector` is the last good one, or None."""

    def __init__(self, message: str, vector: object = None) -> None:
        super().__init__(message)
        self.vector = vector
