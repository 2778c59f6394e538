"""What train.py and infer.py are built from: ranks, optimiser, checkpoints, records, evaluation, the run."""
