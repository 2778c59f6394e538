"""What train.py and infer.py are made of: ranks, optimiser, checkpoints, records, evaluation, the run."""
