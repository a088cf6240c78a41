"""Every error that sicsrec raises on purpose.

::

    SicsrecError
    ├── ConfigError                 a value, key or combination in the configuration
    │   └── NotApplicableError      a right value that asks for data there is not
    ├── DataError                   what a reader, a table or an image holds
    │   ├── SchemaError             a column or type is not what the schema says
    │   └── LeakageError            held-out interactions would reach a step that must not see them
    ├── ArtifactError               the store of finished steps
    │   ├── ArtifactMissingError    nothing is committed under this key
    │   ├── ArtifactCorruptError    a committed file is gone, cut short or edited
    │   └── SharedStoreError        the storage that machines share cannot be used
    ├── DiskFullError               nothing more can be written to a folder
    ├── BackendError                a judge that answers questions about pairs
    │   └── BackendUnavailableError the only error worth a retry
    ├── EncoderError                a text or image encoder cannot be loaded or used
    ├── MemoryFullError             of the accelerator or the machine
    ├── TrackingError               the server of the records cannot be reached
    ├── TrainingDivergedError       a loss or score is not a finite number
    └── TrainingProcessError        one of several training processes died

A message names what was found, what was expected and where, and says what to do.
"""


class SicsrecError(Exception):
    """Base of all errors that sicsrec raises on purpose."""


class ConfigError(SicsrecError):
    """The configuration holds a wrong value, key or combination."""


class NotApplicableError(ConfigError):
    """The configuration is right, but asks for data that there is not, e.g. covers."""


class DataError(SicsrecError):
    """Input data cannot be used as it is."""


class SchemaError(DataError):
    """A table lacks a column or a column has another type than the schema says."""


class LeakageError(DataError):
    """Held-out interactions would reach a step that must not see them."""


class ArtifactError(SicsrecError):
    """The artifact store cannot do what was asked."""


class ArtifactMissingError(ArtifactError):
    """Nothing is committed under the requested key."""


class ArtifactCorruptError(ArtifactError):
    """A committed file is missing, cut short or edited."""


class SharedStoreError(ArtifactError):
    """The storage that several machines share cannot be reached, or refuses."""


class DiskFullError(SicsrecError):
    """Nothing more can be written to a folder: the disk is full or a quota is reached."""


class BackendError(SicsrecError):
    """A judge failed to answer."""


class BackendUnavailableError(BackendError):
    """A judge cannot be reached at the moment; a retry may help."""


class EncoderError(SicsrecError):
    """A text or image encoder cannot be loaded or used."""


class MemoryFullError(SicsrecError):
    """The memory of the accelerator or of the machine is full."""


class TrackingError(SicsrecError):
    """The server that keeps the records of runs cannot be reached, or refuses one."""


class TrainingDivergedError(SicsrecError):
    """A loss or score is not a finite number."""


class TrainingProcessError(SicsrecError):
    """One of several processes that train a model died."""
