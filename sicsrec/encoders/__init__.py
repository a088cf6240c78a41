"""The table of text and image encoders, and what trains them.

An entry is a class of :class:`sicsrec.encoders.base.ItemEncoder` with
``build(config, modality, seed)`` beside the methods of the base.
"""

from sicsrec.registry import Registry

ENCODERS = Registry(
    "encoder",
    {
        "transformers_text": "sicsrec.encoders.text_transformer:TextTransformerEncoder",
        "transformers_image": "sicsrec.encoders.image_transformer:ImageTransformerEncoder",
        "open_clip_text": "sicsrec.encoders.open_clip:OpenClipTextEncoder",
        "open_clip_image": "sicsrec.encoders.open_clip:OpenClipImageEncoder",
    },
)
