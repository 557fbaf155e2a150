"""What the command line does, as functions. The command line calls these.

Each function imports what is slow when it is called, so that a mistake in a recipe is reported within a second.
"""

from bt_plugin.api.evaluation import Embeddings, embed, evaluate
from bt_plugin.api.planning import plan
from bt_plugin.api.runs import Plan, check, list_recipes, pretrain
from bt_plugin.api.weights import ExportedFile, ImportedWeights, export, import_weights, load_backbone

__all__ = [
    "Embeddings",
    "ExportedFile",
    "ImportedWeights",
    "Plan",
    "check",
    "embed",
    "evaluate",
    "export",
    "import_weights",
    "list_recipes",
    "load_backbone",
    "plan",
    "pretrain",
]
