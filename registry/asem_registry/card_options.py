"""What a person says of a model for its card: options of `asem models add` and `asem models publish`."""

from typing import Annotated

import typer

About = Annotated[str, typer.Option("--about", help="One line: what it finds, and in which samples.")]
Aliases = Annotated[list[str] | None, typer.Option("--alias", help="Another name; may be repeated.")]
VoxelSize = Annotated[
    str | None, typer.Option("--voxel-size", help="Voxel size in nm, if the weights do not state it: 5,5,5.")
]
Preparation = Annotated[str, typer.Option("--preparation", help="How the samples were prepared.")]
Contrast = Annotated[str, typer.Option("--contrast", help="What is dark and what is bright.")]
Citation = Annotated[str, typer.Option("--citation", help="What users should cite.")]
TrainingData = Annotated[
    str, typer.Option("--training-data", help="Description of the training data; by default the run's regions.")
]
