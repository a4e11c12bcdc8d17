"""The strategies that train the weights of plain training, by name, for a proof to try each."""

from strategies.catalog import select

EXACT = select("proof", exact=True, own_loss=False)
"""(model, optimizer, comm) -> a strategy whose weights and losses are those of plain training."""

DATA_PARALLEL = tuple(select("proof", exact=True, syncs_batch_norm=True))
"""Strategies whose ranks compute rows of their own together: batch norm can be synchronised."""

OF_OWN_LOSS = select("proof", exact=True, own_loss=True)
"""Strategies that are exact too, but whose `step` returns the loss of a rank's own rows."""
