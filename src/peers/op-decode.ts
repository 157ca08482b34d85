/**
 * A decode operation: the leader's query goes down a tree of the ranks, each answers over what it holds, and the answers are
 * merged on their way up. One parcel down and one up per link and layer, whatever the context's length.
 */
import { LinkError, PeerError } from "../errors.ts";
import type { Link, ParcelKey } from "../link/types.ts";
import type { DecodeExchange } from "../model/rank-types.ts";
import { mergePartials } from "../ring/merge-partials.ts";
import type { PartialAttention } from "../ring/rank-types.ts";
import type { PeerMessage } from "./messages.ts";
import type { OpPlace } from "./op-forward.ts";
import { isOnPath, treePlace } from "./tree.ts";

type Floats = Float32Array<ArrayBuffer>;

/** The leader's rank: the root of the tree. */
const ROOT = 0;

const bytesOf = (floats: Floats): Uint8Array<ArrayBuffer> =>
  new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);

/** What does not fit the plan ends the link that it came over: the ring goes on without its sender. */
function refuse(link: Link, expected: string, got: string): never {
  const message = `decode: expected ${expected} from ${link.peerId}, got ${got}`;
  link.close(`broke the protocol: ${message}`);
  throw new LinkError(message, "violation");
}

function floatsOf(link: Link, bytes: Uint8Array<ArrayBuffer>, count: number, what: string): Floats {
  if (bytes.byteLength !== count * 4) refuse(link, `${what} of ${count * 4} bytes`, `${bytes.byteLength} bytes`);
  // A copy, so that it begins where a Float32Array may.
  return new Float32Array(bytes.slice().buffer);
}

/** One NaN would make every number of the merge NaN, and the token picked from them nonsense without a word. */
function expectNumbers(link: Link, { output, lse }: PartialAttention): void {
  const badLse = lse.find((value) => !(value < Number.POSITIVE_INFINITY));
  if (badLse !== undefined) refuse(link, "an lse that is finite or -Infinity", String(badLse));
  const bad = output.find((value) => !Number.isFinite(value));
  if (bad !== undefined) refuse(link, "an answer of finite numbers", String(bad));
}

/** One token's way along the tree, as one rank goes it. */
class TreeOp {
  readonly parent: number | undefined;
  private readonly children: readonly number[];
  private readonly worldSize: number;

  constructor(
    private readonly place: OpPlace,
    private readonly message: PeerMessage<"decode">,
  ) {
    const { epoch } = place;
    this.worldSize = epoch.ranks.length;
    const { parent, children } = treePlace(epoch.rank, ROOT, this.worldSize);
    this.parent = parent;
    this.children = children;
  }

  private key(kind: "ask" | "answer", layer: number, rank: number): ParcelKey {
    return { epoch: this.place.epoch.number, op: this.message.op, layer, kind, rank };
  }

  private get rowLength(): number {
    return this.place.rank.kvHeads * this.place.rank.headDim;
  }

  private get queryLength(): number {
    return this.place.rank.heads * this.place.rank.headDim;
  }

  /** The token's key and value travel only towards the rank that keeps them. */
  private carriesKeyValue(rank: number): boolean {
    return isOnPath(rank, this.message.keeper, ROOT, this.worldSize);
  }

  /** Posts the ask of a layer. */
  async receiveAsk(layer: number): Promise<{ query: Floats; key?: Floats; value?: Floats }> {
    const { epoch, linkTo, signal } = this.place;
    const { queryLength, rowLength } = this;
    const carries = this.carriesKeyValue(epoch.rank);
    const count = queryLength + (carries ? 2 * rowLength : 0);
    const parent = linkTo(this.parent!);
    const parcel = await parent.receive(this.key("ask", layer, epoch.rank), count * 4, signal);
    const floats = floatsOf(parent, parcel.bytes, count, "a query");
    const query = floats.slice(0, queryLength);
    if (!carries) return { query };
    return {
      query,
      key: floats.slice(queryLength, queryLength + rowLength),
      value: floats.slice(queryLength + rowLength),
    };
  }

  /** Sends a query on to the children; resolves with what they answer, merged. */
  async askChildren(layer: number, query: Floats, key?: Floats, value?: Floats): Promise<PartialAttention | undefined> {
    const { rank, linkTo, signal } = this.place;
    const { heads, headDim } = rank;
    const answers = this.children.map(async (child) => {
      const parts = [bytesOf(query)];
      if (this.carriesKeyValue(child)) {
        if (!key || !value) throw new PeerError("decode: expected the token's key and value to pass on, got none");
        parts.push(bytesOf(key), bytesOf(value));
      }
      const byteLength = parts.reduce((sum, part) => sum + part.byteLength, 0);
      const count = this.queryLength + heads;
      const link = linkTo(child);
      const answer = link.receive(this.key("answer", layer, child), count * 4, signal);
      const sent = link.send(this.key("ask", layer, child), parts, byteLength, signal);
      // The answer is what matters: an ask that fails shows in it, or in the epoch's end.
      sent.catch(() => {});
      const floats = floatsOf(link, (await answer).bytes, count, "an answer");
      const partial = { output: floats.slice(0, this.queryLength), lse: floats.slice(this.queryLength) };
      expectNumbers(link, partial);
      return partial;
    });
    const partials = await Promise.all(answers);
    return partials.reduce<PartialAttention | undefined>(
      (merged, one) => (merged ? mergePartials(merged, one, heads, headDim) : one),
      undefined,
    );
  }

  sendAnswer(layer: number, { output, lse }: PartialAttention): void {
    const { epoch, linkTo, signal } = this.place;
    const parts = [bytesOf(output), bytesOf(lse)];
    const byteLength = output.byteLength + lse.byteLength;
    linkTo(this.parent!)
      .send(this.key("answer", layer, epoch.rank), parts, byteLength, signal)
      .catch(() => {});
  }
}

/** How the leader reaches the others in one decode operation. */
export function decodeExchange(place: OpPlace, message: PeerMessage<"decode">): DecodeExchange {
  const tree = new TreeOp(place, message);
  return {
    isAlone: place.epoch.ranks.length === 1,
    ask: (layer, query, key, value) => tree.askChildren(layer, query, key, value),
  };
}

/** A rank that is asked: answers every layer's query, its children's answers merged into its own. @throws as the links do */
export async function answerOp(place: OpPlace, message: PeerMessage<"decode">): Promise<void> {
  const { epoch, rank, signal } = place;
  const tree = new TreeOp(place, message);
  const post = (layer: number) => {
    const ask = tree.receiveAsk(layer);
    ask.catch(() => {});
    return ask;
  };
  let coming = post(0);
  for (let layer = 0; layer < rank.layerCount; layer++) {
    const { query, key, value } = await coming;
    if (layer + 1 < rank.layerCount) coming = post(layer + 1);
    const keyValue = message.keeper === epoch.rank && key && value ? { key, value } : undefined;
    const below = tree.askChildren(layer, query, key, value);
    below.catch(() => {});
    const own = await rank.answer(layer, message.position, query, keyValue, signal);
    const others = await below;
    tree.sendAnswer(layer, others ? mergePartials(own, others, rank.heads, rank.headDim) : own);
  }
}
