"""Joint fine-tuning of a text and an image encoder (arXiv 2510.10556, content alignment).

Writes ``encoders/text/`` and ``encoders/image/``, folders that describe themselves and load
without the pipeline, each with ``adapter.safetensors`` beside the encoder's files; and
``encoders/alignment.json``, which says what was trained.
"""

import json

import polars as pl
from safetensors.torch import save_file

from sicsrec.config.encoders import EncoderConfig
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.schema import PAIRS, check_schema
from sicsrec.encoders.base import ItemEncoder, Modality
from sicsrec.encoders.builder import build_encoder, save_encoder
from sicsrec.encoders.content import ItemContent, open_content
from sicsrec.steps.context import StepContext, StepReport
from sicsrec.training.alignment import align
from sicsrec.training.pair_batches import Pairs

ADAPTER_FILE = "adapter.safetensors"
ALIGNMENT_FILE = "alignment.json"


def run(context: StepContext) -> StepReport:
    """Train the configured encoders on the pairs and save them.

    Raises:
        EncoderError: if an encoder cannot be loaded.
        DataError: if there is nothing to train on.
        TrainingDivergedError: if a loss is not finite.
    """
    config = context.config.align_encoders
    catalog = ItemCatalog.read(context.input("ingest/catalog").path())
    frame = pl.read_parquet(context.input("sample_pairs/pairs").path("pairs.parquet"), glob=False)
    pairs = Pairs.from_frame(check_schema(frame, PAIRS, "pairs"), catalog)
    encoders: dict[str, ItemEncoder] = {}
    contents: dict[str, ItemContent] = {}
    for modality, encoder_config in _configured(config.text_encoder, config.image_encoder):
        encoders[modality] = build_encoder(encoder_config, modality, context.seed, context.device)
        contents[modality] = open_content(modality, catalog, context.input("ingest/covers").path())
    result = align(
        encoders,
        contents,
        pairs,
        config,
        n_items=catalog.n_items,
        seed=context.seed,
        work=context.work,
        tracker=context.tracker,
        progress=context.progress,
    )
    folder = context.output("encoders")
    for name, encoder in encoders.items():
        save_encoder(encoder, folder / name)
        weights = {
            key: value.contiguous() for key, value in result.adapters[name].state_dict().items()
        }
        save_file(weights, folder / name / ADAPTER_FILE)
    summary = {
        "trained": result.report["trained"],
        "trained_weights": list(result.trained_weights),
    }
    (folder / ALIGNMENT_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    for moment in ("before", "after"):
        context.tracker.log_metrics(
            {f"{moment}/{name}": float(value) for name, value in result.report[moment].items()}
        )
    return StepReport(rows=len(pairs), rows_of="pairs", content=result.report)


def _configured(
    text: EncoderConfig | None, image: EncoderConfig | None
) -> list[tuple[Modality, EncoderConfig]]:
    both: tuple[tuple[Modality, EncoderConfig | None], ...] = (("text", text), ("image", image))
    return [(modality, config) for modality, config in both if config is not None]
