"""Types of the flow's parameters: Prefect's page makes a form of them, its server checks them.

The server refuses what does not fit before a run is made. Keys below the sections are checked when
the flow starts, before any step does anything.
"""

from typing import Annotated, Any, Literal

from pydantic import WithJsonSchema

from flows.configuration import preset_names
from sicsrec.config import PipelineConfig

StepName = Literal[
    "ingest",
    "split",
    "sample_pairs",
    "align_encoders",
    "encode_items",
    "pretrain_id",
    "train_sicsrec",
    "evaluate",
    "export",
]
"""The steps as a type, so that Prefect's page offers them as a choice."""


def _preset_schema() -> dict[str, Any]:
    # A name that fits neither is told by the entry whose own type fits, so the pattern of files
    # stands one level lower: the server then quotes the presets.
    return {
        "anyOf": [
            {"type": "string", "title": "Preset", "enum": list(preset_names())},
            {"type": "string", "title": "File", "allOf": [{"pattern": r"\.ya?ml$"}]},
        ]
    }


def _override_schema() -> dict[str, Any]:
    return {"type": "string", "pattern": rf"^({'|'.join(PipelineConfig.model_fields)})(\.[^=]+)?="}


PresetOrFile = Annotated[str, WithJsonSchema(_preset_schema())]
"""Name of a shipped preset, or path of a YAML file."""

Override = Annotated[str, WithJsonSchema(_override_schema())]
"""``section.key=value``."""
