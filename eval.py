"""Evaluate a checkpoint: ``python eval.py ckpt_path=… [key=value …]``, or ``linf eval``; see ``conf/eval.yaml``."""

from linf.runs.entry import run
from linf.runs.eval import evaluate

if __name__ == "__main__":
    run(evaluate, "eval")
