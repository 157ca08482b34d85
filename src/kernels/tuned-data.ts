/** Written by `ringwise tune --write`, never by hand: the fastest candidate of each class of shapes on adapters measured so far. */
import type { ShippedAdapter } from "./tuned-record.ts";

/** See {@link ShippedAdapter}. */
export const SHIPPED: readonly ShippedAdapter[] = [];
