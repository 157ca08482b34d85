/** Vanilla attention: the scores of a run of queries are materialised, then their softmax, then the weighted values. */
import { OptionError, UnsupportedDeviceError } from "../errors.ts";
import { allocate, release } from "../gpu/buffers.ts";
import { type CommandTarget, dispatch, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { type BindingKind, getKernel, type Kernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { type AttentionCall, type AttentionPiece, bindOutput, bindPiece } from "./attention-call.ts";
import { attentionBindings, attentionKnobs, attentionLib, type ResolvedAttention } from "./attention-options.ts";
import { packFields } from "./attention-params.ts";
import { ATTENTION_VANILLA } from "./sources.ts";

const WORKGROUP_SIZE = 64;

/** The bindings that each pass uses, by number; 14 holds the scores. */
const PASSES = {
  score_pairs: [0, 1, 2, 7, 8, 9, 10, 11, 12, 14],
  softmax_rows: [0, 5, 13, 14],
  weigh_values: [0, 3, 4, 14],
} as const;

/** The three passes, compiled, and the buffer of scores. */
export class VanillaAttention {
  constructor(
    readonly device: GPUDevice,
    private readonly resolved: ResolvedAttention,
    private readonly kernels: Readonly<Record<keyof typeof PASSES, Kernel>>,
    private readonly scores: GPUBuffer,
  ) {}

  /** Query tokens whose scores fit the buffer. @throws {OptionError} where one token's do not. */
  limitsFor(call: AttentionCall): { seqLen: number } {
    const tokenBytes = this.resolved.heads * call.kvLen * 4;
    const seqLen = Math.floor(this.scores.size / tokenBytes);
    if (seqLen >= 1) return { seqLen };
    throw new OptionError(
      `${call.where}: kind "vanilla" materialises ${tokenBytes} bytes of scores per query token, and holds ${this.scores.size}; use kind "flash", or raise scoreByteLength`,
    );
  }

  /** One run of queries with all of its keys. @throws {OptionError} where the keys exceed one binding. */
  encode(target: CommandTarget, call: AttentionCall, blocks: readonly AttentionPiece[]): void {
    const { device, resolved } = this;
    const piece = blocks[0]!;
    if (blocks.length > 1)
      throw new OptionError(`${call.where}: kind "vanilla" needs key and value in one binding each; use kind "flash"`);
    const { fields, bindings } = bindPiece(device, resolved, call, piece);
    const to = bindOutput(device, call, piece);
    const all = [...bindings, { buffer: this.scores }];
    all[0] = uniforms(device, packFields({ ...fields, ...to.fields }));
    all[4] = to.output;
    all[5] = to.lse;
    const rows = piece.batch * piece.kvHeads * resolved.group * piece.seqLen;
    const invocations: Record<keyof typeof PASSES, number> = {
      score_pairs: rows * piece.kvLen,
      softmax_rows: rows,
      weigh_values: rows * Math.ceil(resolved.valueDim / 4),
    };
    for (const [name, used] of Object.entries(PASSES) as [keyof typeof PASSES, readonly number[]][])
      dispatch(device, target, {
        kernel: this.kernels[name],
        bindings: all.map((entry, binding) => (used.includes(binding) ? entry : null)),
        workgroups: spreadWorkgroups(device, Math.ceil(invocations[name] / WORKGROUP_SIZE)),
      });
  }

  destroy(): void {
    release(this.scores);
  }
}

/** Compiles attention-vanilla.wgsl and takes a buffer of `scoreBytes` for the scores. */
export async function createVanilla(
  device: GPUDevice,
  resolved: ResolvedAttention,
  scoreBytes: number,
): Promise<VanillaAttention> {
  const lib = attentionLib(resolved, "output");
  const source = specialize({ ...ATTENTION_VANILLA, lib }, { ...attentionKnobs(resolved), WORKGROUP_SIZE });
  const kinds: (BindingKind | null)[] = [...attentionBindings(resolved, "output"), "read-write"];
  const compile = async (name: keyof typeof PASSES): Promise<[keyof typeof PASSES, Kernel]> => {
    const used: readonly number[] = PASSES[name];
    const bindings = kinds.map((kind, binding) => (used.includes(binding) ? kind : null));
    const need = bindings.filter((kind) => kind !== null && kind !== "uniform").length;
    const most = device.limits.maxStorageBuffersPerShaderStage;
    if (need > most)
      throw new UnsupportedDeviceError(
        `createAttention: kind "vanilla" binds ${need} storage buffers with these options, and this device allows ${most} (maxStorageBuffersPerShaderStage)`,
      );
    const label = `${ATTENTION_VANILLA.file} ${name} ${resolved.label}`;
    return [name, await getKernel(device, { label, source, bindings, entryPoint: name })];
  };
  const names = Object.keys(PASSES) as (keyof typeof PASSES)[];
  const kernels = Object.fromEntries(await Promise.all(names.map(compile))) as Record<keyof typeof PASSES, Kernel>;
  const scores = await allocate(device, { label: `${resolved.label} scores`, byteLength: scoreBytes });
  return new VanillaAttention(device, resolved, kernels, scores);
}
