"""What can go wrong, said to the person who must mend it.

Every error a user can cause derives from `AsemError`; the command line prints its text without a traceback.
A message says what happened, to which file or plugin, what was expected, and what to do next.
"""


class AsemError(Exception):
    """Base of every error that a user can cause and mend."""


class BadInput(AsemError):
    """A file, array or value cannot be used as it is."""


class ShapeMismatch(BadInput):
    """Two volumes that must agree in shape or place do not."""


class VoxelSizeMismatch(BadInput):
    """Two volumes, or a volume and a model, disagree in voxel size."""


class OutsideVolume(BadInput):
    """A box sticks out of its volume and the caller did not allow that."""


class RecipeError(AsemError):
    """A recipe has an unknown key, a value of the wrong type, or an unknown name."""


class UnknownName(AsemError):
    """No plugin, model or layer has this name."""


class PluginError(AsemError):
    """A plugin could not be loaded, clashes with another, or returned something it must not."""


class MissingExtra(AsemError):
    """An optional dependency is not installed; the message holds the command that installs it."""


class OutputExists(AsemError):
    """The output is already there and was made by something else."""


class OutputBusy(AsemError):
    """Another process is writing this output."""


class BlockFailed(AsemError):
    """A block failed three times; the message holds its box and its cause."""


class NoSpace(AsemError):
    """The disk is full; the message says how much room is needed."""


class TrainingStopped(AsemError):
    """A training run cannot go on; the message says at which block, and what was saved."""
