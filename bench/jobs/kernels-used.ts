/** Which kernel files an encoding runs: the report and the kernels' own headers say what was measured, not what was meant. */

/**
 * Runs `encode` and lists the `.wgsl` files of the kernels that it bound, in order of first use. Every bind group of a
 * dispatch carries its kernel's label, which begins with the file's name.
 */
export function kernelsUsed(device: GPUDevice, encode: (encoder: GPUCommandEncoder) => void): string[] {
  const files = new Set<string>();
  const prototype = Object.getPrototypeOf(device) as GPUDevice;
  const { createBindGroup } = prototype;
  // On the device itself: the other devices of this page or process stay as they are.
  device.createBindGroup = (descriptor) => {
    const file = /^[\w-]+\.wgsl/.exec(descriptor.label ?? "")?.[0];
    if (file) files.add(file);
    return createBindGroup.call(device, descriptor);
  };
  try {
    encode(device.createCommandEncoder({ label: "bench kernels used" }));
  } finally {
    delete (device as Partial<GPUDevice>).createBindGroup;
  }
  return [...files];
}
