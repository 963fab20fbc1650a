#!/usr/bin/env python3
"""The fixed networks of bench_translator in PyTorch: guided-diffusion's UNet, same weights, eager and compiled.

    python3 -m venv venv && venv/bin/pip install torch safetensors
    DAUG_PEER_FILES=/tmp/peers build/benchmarks/bench_translator --benchmark_filter='forward/unet_(64|128)/'
    venv/bin/python benchmarks/peers/bench_translator_peers.py --files /tmp/peers

Compare with forward/unet_SIDE/BATCH, run just before or after. Outputs are compared with ours before anything is timed.
torch.compile needs a C++ compiler; where it fails that is said, and the eager forms stand alone.
"""

import copy

import peer

torch = peer.torch_with_threads()

from guided_diffusion_unet import UNet  # noqa: E402  (after the threads are set)

NETWORKS = {
    64: dict(base=64, multipliers=(1, 2, 2, 4)),
    128: dict(base=64, multipliers=(1, 1, 2, 3, 4)),
    256: dict(base=128, multipliers=(1, 1, 2, 2, 4, 4)),
}
TOLERANCE = 1e-4  # other kernels, other order of sums


def compiled(network, inputs, results):
    torch._dynamo.reset()
    try:
        made = torch.compile(network, dynamic=False)
        made(*inputs)
        return made
    except Exception as error:  # whatever the compiler throws
        reason = str(error).strip().splitlines()
        results.context["torch.compile"] = f"failed: {reason[0] if reason else type(error).__name__}"
        return None


def main():
    parser = peer.parser(__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128], choices=list(NETWORKS))
    arguments = parser.parse_args()
    results = peer.Results(arguments, torch=torch.__version__, threads=torch.get_num_threads())
    for side in arguments.sides:
        given = peer.load(arguments.files, f"unet_{side}.io")
        nchw = UNet(side, **NETWORKS[side])
        nchw.load_state_dict(peer.load(arguments.files, f"unet_{side}.weights"))
        nchw.eval()
        channels_last = copy.deepcopy(nchw).to(memory_format=torch.channels_last)
        for batch in (1, 8):
            if batch > len(given["x"]):
                continue
            x, rest = given["x"][:batch], (given["timesteps"][:batch], given["classes"][:batch])
            last = x.contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                calls = {"pytorch_nchw": lambda: nchw(x, *rest), "pytorch_channels_last": lambda: channels_last(last, *rest)}
                fast = compiled(nchw, (x, *rest), results)
                if fast is not None:  # asked for its truth a compiled network asks for its length
                    calls["pytorch_compile"] = lambda: fast(x, *rest)
                calls = {f"forward/unet_{side}/{batch}/{name}": call for name, call in calls.items()}
                for name, call in calls.items():
                    peer.require_close(name, call(), given["output"][:batch], TOLERANCE)
                results.measure(calls)


if __name__ == "__main__":
    main()
