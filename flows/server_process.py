"""The process of a temporary Prefect server; it ends with the process that started it.

Started as ``python -m flows.server_process PORT`` with a pipe as its standard input. The pipe
closes when the starting process ends, however it ends, so that a killed run leaves no server.
"""

import sys

import uvicorn

from sicsrec.starter import when_starter_ends


def serve(port: int) -> None:
    """Serve until told to stop or until standard input ends."""
    settings = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )
    server = uvicorn.Server(settings)

    def stop() -> None:
        server.should_exit = True

    when_starter_ends(stop)
    server.run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
