/** The loss of a device as a signal: one listener on `device.lost`, however many wait for it, so that none is kept alive. */
import { DeviceLostError } from "../errors.ts";

const signals = new WeakMap<GPUDevice, AbortSignal>();

/**
 * Aborts, with a {@link DeviceLostError} as its reason, when the device is lost. One signal per device: combine it with
 * others by `AbortSignal.any`, which holds what is made from it weakly.
 */
export function lossSignal(device: GPUDevice): AbortSignal {
  let signal = signals.get(device);
  if (!signal) {
    const controller = new AbortController();
    signal = controller.signal;
    signals.set(device, signal);
    device.lost.then(({ reason, message }) =>
      controller.abort(
        new DeviceLostError(
          `the GPU device was lost (${reason ?? "unknown"}): ${message || "no further message"} Request a new device and load the model again.`,
        ),
      ),
    );
  }
  return signal;
}

/**
 * What to throw for a failure: the device's loss where that is the cause (the platform's own errors arrive a moment before
 * `device.lost` does), else the failure itself.
 */
export async function explainFailure(device: GPUDevice, error: unknown): Promise<unknown> {
  const signal = lossSignal(device);
  if (!signal.aborted) {
    const moment = new Promise<undefined>((resolve) => setTimeout(resolve, 50));
    await Promise.race([device.lost, moment]);
  }
  return signal.aborted ? signal.reason : error;
}
