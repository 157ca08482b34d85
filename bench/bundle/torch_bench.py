"""torch.nn.functional.scaled_dot_product_attention on the bench's shapes and numbers, for bench/bundle/torch.ts.

Speaks lines of JSON: a question on standard input, its answer on standard output. Questions:
  {"op": "prepare", "shape": {...}, "dtype": "f32" | "f16", "inputs": {"query": path, ...}, "output": path, "rows": [...],
   "warmups": n}
  {"op": "measure", "dtype": "f32" | "f16", "repeats": n, "minSampleMs": x}
  {"op": "release"}  (all that was prepared; one case per dtype is held)
An answer has "ok": true, or false with a "reason". The first line, unasked, says which torch this is.

Layouts: inputs are float32 [B, T, H, D] in the files; torch gets contiguous [B, H, T, D], the layout that suits it best.
Masks are made and heads repeated outside the timing.
"""
import contextlib
import ctypes
import json
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except Exception as error:  # A torch that cannot be imported (a missing library, say) is as good as none.
    print(json.dumps({"ok": False, "reason": f"import torch: {type(error).__name__}: {error}"}), flush=True)
    sys.exit(0)

IS_CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if IS_CUDA else "cpu")
DTYPES = {"f32": torch.float32, "f16": torch.float16}


def keeps_only_tf32():
    """Whether a product loses a bit that float32 holds and TensorFloat-32 does not."""
    value = 1 + 2**-12
    product = torch.full((256, 256), value, device=DEVICE) @ torch.eye(256, device=DEVICE)
    return product[3, 5].item() != value


def hello():
    if not hasattr(F, "scaled_dot_product_attention"):
        return {"ok": False, "reason": f"torch {torch.__version__} has no scaled_dot_product_attention (2.0 brought it)"}
    # f32 means f32: TensorFloat-32 keeps 10 bits of the mantissa. Newer versions name the switches otherwise and may
    # refuse the old names, so what counts is what a product shows afterwards.
    for turn_off in (
        lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", False),
        lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
        lambda: torch.set_float32_matmul_precision("highest"),
    ):
        with contextlib.suppress(Exception):
            turn_off()
    return {
        "ok": True,
        "tf32": keeps_only_tf32(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if IS_CUDA else None,
        "device": torch.cuda.get_device_name(0) if IS_CUDA else f"CPU, {torch.get_num_threads()} threads",
    }


def synchronize():
    if IS_CUDA:
        torch.cuda.synchronize()


def time_runs(run, count):
    """Milliseconds of one of `count` runs, one after another on the device's own clock."""
    if not IS_CUDA:
        start = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - start) * 1e3 / count
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / count


def visible(shape):
    """The mask [T, S] of true where a query sees a key; None where the whole is seen or is_causal says it all."""
    t, s, start = shape["seqLen"], shape["kvSeqLen"], shape.get("queryStart", 0)
    window, block = shape.get("window") or 0, shape.get("causalBlockSize") or 1
    is_causal = shape["isCausal"]
    if not window and block == 1:
        if not is_causal or start >= s - 1:
            return None, False
        if start == 0 and t == s:
            return None, True
    query = (torch.arange(t, device=DEVICE) + start)[:, None]
    key = torch.arange(s, device=DEVICE)[None, :]
    mask = torch.ones((t, s), dtype=torch.bool, device=DEVICE)
    if is_causal:
        mask &= key < (query // block + 1) * block
    if window:
        mask &= query - key < window
        if not is_causal:
            mask &= key - query < window
    return mask, False


def backends():
    """Names and context managers of every way that torch may take; "own choice" is what a caller gets who names none."""
    found = {"own choice": contextlib.nullcontext}
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:  # Before 2.3 only the own choice is tried.
        return found
    for name, member in (
        ("flash", "FLASH_ATTENTION"),
        ("cudnn", "CUDNN_ATTENTION"),
        ("memory-efficient", "EFFICIENT_ATTENTION"),
        ("math", "MATH"),
    ):
        backend = getattr(SDPBackend, member, None)
        if backend is not None:
            found[name] = lambda backend=backend: sdpa_kernel([backend])
    return found


def own_choice(q, k, v, mask, is_causal, scale):
    """The backend that torch takes when asked for none, by its own word."""
    names = {0: "math", 1: "flash", 2: "memory-efficient", 3: "cudnn"}
    try:
        choice = torch._fused_sdp_choice(q, k, v, attn_mask=mask, dropout_p=0.0, is_causal=is_causal, scale=scale)
        return names.get(int(choice), str(int(choice)))
    except Exception:
        return None


class Unsupported(Exception):
    """What torch's attention cannot be asked for; the message is the whole reason."""


class Prepared:
    """One case on the device, with the fastest backend that runs it."""

    def __init__(self, question):
        shape, dtype = question["shape"], DTYPES[question["dtype"]]
        b, h, kv = shape["batch"], shape["heads"], shape["kvHeads"]
        d = shape["headDim"]
        e = shape.get("valueDim") or d
        if shape.get("softcap"):
            raise Unsupported("scaled_dot_product_attention has no softcap")

        def load(name, tokens, heads, dim):
            data = torch.frombuffer(bytearray(open(question["inputs"][name], "rb").read()), dtype=torch.float32)
            tensor = data.view(b, tokens, heads, dim).to(DEVICE).to(dtype).transpose(1, 2)
            return tensor.repeat_interleave(h // heads, dim=1).contiguous()

        self.q = load("query", shape["seqLen"], h, d)
        self.k = load("key", shape["kvSeqLen"], kv, d)
        self.v = load("value", shape["kvSeqLen"], kv, e)
        self.mask, self.is_causal = visible(shape)
        self.scale = shape.get("scale")
        self.choice = own_choice(self.q, self.k, self.v, self.mask, self.is_causal, self.scale)
        self.times, self.refusals = {}, {}
        self.context = None
        best = None
        for name, context in backends().items():
            try:
                with context():
                    for _ in range(max(2, question["warmups"])):
                        output = self.call()
                    synchronize()
                    once = time_runs(self.call, 1)
                    self.times[name] = min(time_runs(self.call, max(1, min(20, int(20 / max(once, 1e-3))))) for _ in range(3))
            except Exception as error:
                self.refusals[name] = str(error).split("\n")[0]
                continue
            # The own choice stays unless another is clearly faster.
            if best is None or self.times[name] < 0.98 * self.times[best]:
                best = name
        if best is None:
            raise RuntimeError("no backend runs it: " + "; ".join(f"{n}: {r}" for n, r in self.refusals.items()))
        self.best, self.context = best, backends()[best]
        with self.context():
            output = self.call()
        synchronize()
        rows = torch.tensor(question["rows"], device=DEVICE)
        picked = output.transpose(1, 2).index_select(1, rows).float().contiguous().cpu()
        with open(question["output"], "wb") as file:
            # Not through numpy, which torch can do without.
            file.write(ctypes.string_at(picked.data_ptr(), picked.numel() * 4))

    def call(self):
        options = {} if self.scale is None else {"scale": self.scale}
        return F.scaled_dot_product_attention(
            self.q, self.k, self.v, attn_mask=self.mask, is_causal=self.is_causal, **options
        )

    def measure(self, repeats, min_sample_ms):
        with self.context():
            self.call()
            synchronize()
            once = time_runs(self.call, 1)
            count = max(1, min(1000, int(-(-min_sample_ms // max(once, 1e-2)))))
            return [time_runs(self.call, count) for _ in range(repeats)]


def main():
    first = hello()
    print(json.dumps(first), flush=True)
    if not first["ok"]:
        return
    prepared = {}
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = {}
            if question["op"] == "release":
                prepared.clear()
                if IS_CUDA:
                    torch.cuda.empty_cache()
            if question["op"] == "prepare":
                with torch.inference_mode():
                    case = Prepared(question)
                prepared[question["dtype"]] = case
                backend = case.best
                if backend == "own choice" and case.choice:
                    backend = case.choice
                answer = {
                    "backend": backend,
                    "ownChoice": case.choice,
                    "trialMs": case.times,
                    "refusals": case.refusals,
                }
            if question["op"] == "measure":
                with torch.inference_mode():
                    answer = {"samples": prepared[question["dtype"]].measure(question["repeats"], question["minSampleMs"])}
            print(json.dumps({"ok": True, **answer}), flush=True)
        except Exception as error:
            reason = str(error) if isinstance(error, Unsupported) else f"{type(error).__name__}: {error}"
            print(json.dumps({"ok": False, "reason": reason.split("\n")[0]}), flush=True)


main()
