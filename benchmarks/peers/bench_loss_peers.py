#!/usr/bin/env python3
"""The contrastive loss of bench_loss in PyTorch, forward and backward, with open_clip's ClipLoss where it is installed.

    python3 -m venv venv && venv/bin/pip install torch safetensors open_clip_torch
    DAUG_PEER_FILES=/tmp/peers build/benchmarks/bench_loss --benchmark_filter=hybrid_loss/clip_tiled
    venv/bin/python benchmarks/peers/bench_loss_peers.py --files /tmp/peers

Compare with clip_tiled of bench_loss, run just before or after. Without open_clip two products and two cross-entropies are
timed, which is what its ClipLoss does on one process. With --files loss and gradient are compared with ours first; without,
embeddings are random.
"""

import resource

import peer

torch = peer.torch_with_threads()
F = torch.nn.functional

WIDTH, LOGIT_SCALE = 512, 4.602


def two_products(image, text, scale):
    labels = torch.arange(len(image))
    return (F.cross_entropy(scale * image @ text.T, labels) + F.cross_entropy(scale * text @ image.T, labels)) / 2


def published_loss():
    try:
        import open_clip
    except ImportError:
        return {}, two_products
    return {"open_clip": open_clip.__version__}, open_clip.loss.ClipLoss()


def main():
    parser = peer.parser(__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[4096, 16384])
    arguments = parser.parse_args()
    versions, loss = published_loss()
    results = peer.Results(arguments, torch=torch.__version__, threads=torch.get_num_threads(), **versions)
    scale = torch.tensor(LOGIT_SCALE).exp()
    for batch in arguments.batches:
        given = peer.load(arguments.files, f"loss_{batch}.io") if arguments.files else {}
        image, text = (given.get(name, torch.randn(batch, WIDTH)).requires_grad_() for name in ("image", "text"))
        name = f"clip_loss/B:{batch}/pytorch"

        def forget():
            image.grad = text.grad = None

        def step():
            value = loss(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale)
            value.backward()
            return value.detach()

        if given:
            peer.require_close(f"{name}, loss", step(), given["loss"], 1e-4)
            peer.require_close(f"{name}, gradient", image.grad, given["image_grad"], 1e-3)
        results.measure({name: step}, before=forget)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"{name}: process at {peak:.0f} MB at most")


if __name__ == "__main__":
    main()
