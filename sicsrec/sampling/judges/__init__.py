"""The table of judges: who answers which candidate is similar and which are unrelated.

An entry is a function ``build(config, n_negatives, vectors) -> Judge``; ``vectors`` are the
:class:`~sicsrec.sampling.judges.similarity.TextVectors` of the catalogue.
"""

from sicsrec.registry import Registry

JUDGES = Registry(
    "judge", {"similarity": "sicsrec.sampling.judges.similarity:build_similarity_judge"}
)
