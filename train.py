"""Train a model: ``python train.py [group=choice …] [key=value …]``, or ``linf train``; see ``conf/train.yaml``."""

from linf.runs.entry import run
from linf.runs.train import train

if __name__ == "__main__":
    run(train, "train")
