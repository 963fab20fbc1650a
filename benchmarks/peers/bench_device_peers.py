#!/usr/bin/env python3
"""Work of bench_device by other libraries, on the first CUDA device, under the names that benchmarks/support/table.py pairs.

    python3 benchmarks/peers/bench_device_peers.py hybrid_loss      # PyTorch eager, torch.compile, Inf-CL's kernel
    python3 benchmarks/peers/bench_device_peers.py resize_augment   # torchvision's transforms v2
    python3 benchmarks/peers/bench_device_peers.py search           # FAISS with its part for devices

benchmarks/gpu.sh runs all three behind bench_device. What is not installed, or does not run on this device, is said and left
out. Losses have to agree with the eager one within 2e-2 of it. torchvision draws one change for a batch, ours are one an
image. Not yet run on a device.
"""

import sys

import peer

import torch

F = torch.nn.functional

LOGIT_SCALE, WIDTH, ITEMS, NEAREST = 4.602, 512, 1_000_000, 10
LOSS_BATCH, IMAGES = 32768, 256


def waited(action):
    """The action, over when the device is done with it."""

    def work():
        result = action()
        torch.cuda.synchronize()
        return result

    return work


def left_out(name, reason):
    print(f"{name}: not run: {reason}", flush=True)


def eager(image, text):
    """CLIP's loss as it is written: scores in the embeddings' type, cross-entropies in float32."""
    scale = torch.tensor(LOGIT_SCALE).exp().item()
    scores = (scale * F.normalize(text, dim=-1) @ F.normalize(image, dim=-1).T).float()
    own = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def inf_cl(image, text):
    from inf_cl import cal_flash_loss

    scale = torch.tensor(LOGIT_SCALE).exp().item()
    v, t = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    return (cal_flash_loss(t, v, scale=scale).mean() + cal_flash_loss(v, t, scale=scale).mean()) / 2


def hybrid_loss(results):
    image = torch.randn(LOSS_BATCH, WIDTH, device="cuda", dtype=torch.bfloat16)
    text = (image + torch.randn_like(image)).requires_grad_()
    image.requires_grad_()

    def forget():
        image.grad = text.grad = None

    def step_of(loss):
        def step():
            value = loss(image, text)
            value.backward()
            return value.detach()

        return waited(step)

    expected = None
    for way, make in (("pytorch", lambda: eager), ("compile", lambda: torch.compile(eager)), ("inf_cl", lambda: inf_cl)):
        name = f"hybrid_loss/{way}/bfloat16/{LOSS_BATCH}"
        try:
            step = step_of(make())
            forget()
            value = float(step())
        except Exception as error:  # noqa: BLE001: a peer may fail as it likes
            left_out(name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        expected = value if expected is None else expected
        if not abs(value - expected) <= 2e-2 * abs(expected):
            left_out(name, f"its loss is {value:.4g}, the eager one {expected:.4g}")
            continue
        results.measure({name: step}, before=forget)


def resize_augment(results):
    name = f"resize_augment/torchvision/float32/{IMAGES}"
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        left_out(name, error)
        return
    images = torch.rand(IMAGES, 1, 1024, 1024, device="cuda")
    bilinear = v2.InterpolationMode.BILINEAR
    change = v2.Compose([v2.Resize((256, 256), interpolation=bilinear, antialias=True),
                         v2.RandomAffine(10, translate=(0.05, 0.05), scale=(0.9, 1.1), interpolation=bilinear),
                         v2.ColorJitter(brightness=0.1, contrast=0.1)])
    results.measure({name: waited(lambda: change(images))})


def search(results):
    names = {batch: f"search/faiss/float32/{batch}" for batch in (64, 1000)}
    try:
        import faiss

        resources = faiss.StandardGpuResources()
        index = faiss.GpuIndexFlatIP(resources, WIDTH)
    except (ImportError, AttributeError) as error:
        left_out(" and ".join(names.values()), error)
        return
    rows = F.normalize(torch.randn(ITEMS, WIDTH, device="cuda"), dim=-1)
    index.add(rows.cpu().numpy())
    for batch, name in names.items():
        queries = torch.randn(batch, WIDTH)
        found = index.search(queries.numpy(), NEAREST)[1]
        best = (queries.cuda() @ rows.T).topk(NEAREST).indices.cpu()
        same = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), best.tolist())) / best.numel()
        if same < 0.999:  # products of float32 in another order change few
            left_out(name, f"only {same:.4f} of what it finds are the nearest")
            continue
        results.measure({name: waited(lambda: index.search(queries.numpy(), NEAREST))}, least_time=0.2)


def main():
    works = {work.__name__: work for work in (hybrid_loss, resize_augment, search)}
    parser = peer.parser(__doc__.splitlines()[0])
    parser.add_argument("work", choices=list(works))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_device_peers.py: no CUDA device")
    results = peer.Results(arguments, torch=torch.__version__, cuda=torch.version.cuda)
    works[arguments.work](results)


if __name__ == "__main__":
    main()
