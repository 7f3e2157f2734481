"""All that a user decides about the training of a detector."""

from dataclasses import dataclass

from residual.recipes.detection import DetectionRecipe


@dataclass(frozen=True, kw_only=True)
class DetectionPlan:
    """It is written to run.json and resumed from there.

    model: a detector's name, as `residual.detect.catalog` reads it.
    data: "scenes", "shapes" or a path; see `open_objects`.  lists: of a VOCdevkit, which of its lists; of ILSVRC, which
        of its sets.
    trunk: a run folder or weights file of a classifier that the network begins with; None: random weights.
    budget, save_steps, tensorboard, looks: as in `Plan`.
    """

    model: str
    data: str
    recipe: DetectionRecipe
    lists: str | None = None
    trunk: str | None = None
    seed: int = 0
    budget: float | None = None
    device: str = "auto"
    workers: int = 2
    save_steps: int | None = None
    tensorboard: bool = False
    looks: int = 10

    def __post_init__(self) -> None:
        if self.looks < 1:
            raise ValueError(f"held-out images are looked at least once, at the end; looks is {self.looks}")
        if self.recipe.in_turn and self.budget is not None:
            raise ValueError(
                f"recipe {self.recipe.name!r} has four steps of a fixed length, so it does not end within a time; "
                "leave the time out and say --epochs, or take a recipe that trains all at once"
            )

    def refuse_new(self) -> None:
        """Raise ValueError for what no training begins with, though runs that began with it are still followed."""
        if self.model.startswith("localizer") and not self.recipe.augmentation.shrink:
            raise ValueError(
                f"recipe {self.recipe.name!r} leaves large images as they are, and {self.model} is tested on images "
                f"brought to a shorter side of {self.recipe.side} pixels, so it would be tested at another size than "
                "it was trained at; take recipe modern or localization"
            )
