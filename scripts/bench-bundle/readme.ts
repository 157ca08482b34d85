/** The README.md inside a bundle: what it is, what the box must have, how to run it, and what was never run. */

/** What the text states. */
export interface BundleFacts {
  ringwise: string;
  commit: string;
  node: string;
  webgpu: string;
  glibc: string;
  glibcxx: string;
  date: string;
  hasLoader: boolean;
  nodeByteLength: number;
}

/** The README of a bundle. */
export function bundleReadme(facts: BundleFacts): string {
  const { ringwise, commit, node, webgpu, glibc, glibcxx, date, hasLoader, nodeByteLength } = facts;
  const loader = hasLoader
    ? "A Vulkan loader (`libvulkan.so.1`) lies in `lib/` and is used only where the box has none."
    : "The box needs a Vulkan loader (`libvulkan.so.1`; Debian, Ubuntu: `libvulkan1`; Fedora, RHEL: `vulkan-loader`).";
  return `# Ringwise bench bundle

Ringwise ${ringwise} (${commit}), Node ${node}, \`webgpu\` ${webgpu} (Dawn), made ${date}. It runs offline on an x86-64 Linux box with a
Vulkan driver, fetches nothing, and writes to its own folder, to \`--out\` and to the temporary folder only.

    ./start                       # everything: correctness, tuning, then the table; made for a GPU, about 8 minutes at most
    ./start --quick               # a few cases of each, no tuning; on a CPU driver minutes, because it compiles slowly
    ./start --only-correctness
    ./start --adapter NAME        # lavapipe, swiftshader, default, or a part of an adapter's name
    ./start --out FOLDER          # default: ./out beside this file
    ./start --help                # the rest

What comes out: \`results.md\` (to read), \`results.json\` (the bench's own document: \`ringwise bench --compare\` reads it),
\`correctness.json\` and, where the run tuned, \`tuned.json\`. They are written as the run goes, so one that is cut off loses little.
Exit codes: 0 all right; 1 something is wrong or failed; 2 wrong usage; 3 the box lacks something, said in a sentence.

## What the box must have

- glibc ${glibc} or newer, and a libstdc++ with GLIBCXX_${glibcxx} (GCC 12): Debian 12, Ubuntu 22.04, Fedora 36 and newer. Not Alpine (musl).
  Read from the binaries inside; \`./start\` checks both first.
- \`sh\`, \`gzip\`, \`sed\`, \`grep\`, and ${Math.ceil(nodeByteLength / 2 ** 20)} MiB of room: Node lies compressed in \`node/node.gz\` and is unpacked
  once, beside itself or, where this folder is read-only, into \`$TMPDIR\`.
- A Vulkan 1.1 driver with its description in \`/usr/share/vulkan/icd.d\` or \`/etc/vulkan/icd.d\`, or named by \`VK_DRIVER_FILES\`. NVIDIA's comes
  with its graphics driver; in containers it wants \`NVIDIA_DRIVER_CAPABILITIES=all\`, and its libraries want \`libX11\` and \`libXext\` to be there.
- ${loader}
- Optional: \`python3\` with \`torch\` 2.0 or newer (CUDA or CPU). Then \`torch.nn.functional.scaled_dot_product_attention\` is timed on the same
  shapes and numbers in the same run. Without it the run says that it was left out. \`--python PATH\` names another interpreter.

## What is measured, and how

1. **Correctness**: the conformance cases of the project's tests against a float64 oracle, f32 and (where the adapter has \`shader-f16\`) f16, with
   the kernel chosen by default, then every other kernel that the adapter can run. Allowed: twice the error of a plain computation
   of the same precision.
2. **The table**: the named cases of \`ringwise bench\`. Whole submissions on the host's clock, after warm-up, short runs repeated within a sample; each
   case in turn with a probe of the adapter's multiply-add peak; 24 query rows of every output against the oracle.
3. **torch**: in blocks between Ringwise's. CUDA events after warm-up, samples as long as ours; f32 with TensorFloat-32 off (\`allow_tf32\`
   false, matmul precision "highest"), f16 as it is; contiguous \`[B, H, T, D]\`, heads of K and V repeated beforehand. Every backend that runs
   the case (flash, cuDNN, memory-efficient, math) has a trial, the fastest is measured and named, and torch's own choice is named beside it.
   Windows become a boolean mask; softcap cannot be said, so torch is left out there. On the CPU, torch is timed by the clock.
   A product is checked for TensorFloat-32 before, and how far each of torch's results is from the oracle stands beside it.

A full run begins nothing new after \`--minutes\` (8), of which correctness has 40% and tuning 25%; what was not begun is listed. CPU adapters are not
tuned, and need \`--quick\` or many minutes.

## What was never run

This bundle was tried on the CPU drivers lavapipe (Mesa 25) and SwiftShader, and with torch on the CPU only. No GPU was at hand when it was written: not
the Vulkan drivers of NVIDIA, AMD and Intel, not torch's CUDA path (events, backends, TensorFloat-32 switches).
Kernels that need hardware nobody here had are not in it.

## Licences

Ringwise: Apache-2.0 (\`LICENSE\`; the Vulkan loader is Khronos', under the same). Node: \`LICENSES/node.txt\`. \`webgpu\`:
\`app/node_modules/webgpu/LICENSE.md\`.
`;
}
