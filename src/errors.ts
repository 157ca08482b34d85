/** Every error that Ringwise throws on purpose, by name. Messages say: function, what was expected, what came. */

/** Base class of all errors below: `error instanceof RingwiseError` tells ours from the platform's. */
export class RingwiseError extends Error {
  override name = "RingwiseError";
}

/** A shape, dtype, size or option that does not fit. */
export class ShapeError extends RingwiseError {
  override name = "ShapeError";
}

/** An option value or argument outside of what is allowed (not a shape). */
export class OptionError extends RingwiseError {
  override name = "OptionError";
}

/** This browser, adapter or device lacks something: WebGPU itself, a feature, or a limit. */
export class UnsupportedDeviceError extends RingwiseError {
  override name = "UnsupportedDeviceError";
}

/** A GPU buffer could not be had; names the bytes asked for and the limit. */
export class GpuMemoryError extends RingwiseError {
  override name = "GpuMemoryError";
  constructor(
    message: string,
    /** Bytes asked for. */
    readonly byteLength: number,
  ) {
    super(message);
  }
}

/** WGSL did not compile; the message shows file, line, column and the offending line. */
export class ShaderCompileError extends RingwiseError {
  override name = "ShaderCompileError";
}

/** The GPUDevice was lost (driver reset, tab throttled, `device.destroy()`). */
export class DeviceLostError extends RingwiseError {
  override name = "DeviceLostError";
}

/** A destroyed object was used. */
export class DestroyedError extends RingwiseError {
  override name = "DestroyedError";
}

/** A model's configuration asks for something that is not supported; thrown before any weight is read. */
export class UnsupportedModelError extends RingwiseError {
  override name = "UnsupportedModelError";
}

/** A model file (config, safetensors, index, tokenizer) is broken, incomplete or contradicts itself. */
export class ModelFormatError extends RingwiseError {
  override name = "ModelFormatError";
}

/** A file of a model could not be fetched or read whole. */
export class ModelSourceError extends RingwiseError {
  override name = "ModelSourceError";
}

/** A link between two peers: closed, its epoch over, or what came over it breaks the protocol. */
export class LinkError extends RingwiseError {
  override name = "LinkError";
  constructor(
    message: string,
    /** closed: the other end is gone; epoch: the ring was planned anew meanwhile; violation: the other end broke the protocol. */
    readonly why: "closed" | "epoch" | "violation",
  ) {
    super(message);
  }
}

/** A ring of peers cannot go on: nobody leads it, nobody is left, a peer was turned away or sent away. */
export class PeerError extends RingwiseError {
  override name = "PeerError";
}

/** A room could not be made or joined: a broken invitation, no signalling, a wrong secret. */
export class RoomError extends RingwiseError {
  override name = "RoomError";
}
