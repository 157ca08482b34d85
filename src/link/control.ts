/** Control messages: JSON objects with a type, cut into frames of the ordered channel. */
import { LinkError } from "../errors.ts";
import { FRAME, type Frame, type FrameFields, GRANULE_BYTES } from "./frame.ts";
import type { ControlMessage } from "./types.ts";

/** Longest control message, as JSON in UTF-8. */
export const MAX_CONTROL_BYTES = 1024 * 1024;

/** @throws {LinkError} where the message is too long, or is no object with a type. */
export function controlFrames(message: ControlMessage): FrameFields[] {
  const json = isControlMessage(message) ? JSON.stringify(message) : undefined;
  if (json === undefined)
    throw new LinkError(`sendControl: expected an object with a string "type", got ${typeof message}`, "closed");
  const bytes = new TextEncoder().encode(json);
  if (bytes.byteLength > MAX_CONTROL_BYTES)
    throw new LinkError(
      `sendControl: expected at most ${MAX_CONTROL_BYTES} bytes of JSON, got ${bytes.byteLength} ("${message.type}")`,
      "closed",
    );
  const frames: FrameFields[] = [];
  for (let begin = 0; begin < bytes.byteLength; begin += GRANULE_BYTES) {
    const end = Math.min(bytes.byteLength, begin + GRANULE_BYTES);
    frames.push({ type: FRAME.control, code: end === bytes.byteLength ? 1 : 0, payload: bytes.subarray(begin, end) });
  }
  return frames;
}

function isControlMessage(value: unknown): value is ControlMessage {
  return typeof value === "object" && value !== null && typeof (value as ControlMessage).type === "string";
}

/** Puts the frames of control messages together again. */
export class ControlAssembly {
  heldBytes = 0;
  private pieces: Uint8Array[] = [];

  /** @returns the message that this frame completes. @throws {Error} saying what is wrong with it. */
  add(frame: Frame): ControlMessage | undefined {
    if (this.heldBytes + frame.payload.byteLength > MAX_CONTROL_BYTES)
      throw new Error(`sent a control message of more than ${MAX_CONTROL_BYTES} bytes`);
    if (frame.payload.byteLength === 0) throw new Error("sent an empty control frame");
    this.pieces.push(frame.payload);
    this.heldBytes += frame.payload.byteLength;
    if (frame.code === 0) return undefined;
    const bytes = new Uint8Array(this.heldBytes);
    let at = 0;
    for (const piece of this.pieces) {
      bytes.set(piece, at);
      at += piece.byteLength;
    }
    this.clear();
    let value: unknown;
    try {
      value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    } catch {
      throw new Error(`sent a control message of ${bytes.byteLength} bytes that is no JSON`);
    }
    if (!isControlMessage(value)) throw new Error("sent a control message that is no object with a type");
    return value;
  }

  clear(): void {
    this.pieces = [];
    this.heldBytes = 0;
  }
}
