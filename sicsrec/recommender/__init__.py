"""A trained model in a folder, ready to recommend; needs neither pipeline nor store.

::

    recommender = Recommender.load("export/model")
    recommender.recommend(["item-17", "item-4"], k=10)
    recommender.neighbours("item-17")
    new = recommender.encode(["new-1"], texts=["A title"], covers=[Path("cover.jpg")])
    recommender.recommend(["item-17", "item-4"], new=new)

The folder is what the step ``export`` writes as its output ``model``: ``config.json``,
``model.safetensors``, ``items.parquet`` and ``model_card.json``; where a blend ranks in place of
the model alone, ``id_encoder/`` and ``blend/``; and, unless left out, ``encoders/``, with which new
items are encoded.
"""

from sicsrec.recommender.encoders import ENCODERS_FOLDER, ItemEncoders
from sicsrec.recommender.model import (
    BLEND_FOLDER,
    CARD_FILE,
    ID_ENCODER_FOLDER,
    ITEMS_FILE,
    HistoriesById,
    Recommender,
)

__all__ = [
    "BLEND_FOLDER",
    "CARD_FILE",
    "ENCODERS_FOLDER",
    "ID_ENCODER_FOLDER",
    "ITEMS_FILE",
    "HistoriesById",
    "ItemEncoders",
    "Recommender",
]
