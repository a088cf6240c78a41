"""The built-in catalogue, written as raw files and read through the reader ``tables``."""

from pathlib import Path

from sicsrec.config import DemoReaderConfig, TablesReaderConfig
from sicsrec.data.demo import write_demo
from sicsrec.data.readers.base import RawData
from sicsrec.data.readers.tables import read_tables


def read_demo(root: Path, config: DemoReaderConfig) -> RawData:
    """Write the demo's raw files into ``root``, an empty scratch folder, and read them."""
    write_demo(root, config.n_items, config.n_users, config.generator_seed)
    layout = TablesReaderConfig(
        items="items.csv", interactions="interactions.csv", covers="covers", language="language"
    )
    return read_tables(root, layout)
