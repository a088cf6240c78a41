"""The table of judges: who answers which candidate is similar and which are unrelated.

An entry is a function ``build(config, n_negatives, ...) -> Judge``. What follows differs:
``similarity`` is given the :class:`~sicsrec.sampling.judges.similarity.TextVectors` of the
catalogue, ``openai`` the folder of its response log and what reads secrets, ``transformers`` that
folder and the device.
"""

from sicsrec.registry import Registry

JUDGES = Registry(
    "judge",
    {
        "similarity": "sicsrec.sampling.judges.similarity:build_similarity_judge",
        "openai": "sicsrec.sampling.judges.openai_server:build_openai_judge",
        "transformers": "sicsrec.sampling.judges.local_model:build_local_judge",
    },
)
