/** One HTTP connection at a time: tried again where that helps, watched for stalls, and read part by part. */
import { ModelSourceError } from "../errors.ts";

/** How files are fetched. */
export interface HttpOptions {
  /** Instead of the global fetch (tests, proxies). */
  fetch?: typeof fetch;
  headers?: Readonly<Record<string, string>>;
  /** Tries without progress before giving up. Default 5. */
  attempts?: number;
  /** Wait before the second try; doubles from try to try. Default 500 ms. */
  retryDelayMs?: number;
  /** A connection that sends nothing for this long counts as cut. Default 60,000 ms. */
  stallMs?: number;
}

/** Answers that another try may turn into good ones. */
const isTransient = (status: number): boolean => status === 408 || status === 425 || status === 429 || status >= 500;

/** Sleeps. Abort rejects with `signal.reason`. */
export const wait = (timeMs: number, signal?: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal!.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, timeMs);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });

/** Ends an attempt that stalls, and with it everything that hangs on its signal. */
export class Watchdog {
  private readonly controller = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;
  readonly signal: AbortSignal;

  constructor(
    private readonly stallMs: number,
    outer?: AbortSignal,
  ) {
    this.signal = outer ? AbortSignal.any([outer, this.controller.signal]) : this.controller.signal;
  }

  /** Something came: the clock starts anew. */
  reset(): void {
    clearTimeout(this.timer);
    const stalled = new ModelSourceError(`nothing came for ${this.stallMs / 1000} s`);
    this.timer = setTimeout(() => this.controller.abort(stalled), this.stallMs);
  }

  /** Ends the attempt now. */
  stop(reason: unknown): void {
    clearTimeout(this.timer);
    this.controller.abort(reason);
  }

  /** The attempt is over, or waits for us. */
  pause(): void {
    clearTimeout(this.timer);
  }
}

/** A body's parts, watched: a stall throws. */
export async function* bodyOf(response: Response, watchdog: Watchdog): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const reader = response.body!.getReader() as ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
  try {
    for (;;) {
      watchdog.reset();
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    watchdog.pause();
    reader.cancel().catch(() => {});
  }
}

/** Parts end to end. */
export function join(parts: readonly Uint8Array[], byteLength: number): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(byteLength);
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.byteLength;
  }
  return whole;
}

/**
 * An answer that is neither transient (408, 425, 429, 5xx) nor a network error; asks again, with growing waits, until there is one.
 * @throws {ModelSourceError} after the last try. Abort rejects with `signal.reason`.
 */
export async function request(
  url: string,
  headers: Readonly<Record<string, string>>,
  options: HttpOptions & { method?: "GET" | "HEAD" },
  watchdog: Watchdog,
  signal?: AbortSignal,
): Promise<Response> {
  const { attempts = 5, retryDelayMs = 500, method = "GET" } = options;
  for (let attempt = 1; ; attempt++) {
    let problem: string;
    let cause: unknown;
    try {
      signal?.throwIfAborted();
      watchdog.reset();
      const response = await (options.fetch ?? fetch)(url, {
        method,
        headers: { ...options.headers, ...headers },
        signal: watchdog.signal,
      });
      if (!isTransient(response.status)) return response;
      problem = `${response.status} ${response.statusText}`.trim();
      await response.body?.cancel().catch(() => {});
    } catch (error) {
      signal?.throwIfAborted();
      problem = (error as Error).message;
      cause = error;
      // A stalled attempt has used its watchdog up.
      if (watchdog.signal.aborted)
        throw new ModelSourceError(`${url}: expected an answer, got none (${problem})`, { cause });
    } finally {
      watchdog.pause();
    }
    if (attempt >= attempts)
      throw new ModelSourceError(`${url}: expected an answer, got ${problem} after ${attempts} tries`, { cause });
    await wait(retryDelayMs * 2 ** (attempt - 1), signal);
  }
}
