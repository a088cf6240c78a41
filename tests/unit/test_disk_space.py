"""What counts as a full disk."""

import io
from pathlib import Path

import pytest
import torch
from prefect.exceptions import TerminationSignal

from sicsrec.disk_space import naming_full_disk


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), TerminationSignal(15)])
def test_a_stop_within_a_write_is_no_full_disk(tmp_path: Path, stop: BaseException) -> None:
    class Stopped(io.BytesIO):
        def write(self, content: object, /) -> int:
            if self.tell():
                raise stop
            return super().write(content)  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match="unexpected pos"):
        torch.save({"a": torch.zeros(1000)}, Stopped())
    with pytest.raises(type(stop)) as caught, naming_full_disk(tmp_path, "a checkpoint"):
        torch.save({"a": torch.zeros(1000)}, Stopped())
    assert caught.value is stop
