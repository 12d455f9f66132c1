"""The type checker that the jaxtyping annotations of the loss are run with in tests: an int passes for a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
