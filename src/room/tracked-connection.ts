/**
 * Knows every connection that trystero makes: its doors, the offers it keeps in reserve, what it would keep for minutes after
 * leaving. So they can be closed at once, and what comes in over a door stays within bounds.
 *
 * trystero keeps 20 offers in reserve from the first moment on. Here one starts to gather candidates only when it is asked for:
 * otherwise each page would bind dozens of sockets, and with a TURN server allocate there 20 times, for a room of two.
 */

/** `RTCPeerConnection`, the browser's or one that is like it. */
export type ConnectionConstructor = new (configuration?: RTCConfiguration) => RTCPeerConnection;

/**
 * A door carries the proof and, now and then, the session descriptions of its peer's lanes: a few dozen KB. trystero itself
 * sets no bound to what it collects, so one that sends more than this is closed.
 */
const MAX_DOOR_BYTES = 8 * 1024 * 1024;

/** A class of connections that are all known. */
export interface TrackedConnections {
  Connection: typeof RTCPeerConnection;
  /** Open ones: for tests of what is left over. */
  readonly openCount: number;
  closeAll(): void;
}

/** @param Base The class to track. */
export function trackConnections(Base: ConnectionConstructor): TrackedConnections {
  const open = new Set<RTCPeerConnection>();

  function watch(connection: RTCPeerConnection, channel: RTCDataChannel): void {
    let byteLength = 0;
    // A door lives as long as its channel; trystero forgets such a connection without closing it.
    channel.addEventListener("close", () => connection.close());
    channel.addEventListener("message", ({ data }: MessageEvent) => {
      byteLength += typeof data === "string" ? data.length : ((data as ArrayBuffer).byteLength ?? 0);
      if (byteLength <= MAX_DOOR_BYTES) return;
      connection.close();
      connection.dispatchEvent(new Event("connectionstatechange"));
    });
  }

  class TrackedConnection extends Base {
    /** Settles when the offer is wanted, or will not be any more. */
    #wanted: Promise<void>;
    #want = () => {};
    /** trystero looks for a description once in the microtask after it has made an offer; that is no wish for it. */
    #isLookIgnored = false;
    #described: Promise<void> | undefined;

    constructor(configuration?: RTCConfiguration) {
      super(configuration);
      open.add(this);
      this.#wanted = new Promise((resolve) => (this.#want = resolve));
      queueMicrotask(() => {
        this.#isLookIgnored = true;
        queueMicrotask(() => (this.#isLookIgnored = false));
      });
      this.addEventListener("connectionstatechange", () => {
        if (this.connectionState === "closed") open.delete(this);
        if (this.connectionState === "failed") queueMicrotask(() => this.close());
      });
      this.addEventListener("datachannel", ({ channel }) => watch(this, channel));
    }
    override createDataChannel(label: string, init?: RTCDataChannelInit): RTCDataChannel {
      const channel = super.createDataChannel(label, init);
      watch(this, channel);
      return channel;
    }
    override get localDescription(): RTCSessionDescription | null {
      if (!this.#isLookIgnored) this.#want();
      return super.localDescription;
    }
    override async setLocalDescription(description?: RTCLocalSessionDescriptionInit): Promise<void> {
      // An offer that is taken back was made for someone who came by another way. It would gather for nobody from now on.
      if (description?.type === "rollback") return this.close();
      // An answer is wanted by nature, and so is a description that is named. Of the first offer, all askers await the same.
      const isReserve = description === undefined && this.signalingState === "stable" && !this.remoteDescription;
      if (isReserve) await this.#wanted;
      if (this.signalingState === "closed") return;
      if (!isReserve || !this.#described) this.#described = super.setLocalDescription(description);
      await this.#described;
    }
    override close(): void {
      open.delete(this);
      this.#want();
      super.close();
    }
  }

  return {
    Connection: TrackedConnection as unknown as typeof RTCPeerConnection,
    get openCount() {
      return open.size;
    },
    closeAll() {
      for (const connection of [...open]) connection.close();
    },
  };
}
