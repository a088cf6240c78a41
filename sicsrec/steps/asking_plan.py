"""What ``sample_pairs`` would ask a language model, without asking."""

from typing import Any, cast

from sicsrec.artifacts import ArtifactRef, ArtifactStore
from sicsrec.config import PipelineConfig
from sicsrec.config.judges import LanguageModelJudgeConfig
from sicsrec.data.catalog import ItemCatalog
from sicsrec.data.split import TrainLog
from sicsrec.errors import ArtifactMissingError, ConfigError
from sicsrec.sampling.asking import LanguageModelJudge, Surroundings
from sicsrec.sampling.judges import JUDGES
from sicsrec.sampling.questions import QuestionSource
from sicsrec.sampling.spending import AskingPlan
from sicsrec.steps import get_step
from sicsrec.steps.runner import find_reusable


def plan_asking(config: PipelineConfig, store: ArtifactStore) -> AskingPlan:
    """Return what asking will take; nothing is sent, and no key is needed.

    Raises:
        ConfigError: if the judge asks no language model, or cannot be made as configured.
        ArtifactMissingError: if ingest or split was not run.
    """
    section = config.sample_pairs
    if not isinstance(section.judge, LanguageModelJudgeConfig):
        raise ConfigError(
            f"sample_pairs.judge.kind is {section.judge.kind}, which asks no language model; set "
            "it to openai or transformers"
        )
    refs: dict[str, ArtifactRef] = {}
    for name in ("ingest", "split"):
        manifest = find_reusable(get_step(name), config, refs, store)[1]
        if manifest is None:
            raise ArtifactMissingError(
                f"the questions come from the training histories, and {name} has not run under "
                "this configuration; run first, with the same options: sicsrec run --until split"
            )
        refs |= manifest.refs()
    catalog = ItemCatalog.read(store.open(refs["ingest/catalog"]).path())
    log = TrainLog.read(store.open(refs["split/train"]).path())
    questions = QuestionSource(log, catalog, section.anchors, section.n_candidates, config.seed)
    # Any word will do for a key that is not sent.
    cache = store.cache(config.dataset, "sample_pairs")
    surroundings = Surroundings(cache, read_secret=lambda name: name)
    build = cast("Any", JUDGES.get(section.judge.kind))
    judge: LanguageModelJudge = build(section.judge, section.n_negatives, surroundings)
    return judge.plan(questions)
