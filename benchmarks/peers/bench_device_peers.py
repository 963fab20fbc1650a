#!/usr/bin/env python3
"""Work of bench_device and bench_device_translator by other libraries, on the first CUDA device, under the names that
benchmarks/support/table.py pairs.

    python3 benchmarks/peers/bench_device_peers.py hybrid_loss      # PyTorch eager, torch.compile, Inf-CL's kernel
    python3 benchmarks/peers/bench_device_peers.py encoder_maps     # 13 maps in PyTorch's operators, float32
    python3 benchmarks/peers/bench_device_peers.py resize_augment   # torchvision's transforms v2
    python3 benchmarks/peers/bench_device_peers.py search           # FAISS with its part for devices
    python3 benchmarks/peers/bench_device_peers.py unet             # guided-diffusion's U-256 and U-64, PyTorch eager
    python3 benchmarks/peers/bench_device_peers.py unet --compiled  # U-256 by torch.compile, default and max-autotune
    python3 benchmarks/peers/bench_device_peers.py training         # U-256, autocast; with --compiled by torch.compile
    python3 benchmarks/peers/bench_device_peers.py targets          # one target of 13: inverted for it alone, DDIM
    python3 benchmarks/peers/bench_device_peers.py maps             # ten steps up and down of the published loop

benchmarks/gpu.sh runs them behind our programs. What is not installed, does not run on this device, or is not compiled within
--compile-seconds (of both modes together; max-autotune has what the other left) is said and left out; a second try finds what the
first one compiled. Losses have to agree with the eager one
within 2e-2 of it and, where --files has what bench_device_translator wrote, the output of U-256 in bfloat16 with ours in
float32 within 5e-2. torchvision draws one change for a batch, ours are one an image. Not yet run on a device; --device cpu --small tries
unet, training, targets and maps out with a tiny network and few steps.

Networks are in bfloat16 and channels last. Group norms go through float32, as upstream's do, or are left to PyTorch's operator:
the faster counts. Of the published loop (JuliaWolleb/diffusion-anomaly) a step up is one call of the denoiser, a step down one
more and a gradient of the classifier, here in bfloat16, too; what upstream computes besides and needs for nothing is left out.
"""

import contextlib
import copy
import os
import signal
import sys
import time

import peer

import torch

from guided_diffusion_unet import Classifier, UNet, in_bfloat16

F = torch.nn.functional

LOGIT_SCALE, WIDTH, ITEMS, NEAREST = 4.602, 512, 1_000_000, 10
LOSS_BATCH, IMAGES, MAPPED, TARGETS = 32768, 256, 64, 13
QUEUED = 20  # calls of short works that wait for the device once, as in bench_device
NETWORKS = {64: dict(size=64, base=64, multipliers=(1, 2, 2, 4)),
            256: dict(size=256, base=128, multipliers=(1, 1, 2, 2, 4, 4))}
TINY = dict(size=32, base=32, multipliers=(1, 2))
TOP = 500  # the level up to which images are encoded
TOLERANCE = 5e-2  # of bfloat16 through all layers; another network is off by about 1


def finish():
    """Waits until the device is done with what was queued."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def waited(action, calls=1):
    """So many calls of the action, over when the device is done with them."""

    def work():
        for _ in range(calls):
            result = action()
        finish()
        return result

    return work


def attempted(results, name, action, **how):
    """Measures the action, or says why it cannot be."""
    try:
        results.measure({name: action}, **how)
    except Exception as error:  # noqa: BLE001: a peer may fail as it likes
        results.left_out(name, error)


class NotInTime(BaseException):
    """Nothing that a library would take for an error of its own."""


@contextlib.contextmanager
def at_most(seconds):
    """Ends what takes longer with NotInTime."""

    def late(*_):
        raise NotInTime(f"not compiled in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


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
    # What may take its time comes last.
    for way, make in (("pytorch", lambda: eager), ("inf_cl", lambda: inf_cl), ("compile", lambda: torch.compile(eager))):
        name = f"hybrid_loss/{way}/bfloat16/{LOSS_BATCH}"
        try:
            step = step_of(make())
            forget()
            with at_most(results.arguments.compile_seconds):
                value = float(step())
        except (Exception, NotInTime) as error:  # noqa: BLE001: a peer may fail as it likes
            results.left_out(name, error)
            continue
        expected = value if expected is None else expected
        if not abs(value - expected) <= 2e-2 * abs(expected):
            results.left_out(name, f"its loss is {value:.4g}, the eager one {expected:.4g}")
            continue
        results.measure({name: step}, before=forget)


def encoder_maps(results):
    """Difference, smoothing, the scale of each map and another size, all of it in float32."""
    x = torch.randn(MAPPED, 1, 256, 256, device="cuda")
    images = torch.randn(MAPPED, TARGETS, 1, 256, 256, device="cuda")

    def gaussian(sigma):
        offset = torch.arange(-3.0 * sigma, 3 * sigma + 1, device="cuda")
        kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
        return (kernel / kernel.sum()).view(1, 1, -1, 1)

    def made(kernel, quantile, type_):
        reach = kernel.shape[2] // 2
        maps = (images - x.unsqueeze(1)).abs().sum(2).flatten(0, 1).unsqueeze(1)
        maps = F.conv2d(F.pad(maps, (0, 0, reach, reach), "reflect"), kernel)
        maps = F.conv2d(F.pad(maps, (reach, reach, 0, 0), "reflect"), kernel.transpose(2, 3))
        low, top = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        if quantile < 1:
            below = int(quantile * (maps[0].numel() - 1))  # which rank is nearest to it is no matter
            top = maps.flatten(1).kthvalue(below + 1).values.view_as(top)
        maps = F.interpolate((maps - low) / (top - low), (224, 224), mode="bilinear", antialias=True)
        return maps.clamp_max(1).view(MAPPED, TARGETS, 224, 224).to(type_)

    with torch.inference_mode():
        for kind, sigma, quantile in (("min_max", 1, 1), ("quantile", 1, 0.99), ("wide_blur", 8, 1)):
            kernel = gaussian(sigma)
            calls = QUEUED if sigma == 1 else 2  # which take long
            for type_, name in ((torch.float32, "float32"), (torch.float16, "float16")):
                if kind == "wide_blur" and type_ == torch.float16:  # which ours does not measure
                    continue
                attempted(results, f"encoder_maps/pytorch/{name}/{kind}/{MAPPED}",
                          waited(lambda: made(kernel, quantile, type_), calls), parts=calls)


def resize_augment(results):
    name = f"resize_augment/torchvision/float32/{IMAGES}"
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        results.left_out(name, error)
        return
    images = torch.rand(IMAGES, 1, 1024, 1024, device="cuda")
    bilinear = v2.InterpolationMode.BILINEAR
    change = v2.Compose([v2.Resize((256, 256), interpolation=bilinear, antialias=True),
                         v2.RandomAffine(10, translate=(0.05, 0.05), scale=(0.9, 1.1), interpolation=bilinear),
                         v2.ColorJitter(brightness=0.1, contrast=0.1)])
    results.measure({name: waited(lambda: change(images), QUEUED)}, parts=QUEUED)


def search(results):
    names = {batch: f"search/faiss/float32/{batch}" for batch in (64, 1000)}
    try:
        import faiss

        resources = faiss.StandardGpuResources()
        index = faiss.GpuIndexFlatIP(resources, WIDTH)
    except (ImportError, AttributeError) as error:
        results.left_out(" and ".join(names.values()), error)
        return
    rows = F.normalize(torch.randn(ITEMS, WIDTH, device="cuda"), dim=-1)
    index.add(rows.cpu().numpy())
    for batch, name in names.items():
        queries = torch.randn(batch, WIDTH)
        found = index.search(queries.numpy(), NEAREST)[1]
        best = (queries.cuda() @ rows.T).topk(NEAREST).indices.cpu()
        same = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), best.tolist())) / best.numel()
        if same < 0.999:  # products of float32 in another order change few
            results.left_out(name, f"only {same:.4f} of what it finds are the nearest")
            continue
        results.measure({name: waited(lambda: index.search(queries.numpy(), NEAREST))}, least_time=0.1)


def network_of(side, results):
    """The fixed network of so many pixels on the device, channels last, and what --small makes of it."""
    torch.manual_seed(0)
    network = UNet(**(TINY if results.arguments.small else NETWORKS[side])).requires_grad_(False).eval()
    return network.to(results.arguments.device, memory_format=torch.channels_last)


def images_of(side, batch, results):
    """Images that go into the network of so many pixels, and a class of each."""
    side = TINY["size"] if results.arguments.small else side
    x = torch.rand(batch, 1, side, side, device=results.arguments.device) * 2 - 1
    return x.contiguous(memory_format=torch.channels_last), torch.arange(batch, device=x.device) % 15


def levels_of(x, level):
    """The timestep of a level, for each image."""
    return torch.full((len(x),), level - 1, device=x.device)


def given_weights(network, results):
    """Gives U-256 our weights, where there are some; what they go with, or None."""
    if results.arguments.files is None:
        return None
    try:
        network.load_state_dict(peer.load(results.arguments.files, "device_unet.weights"))
        device = results.arguments.device
        return {name: tensor.to(device) for name, tensor in peer.load(results.arguments.files, "device_unet.io").items()}
    except (ImportError, OSError) as error:
        results.left_out("comparing outputs", error)
        return None


def agrees(name, network, given, results):
    """Whether its noise is ours, as far as that is known."""
    if given is None:
        return True
    with torch.inference_mode():
        error = peer.difference(network(given["x"], given["timesteps"], given["classes"])[:, :1], given["output"])
    print(f"{name}: differs from our output in float32 by {error:.2g}", flush=True)
    if not error <= TOLERANCE:
        results.left_out(name, f"that is more than {TOLERANCE:g}")
    return error <= TOLERANCE


def unet(results):
    small, compiled = results.arguments.small, results.arguments.compiled
    batch, calls = (2, 1) if small else (26, 5)
    wide = network_of(256, results)
    given = given_weights(wide, results)
    x, classes = images_of(256, batch, results)
    if compiled:
        network = in_bfloat16(wide, native_norms=True)
        ends = time.monotonic() + results.arguments.compile_seconds
        for way, mode in (("compile", None), ("compile_max_autotune", "max-autotune")):
            name = f"unet_256/{way}/bfloat16/{batch}"
            with torch.inference_mode():
                try:
                    with at_most(max(1, int(ends - time.monotonic()))):
                        fast = torch.compile(network, mode=mode, dynamic=False)
                        for _ in range(3):
                            output = fast(x, levels_of(x, TOP), classes).clone()  # the next call may write there
                        finish()
                    error = peer.difference(output, network(x, levels_of(x, TOP), classes))
                    if not error <= TOLERANCE:
                        results.left_out(name, f"it differs from the eager network by {error:.2g}")
                    elif agrees(name, network, given, results):
                        results.measure({name: waited(lambda: fast(x, levels_of(x, TOP), classes), calls)}, parts=calls)
                except (Exception, NotInTime) as failure:  # noqa: BLE001: a peer may fail as it likes
                    results.left_out(name, failure)
            torch.compiler.reset()
        return
    for way, native in (("pytorch", False), ("pytorch_native_norms", True)):
        name = f"unet_256/{way}/bfloat16/{batch}"
        network = in_bfloat16(copy.deepcopy(wide), native)
        if agrees(name, network, given, results):
            with torch.inference_mode():
                attempted(results, name, waited(lambda: network(x, levels_of(x, TOP), classes), calls), parts=calls)
    del wide, network
    network, (x, classes) = network_of(64, results), images_of(64, 1, results)
    calls = 1 if small else 10
    makers = {"float32/pytorch": lambda: network,
              "float32/pytorch_nchw": lambda: copy.deepcopy(network).to(memory_format=torch.contiguous_format),
              "bfloat16/pytorch": lambda: in_bfloat16(copy.deepcopy(network)),
              "bfloat16/pytorch_native_norms": lambda: in_bfloat16(copy.deepcopy(network), True)}
    for kind, make in makers.items():
        made, (type_, way) = make(), kind.split("/")
        with torch.inference_mode():
            attempted(results, f"unet_64/{way}/{type_}/1", waited(lambda: made(x, levels_of(x, TOP), classes), calls),
                      parts=calls)


def training(results):
    small, device = results.arguments.small, torch.device(results.arguments.device)
    batch, steps = (2, 2) if small else (16, 5)
    network = network_of(256, results).train()
    parameters = list(network.requires_grad_(True).parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    x, classes = images_of(256, batch, results)
    target = torch.randn(batch, 2, *x.shape[2:], device=device).contiguous(memory_format=torch.channels_last)

    def step_of(forward):
        def step():
            with torch.autocast(device.type, torch.bfloat16):
                output = forward(x, levels_of(x, TOP), classes)
            loss = F.mse_loss(output.float(), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1e-4)
            return loss.detach()

        return step

    if not results.arguments.compiled:
        attempted(results, f"training_256/pytorch/bfloat16/{batch}", waited(step_of(network), steps), parts=steps)
        return
    name = f"training_256/compile/bfloat16/{batch}"
    try:
        step = step_of(torch.compile(network, dynamic=False))
        with at_most(results.arguments.compile_seconds):
            losses = [float(step()) for _ in range(3)]
        expected = float(step_of(network)())
    except (Exception, NotInTime) as error:  # noqa: BLE001: a peer may fail as it likes
        results.left_out(name, error)
        return
    if not abs(losses[-1] - expected) <= 0.1 * abs(expected):  # a step apart
        results.left_out(name, f"its loss is {losses[-1]:.4g}, a step later the eager one's {expected:.4g}")
        return
    results.measure({name: waited(step, steps)}, parts=steps)


def kept_signal(level):
    """abar of a level of the linear schedule; 1 for level 0."""
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    return float(torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])[level])


def moved(x, noise, from_, to):
    """A step of DDIM between two levels, of which abar is known."""
    clean = (x - (1 - from_) ** 0.5 * noise) / from_ ** 0.5
    return to ** 0.5 * clean + (1 - to) ** 0.5 * noise


def targets(results):
    """Up in 50 steps without a target, down in 50 to one of them, contrast guidance, as bench_device_translator has it."""
    network = in_bfloat16(network_of(256, results), native_norms=True)
    (x, _), steps = images_of(256, 1, results), 2 if results.arguments.small else 50
    levels = [TOP * i // steps for i in range(steps + 1)]
    signal_at = {level: kept_signal(level) for level in levels}
    null, both = (torch.tensor(classes, device=x.device) for classes in ([14], [0, 1]))

    def noise(state, level, classes):
        return network(state, levels_of(state, max(level, 1)), classes)[:, :1]

    def translated(evaluations):
        state = x
        for below, above in zip(levels, levels[1:]):
            start, at = state, below
            for _ in range(evaluations):  # the first where the step begins, others where it ends
                state = moved(start, noise(state, at, null), signal_at[below], signal_at[above])
                at = above
        for above, below in zip(levels[:0:-1], levels[-2::-1]):
            there, opposite = noise(torch.cat([state, state]), above, both).chunk(2)
            state = moved(state, there + 2 * (there - opposite), signal_at[above], signal_at[below])
        return state

    with torch.inference_mode():
        for evaluations in (1, 2):
            attempted(results, f"targets_256/pytorch_one_target/bfloat16/evaluations:{evaluations}",
                      waited(lambda: translated(evaluations)))


def maps(results):
    small = results.arguments.small
    batch, steps = (2, 2) if small else (4, 10)
    network = in_bfloat16(network_of(256, results), native_norms=True)
    sizes = dict(size=32, base=64, multipliers=(1, 2), blocks=1) if small else dict(size=256)
    guide = in_bfloat16(Classifier(**sizes).requires_grad_(False).eval(), native_norms=True)
    guide.to(results.arguments.device, memory_format=torch.channels_last)
    x, _ = images_of(256, batch, results)
    target = torch.zeros(batch, dtype=torch.long, device=x.device)
    signal_at = {level: kept_signal(level) for level in range(TOP - steps - 1, TOP + 1)}

    def noise(state, level):
        with torch.no_grad():
            return network(state, levels_of(state, level), target)[:, :1]

    def pull(state, level):
        seen = state.detach().requires_grad_(True)
        likelihood = F.logsigmoid(guide(seen, levels_of(seen, level)))[:, 0].sum()
        return torch.autograd.grad(likelihood, seen)[0]

    def bounded(state, eps, level):
        """The noise that goes with a clean image in [-1, 1], as upstream's clip_denoised makes it."""
        kept = signal_at[level]
        clean = ((state - (1 - kept) ** 0.5 * eps) / kept ** 0.5).clamp(-1, 1)
        return (state - kept ** 0.5 * clean) / (1 - kept) ** 0.5

    def walked():
        state = x
        for level in range(TOP - steps, TOP):
            state = moved(state, bounded(state, noise(state, level), level), signal_at[level], signal_at[level + 1])
        for level in range(TOP, TOP - steps, -1):
            eps = noise(state, level) - 100 * (1 - signal_at[level]) ** 0.5 * pull(state, level)
            state = moved(state, bounded(state, eps, level), signal_at[level], signal_at[level - 1])
        return state

    attempted(results, f"maps_256/published_10_steps/bfloat16/{batch}", waited(walked))


def main():
    on_cpu = {work.__name__: work for work in (unet, training, targets, maps)}
    works = {**{work.__name__: work for work in (hybrid_loss, encoder_maps, resize_augment, search)}, **on_cpu}
    parser = peer.parser(__doc__.splitlines()[0])
    parser.add_argument("work", choices=list(works))
    parser.add_argument("--compiled", action="store_true", help="torch.compile alone, of unet and training")
    parser.add_argument("--compile-seconds", type=int, default=100)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes with which networks can be tried out on a CPU")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and arguments.work not in on_cpu:
        parser.error(f"{arguments.work} needs a CUDA device")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench_device_peers.py: no CUDA device")
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32 in our programs, too
    results = peer.Results(arguments, torch=torch.__version__, cuda=str(torch.version.cuda))
    if arguments.small:
        results.context["sizes"] = "small, to try programs out"
    works[arguments.work](results)
    sys.stdout.flush()
    os._exit(0)  # a compiler that was stopped would be waited for


if __name__ == "__main__":
    main()
