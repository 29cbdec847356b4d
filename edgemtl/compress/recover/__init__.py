"""Recovery: train a pruned network with its tasks' losses and by distillation from the dense one.

It buys as few steps as the gates ask for: norms and biases first, then the one task that is behind,
then everything (``training.py``). Every stage finds its rate by a short trial (``trial.py``) and
starts with warm moments of the optimiser and frozen batch statistics (``trainer.py``), so that the
first step pays. What is returned is never worse than what the training started from.
"""

from edgemtl.compress.recover.options import RecoverOptions
from edgemtl.compress.recover.records import RecoverResult
from edgemtl.compress.recover.training import Recovery, recover

__all__ = ["RecoverOptions", "RecoverResult", "Recovery", "recover"]
