"""The deployment ``sicsrec/full-pipeline``."""

from prefect import serve
from prefect.types.entrypoint import EntrypointType

from flows.pipeline import sicsrec

DEPLOYMENT_NAME = "full-pipeline"


def serve_pipeline() -> None:
    """Register the deployment with the Prefect server in use and carry out its runs."""
    deployment = sicsrec.to_deployment(
        DEPLOYMENT_NAME,
        description="Raw video metadata, covers and histories to an exported recommender.",
        tags=["sicsrec"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    serve(deployment, limit=1)  # type: ignore[arg-type]  # a coroutine only in asynchronous code
