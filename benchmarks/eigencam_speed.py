"""Speed of the batched EigenCAM against pytorch-grad-cam's.

    python benchmarks/eigencam_speed.py

64 activations of 512 x 16 x 16 with the spectrum of real ones (a few smooth patterns and noise) and, as the worst case,
pure noise, where the leading components nearly tie. Best of five runs against the best of two; one thread each, since
the stock NumPy SVD gets slower with two.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from marking import machine
from medmark.components.saliency.eigencam import leading_projection
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "saliency"))
from test_saliency import correlation, lifelike


def best(call, runs: int) -> float:
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    torch.set_num_threads(1)
    noise = torch.relu(torch.randn(64, 512, 16, 16, generator=torch.Generator().manual_seed(1)))
    results = {"machine": machine(), "seed": 1}
    with threadpool_limits(1):
        for name, activations in (("lifelike", lifelike(64)), ("noise", noise)):
            ours = best(lambda a=activations: leading_projection(a), 5)
            stock = best(lambda a=activations: get_2d_projection(a.numpy().copy()), 2)
            exact = get_2d_projection(activations.numpy().copy())
            pairs = zip(leading_projection(activations).numpy(), exact, strict=True)
            results[name] = {
                "seconds": round(ours, 4),
                "stock_seconds": round(stock, 4),
                "times_faster": round(stock / ours, 1),
                "worst_correlation": float(np.min([correlation(a, b) for a, b in pairs])),
            }
    path = Path(__file__).parent / "results" / "eigencam_speed.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
