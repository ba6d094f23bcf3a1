"""What every result can do: turn into a tidy table and draw itself."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Result(ABC):
    """A frozen dataclass of measured values."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """One row per measured value, in tidy form."""

    def figure(self) -> "go.Figure":
        """The result's figure; nothing is shown or saved."""
        # The one place where a result reaches up to the figures: late, so that figures may import results.
        from steerlens.figures import draw

        return draw(self)
