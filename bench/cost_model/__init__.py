"""A model of step times, fitted to records of one machine, that predicts more workers."""
