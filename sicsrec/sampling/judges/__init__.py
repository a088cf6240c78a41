"""The table of judges: who answers which candidate is similar and which are unrelated.

An entry is a function ``build(config, n_negatives, given) -> Judge``. ``similarity`` is given the
:class:`~sicsrec.sampling.judges.similarity.TextVectors` of the catalogue; ``co_occurrence`` and
``random``, which read no text, the seed; the others, which ask a language model,
:class:`~sicsrec.sampling.asking.Surroundings`.
"""

from sicsrec.registry import Registry

TEXTLESS = ("co_occurrence", "random")
"""Judges that read no text, so items without one are asked about too."""

JUDGES = Registry(
    "judge",
    {
        "similarity": "sicsrec.sampling.judges.similarity:build_similarity_judge",
        "co_occurrence": "sicsrec.sampling.judges.textless:build_co_occurrence_judge",
        "random": "sicsrec.sampling.judges.textless:build_random_judge",
        "openai": "sicsrec.sampling.judges.openai_server:build_openai_judge",
        "transformers": "sicsrec.sampling.judges.local_model:build_local_judge",
    },
)
