"""Conformance kits: what every plugin of a kind must do. A plugin's test inherits one in three lines:

    from asem_core.testing import PreprocessorKit

    class TestMyStep(PreprocessorKit):
        plugin = MyStep()

Kits skip nothing a plugin claims: they check its options, its promises about shape, type and place, and that its result
does not depend on blocks. They need pytest only to run, not to import.
"""

from asem_core.testing.analyzer import AnalyzerKit
from asem_core.testing.annotator import AnnotatorKit
from asem_core.testing.examples import example_image, example_labels
from asem_core.testing.model import ModelKit
from asem_core.testing.plugin import PluginKit
from asem_core.testing.preprocessor import PreprocessorKit
from asem_core.testing.sampler import SamplerKit
from asem_core.testing.source import SourceKit

__all__ = [
    "KITS",
    "AnalyzerKit",
    "AnnotatorKit",
    "ModelKit",
    "PluginKit",
    "PreprocessorKit",
    "SamplerKit",
    "SourceKit",
    "example_image",
    "example_labels",
]

KITS = {kit.kind: kit for kit in (SourceKit, PreprocessorKit, AnnotatorKit, SamplerKit, ModelKit, AnalyzerKit)}
